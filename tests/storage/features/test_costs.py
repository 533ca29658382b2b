"""The cost of a heartbeat and a flush, as counts, which do not depend on the machine and rise when the code gets
slower. Each bound is slightly above the current value. A change that needs more raises it and says why."""

import functools
import sys
import tracemalloc
from collections import Counter, deque
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import pytest

from playhead.protocol.codecs import CODECS
from playhead.protocol.connection import Connection, Take
from playhead.protocol.session import Now, Plausibility
from playhead.storage.connection.link import Single
from playhead.storage.connection.pipeline import Command
from playhead.storage.parts import Parts
from playhead.storage.store import Store
from playhead.storage.write.pending import Batch, Pending
from tests.inside import records_in
from tests.storage.conftest import NewStore

NOW = Now(1_764_000_000_000, 5_000_000)
RECORDS = 1_000
HEARTBEAT = (
    '{"type":"heartbeat","seq":%d,"videoId":"7c9e6679-7425-40de-944b-e07fc1f90ae7","position":%d,'
    '"played":[[%d,%d]],"duration":5400,"state":"playing"}'
)


class Counting(Store):
    """A real store that counts what is sent to it."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(Parts(*args, **more))
        self.round_trips = 0
        self.commands: Counter[str] = Counter()
        link = self._parts.link
        assert isinstance(link, Single)
        send = link.primary.pipeline

        async def counted(commands: list[Command]) -> list[Any]:
            self.round_trips += 1
            self.commands.update(command[0] for command in commands)
            return await send(commands)

        link.primary.pipeline = counted  # type: ignore[method-assign]


class Sender:
    """A connection whose messages are dropped."""

    since = 0

    def committing(self) -> None: ...
    def outcome(self, op: object, outcome: object) -> None: ...
    def stored(self, committed: object) -> None: ...


def speaking() -> Connection:
    """A connection that has said hello."""
    connection = Connection(CODECS["playhead.v1.json"], Plausibility())
    connection.receive('{"type":"hello","device":"d","session":"page"}', NOW)
    connection.open("page")
    return connection


def beat(connection: Connection, user_id: str, seq: int, pending: Pending, sender: Sender) -> None:
    """Pass a frame to the batch, as the endpoint does."""
    frame = HEARTBEAT % (seq, 5 * seq + 5, 5 * seq, 5 * seq + 5)
    for effect in connection.receive(frame, Now(NOW.wall + 5_000 * seq, NOW.mono + 5_000 * seq)):
        assert isinstance(effect, Take)
        pending.add(user_id, effect.video_id, effect.report, sender)


def batch_of(users: int, seq: int = 1) -> Batch:
    pending = Pending(10 * users, NOW.wall)
    for n in range(users):
        beat(speaking(), f"user{n}", seq, pending, Sender())
    return pending.take(NOW.wall)


@pytest.mark.parametrize("users", [1, RECORDS])
@pytest.mark.parametrize("seq", [1, 2])
async def test_a_flush_is_two_round_trips_and_few_script_calls(new_store: NewStore, users: int, seq: int) -> None:
    """For any number of records; three the first time, when the videos' durations are read.

    Besides the scripts there are the epoch and the count of commits, and in stage 2 both again.
    """
    store = new_store(Counting)
    assert isinstance(store, Counting)
    await store.commit(batch_of(1), NOW.wall, lambda user_id: False)
    store.round_trips, store.commands = 0, Counter()
    await store.commit(batch_of(users, seq), NOW.wall, lambda user_id: False)
    calls = {1: 1, RECORDS: 5}[users]
    assert store.round_trips == 2
    assert store.commands == {"GET": 1, "EVALSHA": 2 * calls + 2}, "the count of each stage is the one more"


async def test_a_connecting_device_costs_one_round_trip(new_store: NewStore) -> None:
    """Its records, however many, and the store's epoch."""
    store = new_store(Counting)
    assert isinstance(store, Counting)
    await store.commit(batch_of(1), NOW.wall, lambda user_id: False)
    store.round_trips, store.commands = 0, Counter()
    assert len(records_in(await store.changes("user0"))) == 1
    assert (store.round_trips, store.commands) == (1, {"GET": 1, "EVALSHA": 1})


def calls_of(work: Callable[[], object]) -> int:
    """The function calls that `work` makes, in Python and in C."""
    count = 0

    def on_event(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(on_event)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_calls_from_frame_to_batch() -> None:
    """The path of a heartbeat is short: each call costs a tenth of a microsecond and more, for every heartbeat."""
    connection, sender, pending = speaking(), Sender(), Pending(1_000, NOW.wall)
    beat(connection, "user", 1, pending, sender)
    counts = [calls_of(lambda seq=seq: beat(connection, "user", seq, pending, sender)) for seq in range(2, 7)]  # type: ignore[misc]
    assert max(counts) <= 50, counts


def test_calls_of_an_ack() -> None:
    """What follows a flush, for each connection: no pydantic model, no serializer."""
    connections: Sequence[Connection] = [speaking() for _ in range(3)]
    pending = Pending(1_000, NOW.wall)
    for connection in connections:
        beat(connection, "user", 1, pending, Sender())
        connection.committing()
    counts = [calls_of(functools.partial(deque, connection.stored(), 0)) for connection in connections]
    assert max(counts) <= 10, counts


def test_memory_of_a_waiting_record() -> None:
    """Its key, its report and its place in the batch, without the connection."""
    connections = [speaking() for _ in range(RECORDS)]
    senders = [Sender() for _ in range(RECORDS)]
    pending = Pending(RECORDS, NOW.wall)
    for connection in connections:
        beat(connection, "user", 1, Pending(1, NOW.wall), Sender())
    tracemalloc.start()
    for n, (connection, sender) in enumerate(zip(connections, senders, strict=True)):
        beat(connection, f"user{n}", 2, pending, sender)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size / RECORDS <= 1_200
