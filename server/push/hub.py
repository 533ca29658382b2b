"""The connected devices of one process: who they are, and which changes reach them.

Changes come from two sides: from the batches that this process commits, and from the events that other processes
publish through the store.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from playhead.protocol.record import Record
from playhead.server.clock import Clock
from playhead.server.push.change_reader import ChangeReader
from playhead.server.push.device import Device
from playhead.server.push.learner import Learner
from playhead.server.push.progress_frames import send_changes
from playhead.storage.store import (
    Batch,
    Changes,
    Committed,
    Damaged,
    EndingsMissed,
    EpochChanged,
    Event,
    Key,
    Lane,
    RecordsChanged,
    RecordsMissed,
    Reporter,
    SessionsEnded,
    Store,
    StoreUnavailable,
    Subscribed,
)

logger = logging.getLogger(__name__)

AT_ONCE = 200
"""Learners and records that changes are pushed for without a break."""


class Hub:
    """The connected devices of one process, by learner."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._events = store.events(self._on_event)
        self._reader = ChangeReader(store, clock)
        self._learners: dict[str, Learner] = {}
        """By userId. Each is subscribed to, or about to be."""

    @property
    def resubscriptions(self) -> int:
        """How often subscriptions were lost, or could not be made."""
        return self._events.resubscriptions

    async def lanes(self) -> list[Lane]:
        """Whether a device that connected now could be served. Raises StoreUnavailable."""
        return await self._events.lanes()

    def subscribed(self, user_id: str) -> bool:
        """Whether the store sends this process what others publish about the learner."""
        return self._events.is_following(user_id)

    def needs_value(self, user_id: str, reporters: list[Reporter]) -> bool:
        """Whether the records that these reporters changed are needed: a device gets no echo of its changes."""
        learner = self._learners.get(user_id)
        return learner is None or len(learner.devices) != 1 or not _is_only(learner.devices[0], reporters)

    async def run(self) -> None:
        """Receive events forever; cancel it to stop."""
        await self._reader.run(self._events.run())

    # Devices

    async def enter(
        self, device: Device, since: int | None, epoch: str | None, admit: Callable[[int], None]
    ) -> Changes | Damaged:
        """Add a device and read the changes that it lacks. The caller sends these, and calls `follow`.

        Args:
            admit: as of `Store.changes`.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        user_id = device.user_id
        learner = self._learners.get(user_id)
        if learner is None:
            learner = self._learners[user_id] = Learner(user_id, self._reader)
        learner.add(device)
        await self._events.follow(user_id)
        device.missed = 0  # from here on the subscription misses nothing
        return await self._store.changes(user_id, since, epoch, admit)

    async def changes(self, device: Device, since: int, admit: Callable[[int], None]) -> Changes | Damaged:
        """Read the changes after `since`, for a device that asks; the other arguments are those of `enter`."""
        if device.missed is None:
            device.missed = 0
        return await self._store.changes(device.user_id, since, admit=admit)

    async def send(self, device: Device, changes: Changes) -> None:
        """Send the device changes. Raises StoreUnavailable: some of them can't be read."""
        await send_changes(device, changes, self._clock().wall)

    def follow(self, device: Device, rev: int) -> None:
        """Push changes to the device from now on: it has been sent every change up to `rev`."""
        if (learner := self._learners.get(device.user_id)) is not None:
            learner.follow(device, rev)

    def leave(self, device: Device) -> None:
        """Forget a device. Its learner is kept for a while: a page that reloads is back at once."""
        learner = self._learners.get(device.user_id)
        if learner is None or device not in learner.devices:
            return
        learner.devices.remove(device)
        if not learner.devices:
            # Longer than any commit lasts that took this process for subscribed.
            delay_s = 2 * self._store.timeout_s
            learner.expiry = asyncio.get_running_loop().call_later(delay_s, self._forget, learner)

    def _forget(self, learner: Learner) -> None:
        del self._learners[learner.user_id]
        self._events.unfollow(learner.user_id)

    # Changes of this process

    async def committed(self, batch: Batch, committed: Committed) -> None:
        """Push the changes of a batch to the devices that did not report them."""
        changed: dict[str, list[Key]] = {}
        for key in batch.deltas:
            if key[0] in self._learners:
                changed.setdefault(key[0], []).append(key)
        done = 0
        for user_id, keys in changed.items():
            learner = self._learners.get(user_id)
            if learner is None:
                continue
            before, rev = committed.revs[user_id]
            is_large = learner.is_large(len(keys))
            for device in learner.devices:
                others = [key for key in keys if not _is_only(device, batch.deltas[key].reporters)]
                records = None if is_large and others else _records(committed, others)
                learner.push_to(device, before, rev, records)
            done += len(learner.devices) if is_large else 1 + len(keys) * len(learner.devices)
            if done >= AT_ONCE:
                await asyncio.sleep(0)
                done = 0

    # Events of other processes

    def _on_event(self, event: Event) -> None:
        match event:
            case RecordsChanged(user_id, before, rev, records):
                if (learner := self._learners.get(user_id)) is not None:
                    learner.push(before, rev, records)
            case RecordsMissed(user_id):
                self._catch_up(user_id)
            case Subscribed(user_id, again):
                if again:
                    self._reader.start(self._announce(user_id))
                self._catch_up(user_id)
            case SessionsEnded(user_id):
                self._end_sessions(user_id)
            case EndingsMissed():
                self._reader.start(self._end_missed())
            case EpochChanged():
                self._restart_all()

    def _catch_up(self, user_id: str) -> None:
        if (learner := self._learners.get(user_id)) is not None:
            learner.catch_up_all()

    async def _announce(self, user_id: str) -> None:
        """Have other processes read the learner's changes that this one may not have published."""
        with contextlib.suppress(StoreUnavailable):  # then the subscriptions are lost too, and this is done again
            async with self._reader.slots:
                await self._events.announce(user_id)

    def _end_sessions(self, user_id: str, at: int | None = None) -> None:
        if (learner := self._learners.get(user_id)) is not None:
            learner.end_sessions(at)

    async def _end_missed(self) -> None:
        """End the sessions that were ended while this process was not subscribed."""
        with contextlib.suppress(StoreUnavailable):  # then the subscriptions are lost too, and this is done again
            for user_id, at in await self._store.ended_sessions(self._clock().wall):
                self._end_sessions(user_id, at)

    def _restart_all(self) -> None:
        """Restart every device: the store has lost its data, so they resync and send again what was not acked."""
        logger.error("The store's epoch has changed: it lost data or was replaced; every device reconnects")
        for learner in self._learners.values():
            for device in learner.devices:
                device.restart()


def _records(committed: Committed, keys: list[Key]) -> list[tuple[str, Record]] | None:
    """(videoId, record) of these, without damaged ones; None where not all were read: a device has connected since."""
    if not committed.results.keys() >= set(keys):
        return None
    found = [(key[1], committed.record(key)) for key in keys]
    return [(video_id, record) for video_id, record in found if not isinstance(record, Damaged)]


def _is_only(device: object, reporters: list[Reporter]) -> bool:
    """Whether the device is the only reporter of a change; then the change is not sent back to it."""
    return len(reporters) == 1 and reporters[0] is device
