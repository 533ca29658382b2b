"""Who is connected, and what they have been told: pushes of a learner's changes to their other devices.

Invariant: a channel that is told "you have everything up to rev" has it. Every push says which revisions it spans;
where one does not follow on what the channel has (a message lost or overtaken, a subscription broken), the hub reads
what is missing from the store instead. So delivery by the store's publish/subscribe may fail and nothing is missed.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Coroutine, Iterable
from typing import Any, Protocol

import msgpack
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from protocol.messages import PAGE, Message, Progress
from protocol.record import Record
from protocol.rest import record_view
from protocol.scalars import MAX_SEQ
from storage.packing import unpack_record
from storage.pending import Batch, Committed, Origin
from storage.store import Changes, Store, StoreUnavailable

logger = logging.getLogger(__name__)

RECONNECT_MIN_S = 0.05
RECONNECT_MAX_S = 2.0


class Channel(Protocol):
    """One device's connection, as far as the hub knows it."""

    user_id: str
    rev: int
    """Everything up to here has been told."""
    ready: bool
    """False while changes are being read for it; pushes then only raise `missed`."""
    missed: int

    def tell(self, message: Message) -> None:
        """Queue a message; never blocks."""
        ...

    def restart(self, reason: str) -> None:
        """Say goodbye and close: come back, and send again what was never acked."""
        ...


class Hub:
    """The connected devices of one process, by learner."""

    def __init__(self, store: Store, epoch: str) -> None:
        self._store = store
        self._epoch = epoch
        self._rooms: dict[str, dict[Channel, None]] = {}
        self._by_key: dict[str, str] = {}
        self._confirmed: dict[str, asyncio.Event] = {}
        self._followed: set[str] = set()
        """Users whose subscription was confirmed at least once."""
        self._pubsub: PubSub | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._ending = False
        self._delay_s = RECONNECT_MIN_S

    def subscribed(self, user_id: str) -> bool:
        """Whether this process listens to the user's channel in the store."""
        event = self._confirmed.get(user_id)
        return event is not None and event.is_set()

    async def enter(self, channel: Channel, since: int | None, epoch: str | None) -> Changes:
        """Add a device and read what it lacks. The caller tells it, without an await between, and calls `follow`.

        Raises:
            StoreUnavailable: the store doesn't answer.
        """
        user_id = channel.user_id
        channel.ready = False
        self._rooms.setdefault(user_id, {})[channel] = None
        await self._subscribe(user_id)
        channel.missed = 0
        return await self._store.changes(user_id, since, epoch)

    def follow(self, channel: Channel, rev: int) -> None:
        """The device has everything up to `rev`; from now on it is told what changes."""
        behind = max(channel.missed, channel.rev) > rev
        channel.rev = rev
        if behind:
            self._catch_up(channel)
        else:
            channel.ready = True

    async def leave(self, channel: Channel) -> None:
        """Forget a device."""
        room = self._rooms.get(channel.user_id)
        if room is None or channel not in room:
            return
        del room[channel]
        if not room:
            del self._rooms[channel.user_id]
            self._confirmed.pop(channel.user_id, None)
            self._followed.discard(channel.user_id)
            key = self._store.keys.push(channel.user_id)
            self._by_key.pop(key, None)
            if self._pubsub is not None:
                with contextlib.suppress(RedisError, OSError):
                    await self._pubsub.unsubscribe(key)

    def committed(self, batch: Batch, committed: Committed) -> None:
        """Push what a batch changed to the devices that don't know it from themselves."""
        if committed.epoch != self._epoch:
            self._new_epoch(committed.epoch)
            return
        changed: dict[str, list[tuple[str, str]]] = {}
        for key in batch.deltas:
            if key[0] in self._rooms:
                changed.setdefault(key[0], []).append(key)
        for user_id, keys in changed.items():
            before, rev = committed.revs[user_id]
            for channel in list(self._rooms[user_id]):
                news = [
                    (key[1], committed.results[key].value)
                    for key in keys
                    if not _only(channel, batch.deltas[key].origins) and committed.results[key].value
                ]
                self._push(channel, before, rev, news)

    async def run(self) -> None:
        """Listen to what other processes commit, for ever; cancel it to stop."""
        async with asyncio.TaskGroup() as self._tasks:
            try:
                await self._listen_for_ever()
            finally:
                self._ending = True

    async def _listen_for_ever(self) -> None:
        while True:
            try:
                async with self._store.redis.pubsub() as self._pubsub:
                    await self._listen(self._pubsub)
            except (RedisError, OSError) as error:
                logger.warning("Lost the store's channels, subscribing again: %s", error)
            finally:
                self._pubsub = None
            for event in self._confirmed.values():
                event.clear()
            await asyncio.sleep(self._delay_s * random.uniform(0.5, 1.0))  # noqa: S311 jitter, not a secret
            self._delay_s = min(RECONNECT_MAX_S, self._delay_s * 2)

    async def _listen(self, pubsub: PubSub) -> None:
        await pubsub.subscribe(self._store.catalogue.channel, self._store.keys.epoch)
        for user_id in list(self._rooms):
            await pubsub.subscribe(self._store.keys.push(user_id))
        async for message in pubsub.listen():
            channel = message["channel"].decode()
            if channel == self._store.catalogue.channel:
                if message["type"] == "message":
                    self._store.catalogue.forget(message["data"].decode())
            elif channel == self._store.keys.epoch:
                if message["type"] == "message" and (epoch := message["data"].decode()) != self._epoch:
                    self._new_epoch(epoch)
            elif (listener := self._by_key.get(channel)) is None:
                continue
            elif message["type"] == "subscribe":
                self._confirm(listener)
            elif message["type"] == "message":
                self._remote(listener, message["data"])

    async def _subscribe(self, user_id: str) -> None:
        event = self._confirmed.get(user_id)
        if event is None:
            event = self._confirmed[user_id] = asyncio.Event()
            key = self._store.keys.push(user_id)
            self._by_key[key] = user_id
            try:
                if self._pubsub is not None:
                    await self._pubsub.subscribe(key)
            except (RedisError, OSError) as error:
                raise StoreUnavailable(str(error)) from error
        try:
            async with asyncio.timeout(self._store.timeout_s):
                await event.wait()
        except TimeoutError:
            raise StoreUnavailable("the store confirms no subscription") from None

    def _confirm(self, user_id: str) -> None:
        """Subscribed, perhaps anew: what was published in between is lost, so ask for it.

        And what this process committed then, taking itself for subscribed, may not have been published.
        """
        event = self._confirmed.get(user_id)
        if event is None:
            return
        event.set()
        if user_id in self._followed:
            self._start(self._announce(user_id))
        self._followed.add(user_id)
        self._delay_s = RECONNECT_MIN_S
        for channel in self._rooms.get(user_id, ()):
            if channel.ready:
                self._catch_up(channel)
            else:
                channel.missed = MAX_SEQ

    def _remote(self, user_id: str, data: bytes) -> None:
        worker, before, rev, records = msgpack.unpackb(data, raw=True)
        if worker.decode() == self._store.worker:
            return
        news = [(video_id.decode(), value) for video_id, value in records]
        for channel in list(self._rooms.get(user_id, ())):
            self._push(channel, before, rev, news)

    def _push(self, channel: Channel, before: int, rev: int, news: Iterable[tuple[str, bytes]]) -> None:
        if not channel.ready:
            channel.missed = max(channel.missed, rev)
        elif rev <= channel.rev:
            return
        elif before > channel.rev:
            self._catch_up(channel)
        else:
            records = [(video_id, unpack_record(value)) for video_id, value in news]
            fresh = [(video_id, record) for video_id, record in records if record.rev > channel.rev]
            channel.rev = rev
            tell_changes(channel, fresh, rev)

    def _catch_up(self, channel: Channel) -> None:
        channel.ready = False
        self._start(self._read_for(channel))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        assert self._tasks is not None  # noqa: S101 channels enter only while `run` runs
        if self._ending:
            work.close()
        else:
            self._tasks.create_task(work)

    async def _announce(self, user_id: str) -> None:
        with contextlib.suppress(StoreUnavailable):  # then the channels are lost too, and this comes again
            await self._store.announce(user_id)

    async def _read_for(self, channel: Channel) -> None:
        channel.missed = 0
        try:
            changes = await self._store.changes(channel.user_id, channel.rev, self._epoch)
        except StoreUnavailable as error:
            channel.restart(str(error))
            return
        if changes.epoch != self._epoch:
            self._new_epoch(changes.epoch)
        elif changes.rev >= channel.rev:  # else a `sync` of the device has overtaken this, and follows on by itself
            tell_changes(channel, changes.records, changes.rev)
            self.follow(channel, changes.rev)

    def _new_epoch(self, epoch: str) -> None:
        """The store has lost its data: every device comes back, resyncs, and sends what was never acked."""
        logger.error("The store is another, or has lost its data: all devices are asked to come back")
        self._epoch = epoch
        self._store.catalogue.forget_all()
        for room in list(self._rooms.values()):
            for channel in list(room):
                channel.restart("the store has changed")


def tell_changes(channel: Channel, records: list[tuple[str, Record]], rev: int) -> None:
    """Progress frames of at most PAGE records; nothing where there are none.

    Ordered by revision, so that a device that is cut off between two pages has all up to the `rev` of the last.
    """
    ordered = sorted(records, key=lambda item: item[1].rev)
    for start in range(0, len(ordered), PAGE):
        page = ordered[start : start + PAGE]
        last = start + PAGE >= len(ordered)
        views = [record_view(video_id, record) for video_id, record in page]
        channel.tell(Progress(records=views, rev=rev if last else page[-1][1].rev))


def _only(channel: object, origins: list[Origin]) -> bool:
    """Whether the device itself, and nobody else, reported the change: it gets no echo."""
    return len(origins) == 1 and origins[0] is channel
