"""One at a time for each learner: what is large comes in turn, so that a learner's memory and time are those of one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playhead.server.limits.rates import TooFast

PATIENCE_S = 10.0
"""Longest wait for a turn."""
RETRY_AFTER_S = 2.0


class UserLocks:
    """Those of one process, by userId."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._waiting: dict[str, tuple[asyncio.Lock, int]] = {}
        """The lock of each learner with a turn, and how many hold it or wait for it."""

    @asynccontextmanager
    async def hold(self, user_id: str) -> AsyncIterator[None]:
        """Wait for the learner's turn, and keep it for the block.

        Raises:
            TooFast: it did not come in time.
        """
        lock, count = self._waiting.get(user_id) or (asyncio.Lock(), 0)
        self._waiting[user_id] = lock, count + 1
        try:
            try:
                async with asyncio.timeout(self._patience_s):
                    await lock.acquire()
            except TimeoutError:
                raise TooFast("earlier requests of this learner are not answered yet", RETRY_AFTER_S) from None
            try:
                yield
            finally:
                lock.release()
        finally:
            _, count = self._waiting.pop(user_id)
            if count > 1:
                self._waiting[user_id] = lock, count - 1

    def __len__(self) -> int:
        """Learners with a turn."""
        return len(self._waiting)
