"""Events of other processes: published messages become typed events, and what may have been missed is an event too."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgpack
import pytest

from playhead.protocol.record import Record
from playhead.storage.errors import StoreUnavailable
from playhead.storage.events import (
    EndingsMissed,
    EpochChanged,
    Event,
    EventStream,
    RecordsChanged,
    RecordsMissed,
    SessionsEnded,
    Subscribed,
)
from playhead.storage.parts import Parts
from playhead.storage.read.catalogue import Video
from playhead.storage.values.packing import pack_record
from playhead.storage.values.push_messages import pack_announcement
from tests.storage.conftest import PATIENCE_S, NewStore, PrivateServer

pytestmark = pytest.mark.stores("valkey")
RECORD = Record(rev=7, last_watched=9, seen=[0, 5])


class Process:
    """One process, and the events that it has got."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.events: list[Event] = []
        self.stream: EventStream = parts.events(self.events.append)

    async def publish(self, channel: str, data: bytes) -> None:
        await self.parts.run([("SPUBLISH", channel, data)])

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # noqa: ASYNC110 the message comes from another process
                await asyncio.sleep(0.005)

    async def next(self, event: Event) -> None:
        """Wait for the event."""
        await self.until(lambda: self.has(event))

    def has(self, event: Event) -> bool:
        """Whether the event has happened; named tuples of two types with the same fields are equal."""
        return any(type(each) is type(event) and each == event for each in self.events)


@contextlib.asynccontextmanager
async def running(parts: Parts) -> AsyncIterator[Process]:
    """A process that receives events, and is subscribed to the channels of all."""
    process = Process(parts)
    task = asyncio.create_task(process.stream.run())
    try:
        await process.next(EndingsMissed())
        yield process
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def process(new_store: NewStore) -> AsyncIterator[Process]:
    async with running(new_store(Parts)) as process:
        yield process


async def test_a_change_of_a_followed_learner_is_an_event(process: Process) -> None:
    """A change of this process itself is none."""
    channel = process.parts.keys.push("u")
    await process.stream.follow("u")
    assert process.stream.is_following("u")
    await process.next(Subscribed("u", again=False))
    own = process.parts.worker.encode()
    for worker in (own, b"other"):
        await process.publish(channel, msgpack.packb([worker, 5, 7, [[b"v", pack_record(RECORD)]]]))
    await process.next(RecordsChanged("u", 5, 7, [("v", RECORD)]))
    assert sum(isinstance(event, RecordsChanged) for event in process.events) == 1


async def test_a_damaged_message_means_that_changes_were_missed(process: Process) -> None:
    await process.stream.follow("u")
    await process.publish(process.parts.keys.push("u"), b"\xc1")
    await process.next(RecordsMissed("u"))
    assert process.parts.damage.counts["push"] == 1


async def test_a_learner_who_is_not_followed_has_no_events(process: Process) -> None:
    await process.stream.follow("u")
    process.stream.unfollow("u")
    assert not process.stream.is_following("u")
    assert not process.stream.is_following("stranger")
    await process.stream.follow("w")
    for user in ("u", "w"):
        await process.publish(process.parts.keys.push(user), pack_announcement("other", 3))
    await process.next(RecordsChanged("w", 3, 3, []))
    assert not process.has(RecordsChanged("u", 3, 3, []))


@pytest.mark.parametrize(("stored", "rev"), [("7", 7), (None, 0), ("text", 0), ("9" * 16, 0), ("-1", 0)])
async def test_an_announcement_has_the_stored_revision_and_no_records(
    process: Process, new_store: NewStore, stored: str | None, rev: int
) -> None:
    """A process that is missing some reads them; a revision that cannot be read announces nothing new."""
    other: Parts = new_store(Parts)
    if stored is not None:
        await other.run([("HSET", other.keys.progress("u"), "rev", stored)])
    await process.stream.follow("u")
    await Process(other).stream.announce("u")
    await process.next(RecordsChanged("u", rev, rev, []))


async def test_ended_sessions_are_an_event(process: Process, new_store: NewStore) -> None:
    other: Parts = new_store(Parts)
    await process.publish(process.parts.keys.ended, b"\xff")
    await other.ended_sessions.add("u", 1_764_000_000_000)
    await process.next(SessionsEnded("u"))
    assert process.parts.damage.counts["ended"] == 1


async def test_a_new_epoch_is_an_event_and_empties_the_cache(process: Process) -> None:
    """What was cached belongs to a store that has lost its data."""
    parts = process.parts
    await parts.catalogue.put("v", Video("t", 90_000))
    first = await parts.epoch.current()
    assert await parts.catalogue.durations({"v"}) == {"v": 90_000}
    await parts.run([("DEL", parts.keys.catalogue("v"))])
    await process.publish(parts.keys.epoch, b"not an epoch")
    await process.publish(parts.keys.epoch, f"{first[:32]}.1".encode())
    await process.next(EpochChanged())
    assert parts.epoch.known == f"{first[:32]}.1"
    assert parts.damage.counts["epoch"] == 1
    assert await parts.catalogue.durations({"v"}) == {"v": 0}


async def test_a_changed_catalogue_entry_is_read_again(process: Process, new_store: NewStore) -> None:
    other: Parts = new_store(Parts)
    assert await process.parts.catalogue.durations({"v"}) == {"v": 0}
    await other.catalogue.put("v", Video("t", 90_000))

    async def known() -> dict[str, int]:
        return await process.parts.catalogue.durations({"v"})

    async with asyncio.timeout(PATIENCE_S):
        while await known() != {"v": 90_000}:  # noqa: ASYNC110 the message comes from another process
            await asyncio.sleep(0.005)


async def test_a_broken_subscription_is_confirmed_again_and_says_so(private_server: PrivateServer) -> None:
    parts = Parts(private_server.url, worker="w")
    async with running(parts) as process:
        await process.stream.follow("u")
        process.events.clear()
        await asyncio.to_thread(private_server.kill)
        await asyncio.to_thread(private_server.start)
        await process.next(Subscribed("u", again=True))
        await process.next(EndingsMissed())
        assert process.stream.resubscriptions > 0
        assert [lane.works for lane in await process.stream.lanes()] == [True, True]
    await parts.link.aclose()


async def test_a_subscription_that_is_not_confirmed_in_time_is_unavailable(private_server: PrivateServer) -> None:
    parts = Parts(private_server.url, worker="w", timeout_s=0.2)
    async with running(parts) as process:
        private_server.pause()
        with pytest.raises(StoreUnavailable, match="confirms no subscription"):
            await process.stream.follow("u")
        assert not process.stream.is_following("u")
        private_server.resume()
        await process.next(Subscribed("u", again=False))
    await parts.link.aclose()


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\xff" * 40, msgpack.packb([1, 2, 3, 4])])
async def test_no_message_ends_the_stream(process: Process, data: bytes) -> None:
    """Whatever is published on whichever channel."""
    keys: Any = process.parts.keys
    await process.stream.follow("u")
    for channel in (keys.push("u"), keys.epoch, keys.ended, process.parts.catalogue.channel):
        await process.publish(channel, data)
    await process.publish(keys.push("u"), pack_announcement("other", 3))
    await process.next(RecordsChanged("u", 3, 3, []))
