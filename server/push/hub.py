"""Who is connected, and what concerns them: what this process commits, and what others say on the store's channels."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from playhead.protocol.errors import PeerError, Problem
from playhead.protocol.record import Record
from playhead.protocol.scalars import MAX_SEQ
from playhead.server.clock import Clock
from playhead.server.push.pushes import Channel, Pushes
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
    Origin,
    RecordsChanged,
    RecordsMissed,
    SessionsEnded,
    Store,
    StoreUnavailable,
    Subscribed,
)

logger = logging.getLogger(__name__)

MOST_TOLD = 200
"""Records that all devices of a user are told of at once. Of more, each reads what it lacks, page by page."""
AT_ONCE = 200
"""Users and records that are told of without a break."""


class Hub:
    """The connected devices of one process, by learner."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._events = store.events(self._on_event)
        self.pushes = Pushes(store, clock, self._start, self._events.announce)
        self._rooms: dict[str, dict[Channel, None]] = {}
        self._idle: dict[str, float] = {}
        """Users whose last device has left, and when: a page that reloads is back at once."""
        self._tasks: asyncio.TaskGroup | None = None
        self._ending = False

    @property
    def resubscriptions(self) -> int:
        """How often the channels were lost, or could not be had."""
        return self._events.resubscriptions

    async def lanes(self) -> list[Lane]:
        """Whether a device that came now would be taken. Raises StoreUnavailable."""
        return await self._events.lanes()

    def subscribed(self, user_id: str) -> bool:
        """Whether this process listens to the user's channel in the store."""
        return self._events.is_following(user_id)

    def wanted(self, user_id: str, origins: list[Origin]) -> bool:
        """Whether anybody here will read what these have reported: another device of the user, or a request."""
        room = self._rooms.get(user_id)
        return not room or len(room) > 1 or not _only(next(iter(room)), origins)

    async def enter(
        self, channel: Channel, since: int | None, epoch: str | None, admit: Callable[[int], None]
    ) -> Changes | Damaged:
        """Add a device and read what it lacks. The caller tells it, and calls `pushes.follow`.

        Args:
            admit: as of `Store.changes`.

        Raises:
            StoreUnavailable: the store doesn't answer.
        """
        user_id = channel.user_id
        channel.ready = False
        self._rooms.setdefault(user_id, {})[channel] = None
        self._idle.pop(user_id, None)
        await self._events.follow(user_id)
        channel.missed = 0
        return await self._store.changes(user_id, since, epoch, admit)

    def leave(self, channel: Channel) -> None:
        """Forget a device."""
        room = self._rooms.get(channel.user_id)
        if room is None or channel not in room:
            return
        del room[channel]
        if not room:
            del self._rooms[channel.user_id]
            self._idle[channel.user_id] = asyncio.get_running_loop().time()

    async def committed(self, batch: Batch, committed: Committed) -> None:
        """Push what a batch changed to the devices that don't know it from themselves."""
        changed: dict[str, list[tuple[str, str]]] = {}
        for key in batch.deltas:
            if key[0] in self._rooms:
                changed.setdefault(key[0], []).append(key)
        done = 0
        for user_id, keys in changed.items():
            room = list(self._rooms.get(user_id, ()))
            few = len(keys) * len(room) <= MOST_TOLD
            before, rev = committed.revs[user_id]
            for channel in room:
                others = [key for key in keys if not _only(channel, batch.deltas[key].origins)]
                self.pushes.push(channel, before, rev, _news(committed, others) if few or not others else None)
            done += 1 + len(keys) * len(room) if few else len(room)
            if done >= AT_ONCE:
                await asyncio.sleep(0)
                done = 0

    async def run(self) -> None:
        """Listen to what other processes commit, for ever; cancel it to stop."""
        async with asyncio.TaskGroup() as self._tasks:
            self._tasks.create_task(self._events.run())
            try:
                while True:
                    await asyncio.sleep(self._store.timeout_s)
                    self._drop_idle()
            finally:
                self._ending = True

    def _drop_idle(self) -> None:
        """Unsubscribe from who has been gone a while: longer than any commit that took us for subscribed may last."""
        long_ago = asyncio.get_running_loop().time() - 2 * self._store.timeout_s
        for user_id in [user_id for user_id, since in self._idle.items() if since < long_ago]:
            del self._idle[user_id]
            self._events.unfollow(user_id)

    def _on_event(self, event: Event) -> None:
        """Handle what another process has published."""
        match event:
            case RecordsChanged(user_id, before, rev, records):
                room = list(self._rooms.get(user_id, ()))
                news = records if len(records) * len(room) <= MOST_TOLD else None
                for channel in room:
                    self.pushes.push(channel, before, rev, news)
            case RecordsMissed(user_id):
                self._read_again(user_id)
            case Subscribed(user_id, again):
                if again:
                    self._start(self.pushes.announce(user_id))
                self._read_again(user_id)
            case SessionsEnded(user_id):
                self._end_sessions(user_id)
            case EndingsMissed():
                self._start(self._end_missed())
            case EpochChanged():
                self._restart_all()

    def _end_sessions(self, user_id: str, at: int | None = None) -> None:
        """An operator has just ended all sessions of this user; or, at `at`, all that there were.

        One that came later than now came before the clock was set back: before what ended here, for all that is known.
        """
        now = self._clock().wall
        for channel in list(self._rooms.get(user_id, ())):
            if at is None or channel.since <= at or channel.since > now:
                channel.refuse(PeerError(Problem.ENDED, "an operator has ended all sessions of this user"))

    async def _end_missed(self) -> None:
        """What was ended while this process could not hear it."""
        with contextlib.suppress(StoreUnavailable):  # then the channels are lost too, and this comes again
            for user_id, at in await self._store.ended_sessions(self._clock().wall):
                self._end_sessions(user_id, at)

    def _read_again(self, user_id: str) -> None:
        """Bring the user's devices what they may lack."""
        for channel in self._rooms.get(user_id, ()):
            if channel.ready:
                self.pushes.catch_up(channel)
            else:
                channel.missed = MAX_SEQ

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        assert self._tasks is not None  # noqa: S101 channels enter only while `run` runs
        if self._ending:
            work.close()
        else:
            self._tasks.create_task(work)

    def _restart_all(self) -> None:
        """Restart every device: the store has lost its data, so they resync and send again what was not acked."""
        logger.error("The store's epoch has changed: it lost data or was replaced; every device reconnects")
        for room in list(self._rooms.values()):
            for channel in list(room):
                channel.restart()


def _news(committed: Committed, keys: list[Key]) -> list[tuple[str, Record]] | None:
    """(videoId, record) of these, but for damaged ones; None where not all were wanted: the device has come since."""
    if not committed.results.keys() >= set(keys):
        return None
    found = [(key[1], committed.record(key)) for key in keys]
    return [(video_id, record) for video_id, record in found if not isinstance(record, Damaged)]


def _only(channel: object, origins: list[Origin]) -> bool:
    """Whether the device itself, and nobody else, reported the change: it gets no echo."""
    return len(origins) == 1 and origins[0] is channel
