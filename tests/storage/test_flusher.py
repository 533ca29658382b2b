"""From memory to the store on a schedule, and nobody told "stored" before it is."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import uuid4

import pytest

from protocol.record import Outcome, Report
from protocol.session import Now
from storage.embedded import EmbeddedValkey
from storage.flusher import Flusher
from storage.keys import Keys
from storage.pending import Batch, Committed, Full
from storage.store import Store
from tests.conftest import StoreServer

NOW = 1_764_000_000_000
PATIENCE_S = 20.0
NEVER_S = 60.0


class Somebody:
    """An origin that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Committed] = []
        self.outcomes: list[Outcome] = []

    def taken(self) -> None: ...

    def outcome(self, op: Report | int, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def stored(self, committed: Committed) -> None:
        self.told.append(committed)


def play(seq: int) -> Report:
    return Report(NOW, NOW, "s", seq, seq, [seq, seq + 1], [], 1_000)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 what is awaited is another process
            await asyncio.sleep(0.005)


class Lane:
    """A flusher and the batches it has stored."""

    def __init__(self, store: Store, interval_s: float, max_reports: int = 1_000) -> None:
        self.batches: list[Batch] = []
        self.flusher = Flusher(
            store,
            interval_s=interval_s,
            max_reports=max_reports,
            now=lambda: Now(NOW, time.monotonic_ns() // 1_000_000),
            subscribed=lambda _: False,
            after=lambda batch, _: self.batches.append(batch),
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Flusher]:
        task = asyncio.create_task(self.flusher.run())
        try:
            yield self.flusher
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def store(store_server: StoreServer, prefix: str) -> AsyncIterator[Store]:
    store = Store(store_server.url, worker=uuid4().hex, keys=Keys(prefix))
    yield store
    await store.close()


async def test_a_flush_comes_by_itself(store: Store) -> None:
    """After the interval everything that waited is stored by one commit, and told."""
    lane, player = Lane(store, 0.05), Somebody()
    async with lane.running() as flusher:
        for number in range(20):
            flusher.add("u", f"v{number}", play(1), player)
        await until(lambda: player.told)
    assert len(lane.batches) == 1
    assert len(player.told[0].results) == 20
    assert (await store.record("u", "v7")).seen == [1, 2]


async def test_a_large_batch_does_not_wait_for_the_interval(store: Store) -> None:
    """Half of what may wait is a reason to flush at once."""
    lane, player = Lane(store, NEVER_S, max_reports=20), Somebody()
    async with lane.running() as flusher:
        for number in range(10):
            flusher.add("u", f"v{number}", play(1), player)
        await until(lambda: player.told)


async def test_the_immediate_lane_shares_commits(store: Store) -> None:
    """What comes while a commit is under way goes with the next one: a hundred requests, a few commits."""
    lane, players = Lane(store, 0), [Somebody() for _ in range(100)]
    async with lane.running() as flusher:
        for number, player in enumerate(players):
            flusher.add("u", f"v{number}", play(1), player)
            if number % 20 == 0:
                await asyncio.sleep(0)
        await until(lambda: all(player.told for player in players))
    assert len(lane.batches) < 20


async def test_who_only_waits_for_a_word_gets_it(store: Store) -> None:
    """A rejected heartbeat stores nothing and is acked with the next flush all the same."""
    lane, player = Lane(store, 0.02), Somebody()
    async with lane.running() as flusher:
        flusher.touch(player)
        await until(lambda: player.told)
    assert player.told[0].results == {}


async def test_outcomes_are_told_before_stored_and_to_those_concerned(store: Store) -> None:
    """A report that the store drops is named to its origin, and not to others."""
    lane, deleting, late, other = Lane(store, 0.02), Somebody(), Somebody(), Somebody()
    async with lane.running() as flusher:
        flusher.add("u", "v", play(1), deleting)
        flusher.add("u", "v", NOW + 5, deleting)
        await until(lambda: deleting.told)
        flusher.add("u", "v", play(2), late)
        flusher.add("u", "w", play(3), other)
        await until(lambda: late.told and other.told)
    assert (deleting.outcomes, late.outcomes, other.outcomes) == ([], [Outcome.DELETED], [])


async def test_while_the_store_is_away_nothing_is_told_and_nothing_lost(tmp_path: Path) -> None:
    """The batch on its way is tried again unchanged, the next one fills behind it; `trouble` says why."""
    valkey = EmbeddedValkey(tmp_path)
    valkey.start()
    store = Store(valkey.url, worker=uuid4().hex, durability="fsync", timeout_s=1.0)
    lane, first, second = Lane(store, 0.02, max_reports=10), Somebody(), Somebody()
    try:
        await store.check()
        valkey.stop()
        async with lane.running() as flusher:
            flusher.add("u", "v", play(1), first)
            await until(lambda: flusher.trouble)
            for seq in range(2, 12):
                flusher.add("u", f"v{seq}", play(seq), second)
            with pytest.raises(Full):
                flusher.add("u", "one too many", play(1), second)
            assert not first.told
            assert not second.told
            await asyncio.to_thread(valkey.start)
            await until(lambda: first.told and second.told)
            assert flusher.trouble is None
        assert (await store.record("u", "v")).seen == [1, 2]
        assert (await store.record("u", "v11")).seen == [11, 12]
        assert len(lane.batches) == 2
    finally:
        await store.close()
        valkey.stop()


async def test_drain_stores_what_waits_also_after_a_commit_was_cut_off(store: Store) -> None:
    """A cancelled flusher holds the batch that was on its way; drain commits it, then the rest."""
    for delay_s in (0, 0.0002, 0.0005, 0.001, 0.002):
        lane, player, video = Lane(store, 0), Somebody(), uuid4().hex
        async with lane.running() as flusher:
            for seq in range(1, 40):
                flusher.add("u", video, play(seq), player)
            await asyncio.sleep(delay_s)
        flusher.add("u", video, play(40), player)
        assert await flusher.drain(PATIENCE_S)
        assert (await store.record("u", video)).seen == [1, 41]
        assert player.told


async def test_drain_gives_up_on_a_store_that_is_away() -> None:
    """False, and in time: what was not acked will be sent again."""
    store = Store("unix:///nonexistent/valkey.sock", worker=uuid4().hex)
    flusher = Lane(store, NEVER_S).flusher
    player = Somebody()
    flusher.add("u", "v", play(1), player)
    assert not await flusher.drain(0.3)
    assert not player.told
    await store.close()
