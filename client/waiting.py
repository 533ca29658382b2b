"""Waiters for reports to be stored, and how each of them ends."""

import asyncio
import logging
from collections import deque
from dataclasses import dataclass

from playhead.client.errors import ClientError, Rejected
from playhead.client.outbox import Outbox, Settled
from playhead.protocol.messages import Ack

logger = logging.getLogger(__name__)

MAX_REJECTED = 100
"""The newest rejections of reports without a waiter are kept, up to this number."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """A report is stored.

    Attributes:
        capped: stored in part, because it reported more than its time allows or a record can hold.
    """

    capped: bool


class Waiting:
    """The waiters for reports in an outbox."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self.rejected: deque[Rejected] = deque(maxlen=MAX_REJECTED)
        self._stored: dict[int, list[asyncio.Future[Receipt]]] = {}
        self._flushes: list[tuple[int, asyncio.Future[None]]] = []
        """Each with the last entry that it waits for."""

    async def stored(self, key: int) -> Receipt:
        """Wait until an entry is stored. Raises Rejected, or the error that ended the client."""
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self._stored.setdefault(key, []).append(future)
        return await future

    async def flushed(self) -> None:
        """Wait until everything in the outbox is settled. Raises the error that ended the client."""
        if len(self._outbox):
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._flushes.append((self._outbox.last_key, future))
            await future

    def settle(self, ack: Ack) -> bool:
        """Settle entries and wake their waiters. Returns whether the ack settled any."""
        settled = self._outbox.acked(ack)
        for each in settled:
            self._wake(each)
        oldest = self._outbox.oldest_key
        due = [future for last, future in self._flushes if oldest is None or oldest > last]
        self._flushes = [(last, future) for last, future in self._flushes if oldest is not None and oldest <= last]
        for future in due:
            if not future.done():
                future.set_result(None)
        return bool(settled)

    def _wake(self, settled: Settled) -> None:
        futures = [future for future in self._stored.pop(settled.entry.key, []) if not future.done()]
        if settled.rejection is None:
            for future in futures:
                future.set_result(Receipt(settled.capped))
            return
        rejection = settled.rejection
        error = Rejected(rejection.code, rejection.detail, settled.entry.beat.video_id)
        for future in futures:
            future.set_exception(error)
        if not futures:
            logger.warning("A report was rejected and will not be stored: %s", error)
            self.rejected.append(error)

    def fail(self, error: ClientError) -> None:
        """Raise an error in every waiter."""
        futures: list[asyncio.Future[Receipt] | asyncio.Future[None]] = [future for _, future in self._flushes]
        futures += [future for waiting in self._stored.values() for future in waiting]
        for future in futures:
            if not future.done():
                future.set_exception(error)
        self._stored.clear()
        self._flushes.clear()
