"""Reads of all that a learner has: priced by what is read, and with memory set aside while the answer is written."""

from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

from playhead.server.limits.answer_memory import Account
from playhead.storage.store import KEPT_BYTES, RECORD_BYTES, Changes, Damaged

C = TypeVar("C", bound=Changes | Damaged)
RECORDS_A_REQUEST = 500
"""Records that are looked at for the price of one request more; so a learner with fewer notices nothing."""
BYTES_A_REQUEST = 262_144
"""The same of stored values, of which some are a hundred times as large as others."""


class LargeRead:
    """One read, until the block ends.

    Args:
        account: what it holds in memory.
        charge: pays for so many requests; raises PeerError where the payer can't.
        owe: the same, and never refuses.
        shown_bytes: most of the answer that is in memory together.
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
        """The answer is written, or never will be."""
        self._account.hold(0)

    def admit(self, records: int) -> None:
        """For `Store.changes`: so many are about to be looked at.

        Raises:
            TooFast: more than the payer may read, or have unread.
            Busy: more than all may have unread.
        """
        refusal = self._account.grow(KEPT_BYTES + records * RECORD_BYTES + self._shown_bytes)
        if refusal is not None:
            raise refusal
        if self._charge is not None:
            self._charge(records / RECORDS_A_REQUEST)

    def found(self, changes: C) -> C:
        """They are read: the next request pays for their bytes."""
        if self._owe is not None and isinstance(changes, Changes) and changes.stored_bytes > BYTES_A_REQUEST:
            self._owe(changes.stored_bytes / BYTES_A_REQUEST)
        return changes
