"""The store's Lua and protocol/record.py implement the same rule: the same histories give the same bytes and totals."""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as replaced

from playhead.protocol.intervals import MAX_INTERVALS
from playhead.protocol.record import IN_SYNC, MAX_SESSIONS, Outcome, Record, Report, clamp_instants, delete, join
from playhead.protocol.scalars import MAX_MEDIA_S, MAX_SEQ
from playhead.storage.read.catalogue import Video
from playhead.storage.read.totals import Curve, Totals
from playhead.storage.store import Store, StoreUnavailable, open_store
from playhead.storage.values.instants import RECEIPT_MS, Instants
from playhead.storage.values.packing import pack_record, unpack_record
from playhead.storage.write.pending import Batch, Committed, Delta, Key
from tests.conftest import StoreServer
from tests.histories import (
    DURATION_MS,
    LAST_INSTANT,
    Op,
    batched,
    interleaved,
    rest_reports,
    sessions_of,
    wild_ops,
    with_repeats,
)
from tests.inside import keys_of, parts_of, recounted
from tests.intact import intact
from tests.stages import BetweenStages

NOW = 5_000
THRESHOLD = 900
WRITERS = 3
TIMELESS = Instants(LAST_INSTANT, LAST_INSTANT)
"""For histories in which no clock is wrong."""


class CrashesBetweenStages(BetweenStages):
    """Fails once, when the learners' records are stored and the videos' totals are not."""

    alive = True

    async def between_stages(self) -> None:
        if not self.alive:
            self.alive = True
            raise StoreUnavailable("killed between the stages")


@dataclass
class Bench:
    """Stores on one real server, and one event loop for all examples of a test."""

    url: str
    runner: asyncio.Runner
    stores: list[CrashesBetweenStages]
    _by_threshold: dict[int, Store] = field(default_factory=dict)
    _by_limit: dict[int, Store] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def store(self) -> CrashesBetweenStages:
        return self.stores[0]

    def fresh(self) -> str:
        """A name that no earlier example used."""
        return f"x{next(self._numbers)}"

    def catalogue(self, video_id: str, duration_ms: int) -> None:
        if duration_ms:
            self.runner.run(self.store.put_video(video_id, Video("a film", duration_ms)))
            for store in self.stores:
                parts_of(store).catalogue.forget(video_id)

    def commit(self, batch: Batch, now: int = NOW) -> Committed:
        return self.runner.run(self.store.commit(batch, now, nobody))

    def with_threshold(self, permille: int) -> Store:
        """Another worker with this threshold; it stays open as long as the bench."""
        if permille not in self._by_threshold:

            async def opened() -> Store:
                return open_store(
                    self.url, worker=f"t{permille}", key_prefix=keys_of(self.store).prefix, threshold_permille=permille
                )

            self._by_threshold[permille] = self.runner.run(opened())
        return self._by_threshold[permille]

    def with_limit(self, max_videos: int) -> Store:
        """Another worker with this limit of videos per learner; it stays open as long as the bench."""
        if max_videos not in self._by_limit:

            async def opened() -> Store:
                return open_store(
                    self.url, worker=f"l{max_videos}", key_prefix=keys_of(self.store).prefix, max_videos=max_videos
                )

            self._by_limit[max_videos] = self.runner.run(opened())
        return self._by_limit[max_videos]

    def close(self) -> None:
        for store in (*self.stores, *self._by_threshold.values(), *self._by_limit.values()):
            self.runner.run(store.close())

    def record(self, user_id: str, video_id: str) -> Record:
        return intact(self.runner.run(self.store.record(user_id, video_id)))

    def totals(self, video_id: str) -> tuple[Totals, Curve]:
        """The totals as updated by differences, which must equal the recount of the audience."""
        kept = intact(self.runner.run(self.store.totals(video_id)))
        all_kept, curve, _ = intact(self.runner.run(self.store.analytics(video_id, NOW)))
        assert (all_kept, curve) == self.runner.run(recounted(self.store, video_id))
        assert kept == all_kept
        return kept, curve


@pytest.fixture(scope="module")
def bench(store_server: StoreServer) -> Iterator[Bench]:
    prefix = f"t{uuid4().hex}"
    with asyncio.Runner() as runner:

        async def opened() -> list[CrashesBetweenStages]:
            return [CrashesBetweenStages(store_server.url, worker=f"w{n}", key_prefix=prefix) for n in range(WRITERS)]

        bench = Bench(store_server.url, runner, runner.run(opened()))
        yield bench
        bench.close()


def nobody(user_id: str) -> bool:
    return False


def batch_of(ops: Iterable[tuple[Key, Op]]) -> Batch:
    """A batch of these ops without joining any of them, so that the store gets them all."""
    batch = Batch()
    for key, op in ops:
        batch.deltas.setdefault(key, Delta()).ops.append(op)
        batch.latest = max(batch.latest, op.at if isinstance(op, Report) else op)
    return batch


class Reference:
    """The expected content of the store, computed by protocol/record.py alone."""

    def __init__(self, durations: dict[str, int] | None = None, max_videos: int = 1_000) -> None:
        self.records: dict[Key, Record] = defaultdict(Record)
        self.revs: dict[str, int] = defaultdict(int)
        self._durations = durations or {}
        self._max_videos = max_videos

    def room(self, user_id: str) -> int:
        """How many more records the learner may have."""
        return self._max_videos - sum(record.counts for (user, _), record in self.records.items() if user == user_id)

    def fits(self, user_id: str, videos: Iterable[str]) -> bool:
        """Whether there is room for all new records of a sync."""
        new = sum(not self.records[user_id, video].counts for video in videos)
        return not new or new <= self.room(user_id)

    def apply(
        self, key: Key, ops: Iterable[Op], instants: Instants = TIMELESS, sync_fits: bool = True
    ) -> tuple[bytes, tuple[int, ...]]:
        """The expected stored value after `ops`, and the outcomes that the script must return."""
        before = self.records[key]
        record, room = clamp_instants(before, *instants), self.room(key[0]) > 0
        outcomes: list[int] = []
        for index, op in enumerate(ops):
            if isinstance(op, Report) and not sync_fits and not op.session and op.seq == IN_SYNC:
                outcome = Outcome.TOO_MANY_VIDEOS
            elif isinstance(op, Report):
                record, outcome = join(record, op, self._durations.get(key[1], 0), THRESHOLD, room)
            else:
                record, outcome = delete(record, op)
            if outcome is not Outcome.JOINED:
                outcomes += (index, int(outcome))
        if record != before:
            self.revs[key[0]] += 1
            record = replace(record, rev=self.revs[key[0]])
        self.records[key] = record
        return pack_record(record) if record.rev else b"", tuple(outcomes)

    def totals(self, video_id: str) -> tuple[Totals, Curve]:
        """The expected totals, counted second by second."""
        audience = [record for (_, video), record in self.records.items() if video == video_id]
        viewers = [record for record in audience if record.watched]
        completed = sum(record.completed_at > 0 for record in viewers)
        length = max((record.seen[-1] for record in audience if record.seen), default=0)
        curve = Curve([0] * length, [0] * length)
        for record in audience:
            for counts, seconds in ((curve.viewers, record.seen), (curve.replays, record.again)):
                for start, end in zip(seconds[::2], seconds[1::2], strict=True):
                    for second in range(start, end):
                        counts[second] += 1
        return Totals(len(viewers), completed, sum(record.watched for record in viewers)), curve


nows = st.one_of(st.just(NOW), st.integers(2, 3 * RECEIPT_MS), st.sampled_from([1_764_000_000_000, LAST_INSTANT]))
"""The clock at a flush, far from its value at the previous one; it may also be set back."""


@st.composite
def wild_history(draw: st.DrawFn) -> list[list[tuple[int, int, Op]]]:
    """Flushes of (learner, video, op), sometimes with more sessions than a record keeps."""
    names = [f"s{n}" for n in range(draw(st.sampled_from([1, 3, 10, MAX_SESSIONS + 6])))]
    one = st.tuples(st.integers(0, 1), st.sampled_from([0, 0, 0, 1, 2]), wild_ops([*names, "S", "s" * 64]))
    return draw(st.lists(st.lists(one, min_size=1, max_size=10), min_size=1, max_size=10))


@given(data=st.data())
def test_any_history_gives_the_same_bytes_in_both(bench: Bench, data: st.DataObject) -> None:
    """After every flush, whatever its clock says, values, outcomes and revisions equal those of the reference, and the
    totals equal a recount of the audience and of the reference's records."""
    name = bench.fresh()
    history = data.draw(wild_history())
    durations = {f"{name}v{n}": data.draw(st.sampled_from([0, 0, 1_000, DURATION_MS, 30_000])) for n in range(3)}
    for video_id, duration_ms in durations.items():
        bench.catalogue(video_id, duration_ms)
    reference = Reference(durations)
    for flush in history:
        batch, now = batch_of(((f"{name}u{user}", f"{name}v{video}"), op) for user, video, op in flush), data.draw(nows)
        instants = Instants.of(batch.since, batch.latest, now)
        by_user = sorted(batch.deltas, key=lambda key: list(dict.fromkeys(k[0] for k in batch.deltas)).index(key[0]))
        before = dict(reference.revs)
        want = {key: reference.apply(key, batch.deltas[key].ops, instants) for key in by_user}
        committed = bench.commit(batch, now)
        got = {key: (result.value, result.outcomes) for key, result in committed.results.items()}
        assert got == want
        for user_id, (first, last) in committed.revs.items():
            assert (first, last) == (before.get(user_id, 0), reference.revs[user_id])
    for key, record in reference.records.items():
        assert bench.record(*key) == record
    for video_id in durations:
        assert bench.totals(video_id) == reference.totals(video_id)


@st.composite
def crowded_history(draw: st.DrawFn) -> list[tuple[list[tuple[int, int, Op]], dict[int, list[int]]]]:
    """Flushes of two learners with more videos than allowed, each with the videos of its syncs by learner."""
    videos = st.integers(0, 6)
    one = st.tuples(st.integers(0, 1), videos, wild_ops(["a", "b"]))
    syncs = st.dictionaries(st.integers(0, 1), st.lists(videos, min_size=1, max_size=5), max_size=2)
    return draw(st.lists(st.tuples(st.lists(one, max_size=6), syncs), min_size=1, max_size=8))


@given(limit=st.integers(1, 6), data=st.data())
def test_the_limit_of_videos_is_the_same_in_both(bench: Bench, limit: int, data: st.DataObject) -> None:
    """Heartbeats, bodies, deletions and syncs: both refuse reports that would create one record too many, and all or
    none of a sync; existing records are updated. There are never more records than allowed."""
    name = bench.fresh()
    reference = Reference(max_videos=limit)
    for flush, syncs in data.draw(crowded_history()):
        batch = batch_of(((f"{name}u{user}", f"{name}v{video}"), op) for user, video, op in flush)
        for user, videos in syncs.items():
            user_id, names = f"{name}u{user}", [f"{name}v{video}" for video in videos]
            for video in names:
                item = Report(first_at=90, at=90, seq=IN_SYNC, claimed=9)
                batch.deltas.setdefault((user_id, video), Delta()).ops.append(item)
            batch.syncs[user_id] = frozenset(names)
        want, instants = {}, Instants.of(batch.since, batch.latest, NOW)
        for user_id in dict.fromkeys(user for user, _ in batch.deltas):
            synced = batch.syncs.get(user_id, frozenset())
            fits = reference.fits(user_id, synced)
            own = [key for key in batch.deltas if key[0] == user_id]
            for key in sorted(own, key=lambda key: key[1] not in synced):
                want[key] = reference.apply(key, batch.deltas[key].ops, instants, fits)
        committed = bench.runner.run(bench.with_limit(limit).commit(batch, NOW, nobody))
        assert {key: (result.value, result.outcomes) for key, result in committed.results.items()} == want
        assert all(reference.room(user_id) >= 0 for user_id, _ in batch.deltas)
    for key, record in reference.records.items():
        assert bench.record(*key) == record


@given(sessions=sessions_of(1, longest=3), most=st.integers(1, 3), data=st.data())
def test_long_histories_of_more_sessions_than_a_record_keeps(
    bench: Bench, sessions: list[list[Report]], most: int, data: st.DataObject
) -> None:
    """The list of guards overflows in the same way in both: the same guards remain, in the same order and bytes."""
    key = (bench.fresh(), bench.fresh())
    template = sessions[0]
    order = data.draw(st.lists(st.integers(0, MAX_SESSIONS + 6), min_size=20, max_size=60))
    shifts = data.draw(st.lists(st.integers(0, 40), min_size=len(order), max_size=len(order)))
    ops = []
    for turn, (number, shift) in enumerate(zip(order, shifts, strict=True)):
        report = template[turn % len(template)]
        at = report.at + shift
        position_at = at if report.position_at else 0
        seq = 1 + turn // (5 * most)
        ops.append(
            replaced(report, session=f"s{number}", first_seq=seq, seq=seq, first_at=at, at=at, position_at=position_at)
        )
    reference = Reference()
    want, outcomes = reference.apply(key, ops)
    result = bench.commit(batch_of((key, op) for op in ops)).results[key]
    assert (result.value, result.outcomes) == (want, outcomes)
    assert len(reference.records[key].guards) <= MAX_SESSIONS


def settled_state(record: Record) -> tuple[bytes, bool]:
    """The parts of a record that must not depend on order: all but the rev and the instant of the completion."""
    return pack_record(replace(record, rev=0, completed_at=0)), record.completed_at > 0


def sequential(streams: Iterable[Iterable[Report]], video_id: str) -> Reference:
    """The result of one session after the other, each report once."""
    reference = Reference()
    for stream in streams:
        reference.apply(("u", video_id), stream)
    return reference


@given(data=st.data())
def test_any_order_and_any_repeats_give_the_same_record(bench: Bench, data: st.DataObject) -> None:
    """Sessions interleaved in any way, with REST bodies and repeated parts, divided into any flushes: record, totals
    and curve equal those of one session after the other."""
    user_id, video_id = bench.fresh(), bench.fresh()
    streams = data.draw(sessions_of(5))
    rest = data.draw(st.lists(rest_reports(), max_size=3))
    reference = sequential([*streams, rest], video_id)
    arriving = [data.draw(with_repeats(stream)) for stream in streams]
    for flush in data.draw(batched(data.draw(interleaved([*arriving, rest])))):
        bench.commit(batch_of(((user_id, video_id), op) for op in flush))
    assert settled_state(bench.record(user_id, video_id)) == settled_state(reference.records["u", video_id])
    assert bench.totals(video_id) == reference.totals(video_id)


@given(data=st.data())
def test_concurrent_writers_give_the_same_record(bench: Bench, data: st.DataObject) -> None:
    """Workers commit sessions of the same record concurrently: nothing is lost or counted twice, and the revisions
    count every change once."""
    user_id, video_id = bench.fresh(), bench.fresh()
    streams = data.draw(sessions_of(2 * WRITERS))
    reference = sequential(streams, video_id)
    shares: list[list[list[Report]]] = []
    for number in range(WRITERS):
        own = [data.draw(with_repeats(stream)) for stream in streams[number::WRITERS]]
        shares.append(data.draw(batched(data.draw(interleaved(own)))))

    async def write(store: Store, share: list[list[Report]]) -> list[tuple[int, int]]:
        spans = []
        for flush in share:
            committed = await store.commit(batch_of(((user_id, video_id), op) for op in flush), NOW, nobody)
            spans.append(committed.revs[user_id])
        return spans

    async def all_write() -> list[tuple[int, int]]:
        spans = await asyncio.gather(*(write(s, share) for s, share in zip(bench.stores, shares, strict=True)))
        return list(itertools.chain.from_iterable(spans))

    spans = bench.runner.run(all_write())
    record = bench.record(user_id, video_id)
    assert settled_state(record) == settled_state(reference.records["u", video_id])
    assert bench.totals(video_id) == reference.totals(video_id)
    changes = sorted(last for first, last in spans if last > first)
    assert changes == list(range(1, record.rev + 1))


@given(data=st.data())
def test_a_repeated_commit_changes_nothing(bench: Bench, data: st.DataObject) -> None:
    """The store's answer was lost, so the same batch is committed again, with its deletions: states, revision and
    totals stay the same. Reports that the batch joined and then deleted now have the outcome DELETED.

    The clock may have any value at each flush, and is later at the repeat: instants are corrected only once.

    Not guaranteed: a deletion of nothing leaves no trace, so its repeat deletes what the batch joined after it.
    """
    name = bench.fresh()
    reference = Reference()
    for flush in data.draw(wild_history()):
        keyed = [((f"{name}u{user}", f"{name}v{video}"), op) for user, video, op in flush]
        batch, now = batch_of(keyed), data.draw(nows)
        instants = Instants.of(batch.since, batch.latest, now)
        batch.deltas.clear()
        for key, op in keyed:
            if Outcome.NOTHING_TO_DELETE not in reference.apply(key, [op], instants)[1][1:]:
                batch.deltas.setdefault(key, Delta()).ops.append(op)
        first = bench.commit(batch, now)
        totals = [bench.totals(video_id) for _, video_id in batch.deltas]
        second = bench.commit(batch, now + data.draw(st.integers(0, 100_000)))
        assert {k: r.value for k, r in second.results.items()} == {k: r.value for k, r in first.results.items()}
        assert all(before == after for before, after in second.revs.values())
        assert [bench.totals(video_id) for _, video_id in batch.deltas] == totals
        for key, result in first.results.items():
            before, after = outcomes_of(result.outcomes), outcomes_of(second.results[key].outcomes)
            gone = (Outcome.DELETED, Outcome.NOTHING_TO_DELETE)
            assert all(code in gone for i, code in after.items() if before.get(i) != code)


def outcomes_of(flat: tuple[int, ...]) -> dict[int, int]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


@given(data=st.data())
def test_a_crash_between_the_stages_is_corrected(bench: Bench, data: st.DataObject) -> None:
    """After a crash between the learners' records and the videos' totals, the retry of the batch corrects the totals,
    or, if its worker died too, the record's next report from another worker."""
    name = bench.fresh()
    user_id, video_id = f"{name}u", f"{name}v"
    reference = Reference()
    flushes = data.draw(st.lists(st.lists(wild_ops(["a", "b"]), min_size=1, max_size=4), min_size=1, max_size=5))
    for flush in flushes:
        kept = [op for op in flush if not isinstance(op, int)]  # a repeated batch with deletions has a test of its own
        if not kept:
            continue
        batch = batch_of(((user_id, video_id), op) for op in kept)
        reference.apply((user_id, video_id), kept, Instants.of(batch.since, batch.latest, NOW))
        crashing = data.draw(st.booleans())
        bench.store.alive = not crashing
        if crashing:
            with pytest.raises(StoreUnavailable):
                bench.commit(batch)
            if data.draw(st.booleans()):
                bench.commit(batch)
        else:
            bench.commit(batch)
    probe = Report(first_at=NOW, at=NOW, session="z", first_seq=1, seq=1, seen=[0, 1], played_ms=1_000)
    last = batch_of([((user_id, video_id), probe)])
    reference.apply((user_id, video_id), [probe], Instants.of(last.since, last.latest, NOW))
    bench.runner.run(bench.stores[1].commit(last, NOW, nobody))
    got = bench.record(user_id, video_id)
    assert got == reference.records[user_id, video_id]
    assert bench.totals(video_id) == reference.totals(video_id)


def test_a_repeated_deletion_keeps_later_plays(bench: Bench) -> None:
    """A deletion and a play after it are in a batch whose answer was lost: the retry must not delete the play."""
    key = (bench.fresh(), bench.fresh())
    old = Report(first_at=100, at=100, session="a", first_seq=1, seq=1, seen=[0, 5], played_ms=5_000)
    new = Report(first_at=300, at=300, session="a", first_seq=2, seq=2, seen=[5, 9], played_ms=4_000)
    bench.commit(batch_of([(key, old)]))
    batch = batch_of([(key, 200), (key, new)])
    value = bench.commit(batch).results[key].value
    assert bench.commit(batch).results[key].value == value
    record = intact(unpack_record(value))
    assert (record.deleted_at, record.seen, record.played_ms) == (200, [5, 9], 4_000)


def test_instants_of_a_fast_clock_do_not_win(bench: Bench) -> None:
    """A record has 20 sessions from a clock that was a day ahead. With the first flush of a correct clock a new
    session's report wins every register, as do a deletion and a play after it; late reports still lose. (As always, if
    the list of sessions is full, one older than all of them adds no plays.)"""
    key, day = (bench.fresh(), bench.fresh()), 86_400_000
    now = 1_764_000_000_000
    fast = [
        Report(
            now + day + n, now + day + n, f"s{n}", 1, 1, [0, 60], [], 60_000, 600_000, now + day + n, True, 0, 900_000
        )
        for n in range(20)
    ]
    bench.commit(batch_of((key, op) for op in fast), now + day + 20)
    late = Report(now - 60_000, now - 60_000, "late", 1, 1, [60, 70], [], 10_000, 5_000, now - 60_000, True)
    new = Report(now, now, "new", 1, 1, [70, 80], [], 10_000, 80_000, now)
    record = intact(unpack_record(bench.commit(batch_of([(key, late)]), now).results[key].value))
    assert (record.position, record.seen) == (600_000, [0, 70])
    assert record.last_watched <= now
    record = intact(unpack_record(bench.commit(batch_of([(key, new)]), now).results[key].value))
    assert (record.position, record.last_watched, record.played_ms) == (80_000, now, 20 * 60_000 + 10_000)
    bench.commit(batch_of((key, op) for op in [now + day]), now + day)
    after = Report(now + 5, now + 5, "new", 2, 2, [80, 90], [], 10_000, 90_000, now + 5)
    result = bench.commit(batch_of([(key, after)]), now + 5).results[key]
    record = intact(unpack_record(result.value))
    assert (result.outcomes, record.seen, record.position, record.last_watched) == ((), [80, 90], 90_000, now + 5)
    assert record.deleted_at < now
    result = bench.commit(batch_of([(key, now + 9)]), now + 9).results[key]
    assert (result.outcomes, intact(unpack_record(result.value)).deleted_at) == ((), now + 9)


def every_other(first: int, count: int) -> list[int]:
    """`count` single seconds, none adjacent to another."""
    return [edge for n in range(count) for edge in (first + 2 * n, first + 2 * n + 1)]


def plain(seq: int, seen: list[int], again: list[int] | None = None, **more: Any) -> Report:
    return Report(first_at=seq, at=seq, session="a", first_seq=seq, seq=seq, seen=seen, again=again or [], **more)


FULL = every_other(0, MAX_INTERVALS)
CORNERS: dict[str, list[Op]] = {
    "the set is just full": [plain(1, FULL, FULL), plain(2, FULL)],
    "one interval too many": [plain(1, FULL), plain(2, every_other(10_000, 1), played_ms=1_000), plain(3, [0, 3])],
    "one in a single report": [plain(1, every_other(0, MAX_INTERVALS + 1), claimed=9)],
    "again is full and seen is not": [plain(1, [0, 20_000]), plain(2, FULL), plain(3, every_other(10_000, 1))],
    "the last second of 48 h": [plain(1, [MAX_MEDIA_S - 1, MAX_MEDIA_S], duration_ms=MAX_MEDIA_S * 1_000)],
    "all of 48 h": [plain(1, [0, MAX_MEDIA_S], played_ms=MAX_MEDIA_S * 1_000, duration_ms=MAX_MEDIA_S * 1_000)],
    "the largest integers": [
        Report(LAST_INSTANT, LAST_INSTANT, "s" * 64, MAX_SEQ, MAX_SEQ, [], [], 0, 0, LAST_INSTANT, True, MAX_MEDIA_S),
        LAST_INSTANT,
    ],
    "integers at every width of msgpack": [
        plain(seq, [seq, 2 * seq], played_ms=seq, claimed=min(seq, MAX_MEDIA_S), position_ms=seq, position_at=seq)
        for seq in (1, 127, 128, 255, 256, 65_535, 65_536)
    ],
    "no session's guards, and names at every width": [
        Report(at, at, "n" * at, 1, 1, [0, at]) for at in (1, 31, 32, 64)
    ],
}


@pytest.mark.parametrize("ops", CORNERS.values(), ids=CORNERS)
def test_corners(bench: Bench, ops: list[Op]) -> None:
    """Cases that random histories seldom reach: full sets, the ends of every range, each width of an integer."""
    key = (bench.fresh(), bench.fresh())
    reference = Reference()
    want, outcomes = reference.apply(key, ops)
    result = bench.commit(batch_of((key, op) for op in ops)).results[key]
    assert (result.value, result.outcomes) == (want, outcomes)
    assert bench.totals(key[1]) == reference.totals(key[1])


@pytest.mark.parametrize("threshold", [1, 500, 899, 900, 999, 1_000])
@pytest.mark.parametrize("duration_ms", [1, 999, 1_000, 1_001, 9_999, 10_000, 90_500, MAX_MEDIA_S * 1_000])
def test_completion_is_the_same_at_every_edge(bench: Bench, threshold: int, duration_ms: int) -> None:
    """One second below, at and above the threshold, computed in integers."""
    edge = threshold * duration_ms // 1_000_000
    for claimed in (max(0, edge - 1), edge, edge + 1):
        key = (bench.fresh(), bench.fresh())
        report = Report(first_at=7, at=7, claimed=min(claimed, MAX_MEDIA_S), duration_ms=duration_ms)
        committed = bench.runner.run(bench.with_threshold(threshold).commit(batch_of([(key, report)]), NOW, nobody))
        assert committed.results[key].value == pack_record(join(Record(rev=1), report, 0, threshold)[0])
