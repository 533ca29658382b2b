"""What each device has been told of its learner's records.

Invariant: a channel that is told "you have everything up to rev" has it. Every push says which revisions it spans;
where one does not follow on what the channel has (a message lost or overtaken, a subscription broken), what is missing
is read from the store instead. So delivery by the store's publish/subscribe may fail and nothing is missed.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import Any, Protocol

from playhead.protocol.errors import PeerError
from playhead.protocol.messages import PAGE, Message, Progress, RecordView
from playhead.protocol.record import Record
from playhead.protocol.rest import record_view
from playhead.server.clock import Clock
from playhead.server.limits.large_reads import LargeRead
from playhead.storage.store import Changes, Damaged, Store, StoreUnavailable, oldest_change_first

READS_AT_ONCE = 16
"""Devices that are brought up to date at a time, when many lack something at once."""
PAGE_BYTES = 262_144
"""Most that a frame of records holds, by estimate, plus one record: far less than may wait for a connection."""
RECORD_BYTES, SECOND_BYTES = 300, 8
"""What a record and each end of an interval in it take on the wire, about."""


class Channel(Protocol):
    """One device's connection, as far as the hub and its pushes know it."""

    user_id: str
    rev: int
    """Everything up to here has been told."""
    ready: bool
    """False while changes are being read for it; pushes then only raise `missed`."""
    missed: int
    since: int
    """ms since 1970, when it came."""

    def large_read(self) -> LargeRead:
        """A read of what it lacks."""
        ...

    def send(self, *messages: Message) -> None:
        """Queue messages; never blocks."""
        ...

    async def drained(self) -> None:
        """All that was queued is written, or never will be."""
        ...

    def restart(self) -> None:
        """Say goodbye and close: come back, and send again what was never acked."""
        ...

    def refuse(self, error: PeerError) -> None:
        """Say what is wrong, and close."""
        ...


class Pushes:
    """Those to the devices of one process.

    Args:
        start: has work done in the background.
        announce: publishes the revision that a learner is at.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        start: Callable[[Coroutine[Any, Any, None]], None],
        announce: Callable[[str], Awaitable[None]],
    ) -> None:
        self._store = store
        self._clock = clock
        self._start = start
        self._announce = announce
        self._reads = asyncio.Semaphore(READS_AT_ONCE)

    def push(self, channel: Channel, before: int, rev: int, news: Iterable[tuple[str, Record]] | None) -> None:
        """Tell the device what has changed.

        Args:
            before, rev: the change took the learner's records from the one revision to the other.
            news: (videoId, record) of what is new to this device; None where that has to be read.
        """
        if not channel.ready:
            channel.missed = max(channel.missed, rev)
        elif rev <= channel.rev:
            return
        elif before > channel.rev or news is None:
            self.catch_up(channel)
        else:
            fresh = [(video_id, record) for video_id, record in news if record.rev > channel.rev]
            told = list(pages(fresh, rev, self._clock().wall))
            channel.rev = rev
            for page in told:
                channel.send(page)

    def catch_up(self, channel: Channel) -> None:
        """Read what the device lacks, and tell it."""
        channel.ready = False
        self._start(self._read_for(channel))

    def follow(self, channel: Channel, rev: int) -> None:
        """The device has everything up to `rev`; from now on it is told what changes."""
        behind = max(channel.missed, channel.rev) > rev
        channel.rev = rev
        if behind:
            self.catch_up(channel)
        else:
            channel.ready = True

    async def tell_all(self, channel: Channel, changes: Changes) -> None:
        """Page by page, each when the one before is written: what a learner has may be more than may wait.

        Ordered by revision, so that a device that is cut off between two pages has all up to the `rev` of the last.
        """
        waiting: list[RecordView] = []
        upto, now = 0, self._clock().wall
        async for page in changes.pages(oldest_change_first):
            if waiting:
                await channel.drained()
                channel.send(Progress(records=waiting, rev=upto))
            waiting = [record_view(*item, now) for item in page.records]
            upto = min(page.last, changes.rev)  # a record that changed while they were read has a higher one
        if waiting:
            await channel.drained()
            channel.send(Progress(records=waiting, rev=changes.rev))

    async def announce(self, user_id: str) -> None:
        """Have the other processes read what they lack of this learner's."""
        async with self._reads:
            with contextlib.suppress(StoreUnavailable):  # then the channels are lost too, and this comes again
                await self._announce(user_id)

    async def _read_for(self, channel: Channel) -> None:
        with channel.large_read() as read:
            try:
                await self._tell_changes(channel, read)
            except StoreUnavailable:
                channel.restart()
            except PeerError as error:
                channel.refuse(error)

    async def _tell_changes(self, channel: Channel, read: LargeRead) -> None:
        channel.missed = 0
        async with self._reads:
            had = channel.rev
            changes = await self._store.changes(channel.user_id, had, self._store.known_epoch, read.admit)
        if isinstance(changes, Damaged):
            self.follow(channel, channel.rev)  # nothing can be read of this learner; the device goes on
        elif changes.epoch != self._store.known_epoch:
            self._store.learn_epoch(changes.epoch)
        elif changes.rev < had:
            channel.restart()  # the store went back in time
        elif changes.rev >= channel.rev:  # else a `sync` of the device has overtaken this, and follows on by itself
            await self.tell_all(channel, changes)
            self.follow(channel, changes.rev)


def pages(records: list[tuple[str, Record]], rev: int, now: int) -> Iterator[Progress]:
    """Changes as frames of at most PAGE records and PAGE_BYTES or so; none where there are none.

    Ordered by revision, so that a device that is cut off between two pages has all up to the `rev` of the last. No
    instant in them is later than `now`.
    """
    ordered = sorted(records, key=lambda item: item[1].rev)
    start = size = 0
    for end, (_, record) in enumerate(ordered, 1):
        size += RECORD_BYTES + SECOND_BYTES * (len(record.seen) + len(record.again))
        if end == len(ordered) or end - start == PAGE or size >= PAGE_BYTES:
            views = [record_view(*item, now) for item in ordered[start:end]]
            yield Progress(records=views, rev=rev if end == len(ordered) else record.rev)
            start, size = end, 0
