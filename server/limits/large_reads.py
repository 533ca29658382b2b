"""Reads of all records of a learner: charged by their size, with memory reserved until the answer is written."""

from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

from playhead.server.limits.answer_memory import Account
from playhead.storage.store import KEPT_BYTES, RECORD_BYTES, Changes, Damaged

C = TypeVar("C", bound=Changes | Damaged)
RECORDS_A_REQUEST = 500
"""This many records cost as much as one more request, so learners with fewer are not affected."""
BYTES_A_REQUEST = 262_144
"""The same for the size of stored values, some of which are a hundred times as large as others."""


class LargeRead:
    """Context manager for one large read and its answer; leaving it releases the reserved memory.

    Args:
        account: the memory reserved.
        charge: charges the payer for a number of requests; raises PeerError if they are used up.
        owe: charges without refusing, so that the payer's next requests wait.
        shown_bytes: the largest part of the answer that is in memory at one time.
    """

    def __init__(
        self,
        account: Account,
        charge: Callable[[float], None] | None = None,
        owe: Callable[[float], None] | None = None,
        shown_bytes: int = 0,
    ) -> None:
        self._account = account
        self._charge = charge
        self._owe = owe
        self._shown_bytes = shown_bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the memory, because the answer has been written or abandoned."""
        self._account.hold(0)

    def admit(self, records: int) -> None:
        """Reserve memory for, and charge for, a number of records. `Store.changes` calls it before it reads them.

        Raises:
            TooFast: the payer's requests, or their share of memory, are used up.
            Busy: the memory of the process is used up.
        """
        refusal = self._account.grow(KEPT_BYTES + records * RECORD_BYTES + self._shown_bytes)
        if refusal is not None:
            raise refusal
        if self._charge is not None:
            self._charge(records / RECORDS_A_REQUEST)

    def found(self, changes: C) -> C:
        """Charge for the size of the values read, once it is known; the payer's next requests wait for it."""
        if self._owe is not None and isinstance(changes, Changes) and changes.stored_bytes > BYTES_A_REQUEST:
            self._owe(changes.stored_bytes / BYTES_A_REQUEST)
        return changes
