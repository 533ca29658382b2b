"""Reads of the changes that devices lack, and the background tasks that do them."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from playhead.server.clock import Clock
from playhead.server.limits.large_reads import LargeRead
from playhead.server.push.device import Device
from playhead.storage.store import Changes, Damaged, Store, StoreUnavailable

READS_AT_ONCE = 16
"""The number of devices for which changes are read at the same time."""


class ChangeReader:
    """Reads changes for the devices of one process."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self.slots = asyncio.Semaphore(READS_AT_ONCE)
        """Limits concurrent background reads."""
        self._tasks: asyncio.TaskGroup | None = None
        self._stopped = False

    def now(self) -> int:
        """ms since 1970."""
        return self._clock().wall

    async def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` and whatever is started, forever; cancel it to stop."""
        async with asyncio.TaskGroup() as self._tasks:
            try:
                await work
            finally:
                self._stopped = True

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work` in the background."""
        assert self._tasks is not None  # noqa: S101 devices enter only while `run` runs
        if self._stopped:
            work.close()
        else:
            self._tasks.create_task(work)

    async def missing(self, device: Device, read: LargeRead) -> Changes | Damaged:
        """Read the changes that the device lacks.

        Raises:
            StoreUnavailable: the store does not answer, or has lost what the device was sent.
            PeerError: `read` is refused.
        """
        async with self.slots:
            device.missed = 0  # every change that was pushed so far is in the store's answer
            had, epoch = device.rev, self._store.known_epoch
            changes = await self._store.changes(device.user_id, had, epoch, read.admit)
        if isinstance(changes, Changes):
            if changes.epoch != self._store.known_epoch:
                self._store.learn_epoch(changes.epoch)  # disconnects every device
                raise StoreUnavailable("the store has another epoch")
            if changes.rev < had:
                raise StoreUnavailable("the store was rolled back to an earlier state")
        return changes
