"""A lock for each learner: their large requests run one at a time, so each learner uses the memory and time of one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playhead.server.limits.rates import TooFast

PATIENCE_S = 10.0
"""Longest wait for the lock."""
RETRY_AFTER_S = 2.0


class UserLocks:
    """The locks of one process, by userId."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._waiting: dict[str, tuple[asyncio.Lock, int]] = {}
        """Each learner's lock, and how many requests hold it or wait for it; dropped with the last of them."""

    @asynccontextmanager
    async def hold(self, user_id: str) -> AsyncIterator[None]:
        """Hold the learner's lock during the block.

        Raises:
            TooFast: the lock was not free in time.
        """
        lock, count = self._waiting.get(user_id) or (asyncio.Lock(), 0)
        self._waiting[user_id] = lock, count + 1
        try:
            try:
                async with asyncio.timeout(self._patience_s):
                    await lock.acquire()
            except TimeoutError:
                raise TooFast("earlier requests of this learner are still running", RETRY_AFTER_S) from None
            try:
                yield
            finally:
                lock.release()
        finally:
            _, count = self._waiting.pop(user_id)
            if count > 1:
                self._waiting[user_id] = lock, count - 1

    def __len__(self) -> int:
        """The number of learners whose lock is held or waited for."""
        return len(self._waiting)
