"""When batches are committed, and that no reporter is notified before the store has its reports."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from playhead.protocol.record import Outcome, Report
from playhead.protocol.session import Now
from playhead.storage.parts import Parts
from playhead.storage.store import Store, StoreUnavailable
from playhead.storage.write.flusher import Flusher, until_next
from playhead.storage.write.pending import Batch, Committed, Full
from tests.histories import report_of
from tests.inside import parts_of, records_in
from tests.intact import intact
from tests.storage.conftest import PATIENCE_S, NewStore, PrivateServer

NOW = Now(5_000, 5_000)
NEVER_S = 3_600.0
"""An interval too long for any test."""


class Counting(Store):
    """A real store that records the batches it is asked to commit."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(Parts(*args, **more))
        self.batches: list[Batch] = []
        """Copies: a batch is emptied while its reporters are notified."""
        self.same: list[int] = []
        self.failures = 0

    async def commit(self, batch: Batch, now: int, *more: Any) -> Committed:
        self.batches.append(Batch(dict(batch.deltas), dict(batch.reporters)))
        self.same.append(id(batch))
        try:
            return await super().commit(batch, now, *more)
        except StoreUnavailable:
            self.failures += 1
            raise


class Sender:
    """A reporter that records its notifications in order."""

    since = 0

    def __init__(self) -> None:
        self.notified: list[str] = []
        self.outcomes: list[tuple[Report | int, Outcome]] = []
        self.committed: list[Committed] = []
        self.done = asyncio.Event()

    def committing(self) -> None:
        self.notified.append("taken")

    def outcome(self, op: Report | int, outcome: Outcome) -> None:
        self.notified.append("outcome")
        self.outcomes.append((op, outcome))

    def stored(self, committed: Committed) -> None:
        self.notified.append("stored")
        self.committed.append(committed)
        self.done.set()

    async def hears(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self.done.wait()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what is awaited happens in the code under test, without an event
            await asyncio.sleep(0.005)


def play(seq: int = 1, session: str = "a") -> Report:
    return report_of(session, seq, 100 + seq, [(seq * 1_000, seq * 1_000 + 1_000)])


async def nothing(batch: Batch, committed: Committed) -> None:
    """Nobody else needs to know."""


def flusher_on(store: Store, interval_s: float = NEVER_S, max_reports: int = 1_000, **more: Any) -> Flusher:
    return Flusher(
        store,
        interval_s=interval_s,
        max_reports=max_reports,
        now=lambda: NOW,
        subscribed=lambda user_id: False,
        after=more.get("after", nothing),
    )


@contextlib.asynccontextmanager
async def running(flusher: Flusher) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(flusher.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def store(new_store: NewStore) -> Counting:
    opened = new_store(Counting)
    assert isinstance(opened, Counting)
    return opened


@pytest.fixture
async def frail(private_server: PrivateServer) -> AsyncIterator[Counting]:
    """A store whose server a test may kill."""
    opened = Counting(private_server.url, worker="w", timeout_s=0.5)
    await opened.check()
    yield opened
    await opened.close()


# Schedule


async def test_batches_are_committed_on_schedule(store: Counting) -> None:
    """Each batch has the reports since the last one; if there are none, nothing is committed."""
    flusher = flusher_on(store, interval_s=0.01)
    async with running(flusher):
        for seq in (1, 2, 3):
            sender = Sender()
            flusher.add("u", "v", play(seq), sender)
            await sender.hears()
            assert sender.notified == ["taken", "stored"]
    assert [list(batch.deltas) for batch in store.batches] == [[("u", "v")]] * 3
    assert intact(await store.record("u", "v")).played_ms == 3_000


@pytest.mark.parametrize(("took_s", "then_s"), [(0.0, 1.0), (0.25, 0.75), (0.5, 0.5), (0.9, 0.5), (60.0, 0.5)])
def test_an_ack_takes_at_most_an_interval_while_the_store_keeps_up(took_s: float, then_s: float) -> None:
    """The next flush starts early enough to end within it; a slower store is not flushed faster."""
    assert until_next(1.0, took_s) == then_s


async def test_large_batch_is_committed_early(store: Counting) -> None:
    """Once half of the reports that may be pending are; until then the interval applies."""
    flusher = flusher_on(store, max_reports=10)
    async with running(flusher):
        sender = Sender()
        for n in range(4):
            flusher.add("u", f"v{n}", play(), sender)
        for _ in range(20):
            await asyncio.sleep(0)
        assert sender.notified == []
        flusher.add("u", "v4", play(), sender)
        await sender.hears()
    assert [len(batch.deltas) for batch in store.batches] == [5]


async def test_hurry_ends_the_interval(store: Counting) -> None:
    """For callers that only wait for the pending reports."""
    flusher = flusher_on(store)
    async with running(flusher):
        sender = Sender()
        flusher.add("u", "v", play(), sender)
        flusher.hurry()
        await sender.hears()


async def test_immediate_lane_groups_reports_that_arrive_together(store: Counting) -> None:
    """Without an interval, reports that arrive at once share a commit, and those that arrive during it the next one."""
    flusher = flusher_on(store, interval_s=0)
    senders = [Sender() for _ in range(100)]
    async with running(flusher):
        for n, sender in enumerate(senders[:50]):
            flusher.add(f"u{n}", "v", play(), sender)
        await until(lambda: len(store.batches) == 1)
        for n, sender in enumerate(senders[50:], 50):
            flusher.add(f"u{n}", "v", play(), sender)
        for sender in senders:
            await sender.hears()
    assert [len(batch.deltas) for batch in store.batches] == [50, 50]
    assert intact(await store.totals("v")).viewers == 100


async def test_immediate_lane_waits_for_others_if_the_last_batch_was_shared(
    store: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first report after a batch of several reporters waits a moment, so that others share its commit."""
    monkeypatch.setattr("playhead.storage.write.flusher.GATHER_S", 0.2)
    flusher = flusher_on(store, interval_s=0)
    senders = [Sender() for _ in range(4)]
    async with running(flusher):
        for n in (0, 1):
            flusher.add(f"u{n}", "v", play(), senders[n])
        await senders[1].hears()
        flusher.add("u2", "v", play(), senders[2])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        flusher.add("u3", "v", play(), senders[3])
        await senders[3].hears()
    assert [len(batch.reporters) for batch in store.batches] == [2, 2]


async def test_immediate_lane_does_not_delay_a_single_origin(store: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("playhead.storage.write.flusher.GATHER_S", NEVER_S)
    flusher = flusher_on(store, interval_s=0)
    async with running(flusher):
        for n in range(3):
            sender = Sender()
            flusher.add("u", "v", play(n + 1), sender)
            await sender.hears()
    assert [len(batch.reporters) for batch in store.batches] == [1, 1, 1]


async def test_a_full_batch_adds_nothing(store: Counting) -> None:
    """A refused report is not stored, and its reporter not notified."""
    flusher = flusher_on(store, max_reports=2)
    sender, late = Sender(), Sender()
    flusher.add("u", "v", play(), sender)
    flusher.add("u", "w", play(), sender)
    with pytest.raises(Full):
        flusher.add("u", "x", play(), late)
    assert await flusher.drain(PATIENCE_S)
    assert (sender.notified, late.notified) == (["taken", "stored"], [])
    assert {video for video, _ in records_in(intact(await store.changes("u")))} == {"v", "w"}


# Notifications


async def test_every_origin_is_notified_once_and_outcomes_come_first(store: Counting) -> None:
    """`after` is called before the reporters are notified; a reporter that only called touch is notified too."""
    order: list[str] = []

    async def after(batch: Batch, committed: Committed) -> None:
        order.append(f"after {len(batch.deltas)}")

    flusher = flusher_on(store, after=after)
    first, second, touching = Sender(), Sender(), Sender()
    first.stored = lambda committed: order.append("stored")  # type: ignore[method-assign]
    flusher.add("u", "v", play(), first)
    assert await flusher.drain(PATIENCE_S)
    assert order == ["after 1", "stored"]
    dropped = play(1)
    flusher.add("u", "v", 200, second)
    flusher.add("u", "v", dropped, second)
    flusher.touch(touching)
    assert await flusher.drain(PATIENCE_S)
    assert second.notified == ["taken", "outcome", "stored"]
    assert second.outcomes == [(dropped, Outcome.DELETED)]
    assert touching.notified == ["taken", "stored"]
    assert second.committed[0].revs["u"] == (1, 2)


async def test_all_origins_of_a_record_get_its_outcomes(store: Counting) -> None:
    """Each recognises its own ops; the reporters of a record are not distinguished by op."""
    flusher = flusher_on(store)
    deleting, other = Sender(), Sender()
    flusher.add("u", "v", 300, deleting)
    flusher.add("u", "v", play(), other)
    assert await flusher.drain(PATIENCE_S)
    assert deleting.outcomes == other.outcomes == [(300, Outcome.NOTHING_TO_DELETE)]


async def test_a_forgotten_origin_is_not_notified(frail: Counting, private_server: PrivateServer) -> None:
    """Whether it was forgotten before the commit or during it; its reports are stored."""
    flusher = flusher_on(frail)
    waiting, on_its_way = Sender(), Sender()
    flusher.add("u", "v", play(1), waiting)
    flusher.add("u", "w", play(1), on_its_way)
    flusher.forget(waiting)
    private_server.pause()
    async with running(flusher):
        flusher.hurry()
        await until(lambda: on_its_way.notified == ["taken"])
        flusher.forget(on_its_way)
        private_server.resume()
    assert await flusher.drain(PATIENCE_S)
    assert (waiting.notified, on_its_way.notified) == ([], ["taken"])
    assert {video for video, _ in records_in(intact(await frail.changes("u")))} == {"v", "w"}


# The store fails


@pytest.mark.parametrize("failure", ["killed", "paused"])
async def test_the_same_batch_is_retried_until_it_is_stored(
    frail: Counting, private_server: PrivateServer, failure: str
) -> None:
    """It is unchanged while the next one fills; every reporter is notified once, after it is stored."""
    flusher = flusher_on(frail, interval_s=0.01)
    first, second = Sender(), Sender()
    if failure == "killed":
        private_server.kill()
    else:
        private_server.pause()
    async with running(flusher):
        flusher.add("u", "v", play(1), first)
        await until(lambda: frail.failures >= 1)
        assert flusher.trouble
        flusher.add("u", "v", play(2), second)
        await until(lambda: frail.failures >= 2)
        assert first.notified == ["taken"]
        assert second.notified == []
        if failure == "killed":
            private_server.start()
        else:
            private_server.resume()
        await first.hears()
        await second.hears()
    assert flusher.trouble is None
    assert (first.notified, second.notified) == (["taken", "stored"], ["taken", "stored"])
    assert len(set(frail.same)) == 2
    record = intact(await frail.record("u", "v"))
    assert (record.seen, record.played_ms) == ([1, 3], 2_000)


async def test_acked_reports_survive_a_killed_store(frail: Counting, private_server: PrivateServer) -> None:
    """The server dies during many flushes and restarts: acked reports are stored, and none counts twice."""
    flusher = flusher_on(frail, interval_s=0.001)
    senders: list[Sender] = []
    async with running(flusher):
        for seq in range(1, 121):
            sender = Sender()
            flusher.add("u", "v", play(seq), sender)
            senders.append(sender)
            if seq == 60:
                await senders[30].hears()
                acked = sum(sender.done.is_set() for sender in senders)
                private_server.kill()
                private_server.start()
                assert intact(await frail.record("u", "v")).played_ms >= acked * 1_000
            await asyncio.sleep(0)
        for sender in senders:
            await sender.hears()
    record = intact(await frail.record("u", "v"))
    assert (record.seen, record.played_ms, record.again) == ([1, 121], 120_000, [])


# Draining


async def test_drain_stores_all_pending_reports(store: Counting) -> None:
    """Without a running schedule, and in several batches if needed."""
    flusher = flusher_on(store)
    sender = Sender()
    flusher.add("u", "v", play(), sender)
    assert await flusher.drain(PATIENCE_S)
    assert sender.notified == ["taken", "stored"]
    assert await flusher.drain(PATIENCE_S)
    assert len(store.batches) == 1


async def test_drain_gives_up_in_time(frail: Counting, private_server: PrivateServer) -> None:
    """It returns False, and no reporter was notified; a later drain stores everything."""
    flusher = flusher_on(frail)
    sender = Sender()
    private_server.kill()
    flusher.add("u", "v", play(), sender)
    assert not await flusher.drain(0.2)
    assert sender.notified == ["taken"]
    private_server.start()
    assert await flusher.drain(PATIENCE_S)
    assert sender.notified == ["taken", "stored"]
    assert intact(await frail.record("u", "v")).seen == [1, 2]


async def test_drain_repeats_a_cancelled_commit(frail: Counting, private_server: PrivateServer) -> None:
    """Stopping during a commit, which the store may have executed, loses nothing and counts nothing twice."""
    flusher = flusher_on(frail)
    sender = Sender()
    await parts_of(frail).catalogue.durations({"v"})
    private_server.pause()
    async with running(flusher) as task:
        flusher.add("u", "v", play(1), sender)
        flusher.hurry()
        await until(lambda: len(frail.batches) == 1)
        for _ in range(20):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert sender.notified == ["taken"]
    private_server.resume()
    flusher.add("u", "v", play(2), sender)
    assert await flusher.drain(PATIENCE_S)
    assert sender.notified == ["taken", "stored", "taken", "stored"]
    assert frail.batches[0] == frail.batches[1]
    record = intact(await frail.record("u", "v"))
    assert (record.seen, record.played_ms, record.again) == ([1, 3], 2_000, [])
