"""A poisoned record can be corrected, by the rule in Python and by the store's Lua, byte for byte.

The poison is anything a session could have reported up to NOW while the catalogue did not know the video.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace as replaced

from playhead.protocol.intervals import MAX_INTERVALS, intersection, size
from playhead.protocol.record import MAX_SESSIONS, SETTLE_MS, Outcome, Record, Report, delete, join
from playhead.protocol.scalars import MAX_MEDIA_S
from playhead.storage.values.packing import pack_record
from playhead.storage.write.pending import Key
from tests.histories import DURATION_MS, Op, report_of, wild_ops
from tests.property import test_lua_is_python as twin

NOW = 1_764_000_000_000
BEYOND = DURATION_MS // 1_000 + 1
STEP_MS = 5_000
bench = twin.bench


def every_other(first: int, count: int) -> list[int]:
    """`count` single seconds, none adjacent to another."""
    return [edge for n in range(count) for edge in (first + 2 * n, first + 2 * n + 1)]


def not_later(op: Op) -> Op:
    """The op with instants of at most NOW: no client can date anything after its receipt."""
    if isinstance(op, int):
        return min(op, NOW)
    at, position_at = min(op.at, NOW), min(op.position_at, NOW)
    return replaced(op, first_at=min(op.first_at, NOW), at=at, position_at=position_at)


@st.composite
def full_sets(draw: st.DrawFn) -> list[Op]:
    """Sets with the most intervals allowed, within the video, beyond its end, or across it."""
    first = draw(st.sampled_from([0, 1, BEYOND - 2, BEYOND, BEYOND + 1, 1_000, MAX_MEDIA_S - 2 * MAX_INTERVALS]))
    seconds = every_other(first, draw(st.sampled_from([MAX_INTERVALS - 1, MAX_INTERVALS])))
    contiguous = [seconds[0], seconds[-1]]
    seen = draw(st.sampled_from([seconds, contiguous]))
    at = draw(st.sampled_from([1, NOW]))
    return [Report(at, at, "full", 1, 1, seen, seconds, played_ms=SETTLE_MS)]


@st.composite
def poison(draw: st.DrawFn) -> list[Op]:
    """Arbitrary reports and deletions around full sets, sometimes of more sessions than a record keeps."""
    names = [f"s{n}" for n in range(draw(st.sampled_from([1, 3, MAX_SESSIONS + 2])))]
    wild = st.lists(wild_ops(names).map(not_later), max_size=MAX_SESSIONS + 4)
    return [*draw(wild), *draw(st.one_of(st.just([]), full_sets())), *draw(wild)]


def honest(start_ms: int, end_ms: int, session: str = "honest", at: int = NOW, seq: int = 0) -> Iterator[Report]:
    """Normal watching after NOW, a report every few seconds."""
    for n, start in enumerate(range(start_ms, end_ms, STEP_MS), 1):
        end = min(start + STEP_MS, end_ms)
        yield report_of(session, seq + n, at + n * STEP_MS, [(start, end)], end, duration_ms=DURATION_MS)


def in_both(
    bench: twin.Bench, key: Key, reference: twin.Reference, ops: Iterable[Op], alone: bool = False
) -> list[int]:
    """Commit, check that bytes and outcomes of both are equal and the totals are right, and return the outcomes."""
    all_outcomes: list[int] = []
    ops = list(ops)
    for batch in [[op] for op in ops] if alone or not ops else [ops]:
        want, outcomes = reference.apply(key, batch)
        result = bench.commit(twin.batch_of((key, op) for op in batch)).results[key]
        assert (result.value, result.outcomes) == (want, outcomes)
        all_outcomes += outcomes[1::2]
    kept, curve = bench.totals(key[1])
    assert kept.completed <= kept.viewers <= 1
    assert all(0 <= again <= seen <= 1 for again, seen in zip(curve.replays, curve.viewers, strict=True))
    return all_outcomes


@given(ops=poison())
def test_honest_watching_corrects_a_poisoned_record(bench: twin.Bench, ops: list[Op]) -> None:
    """The catalogue gets the duration, and another page of the learner plays: no report is refused or capped, position
    and seconds are updated, the duration is that of the catalogue, and watching everything completes the video."""
    key = (bench.fresh(), bench.fresh())
    durations = {key[1]: 0}
    reference = twin.Reference(durations)
    in_both(bench, key, reference, ops)
    bench.catalogue(key[1], DURATION_MS)
    durations[key[1]] = DURATION_MS
    poisoned = reference.records[key]
    assert in_both(bench, key, reference, honest(0, 2 * STEP_MS), alone=True) == []
    record = bench.record(*key)
    assert (record.position, record.duration_ms) == (2 * STEP_MS, DURATION_MS)
    assert record.last_watched == NOW + 2 * STEP_MS
    assert record.played_ms == poisoned.played_ms + 2 * STEP_MS
    assert in_both(bench, key, reference, honest(2 * STEP_MS, DURATION_MS, at=NOW + 2 * STEP_MS, seq=2)) == []
    record = bench.record(*key)
    assert (record.position, record.watched) == (DURATION_MS, DURATION_MS // 1_000)
    assert intersection(record.seen, [0, 60]) == [0, 60]
    assert 0 < record.completed_at <= record.last_watched
    assert size(intersection(record.again, record.seen)) == size(record.again)
    kept, curve = bench.totals(key[1])
    assert (kept.viewers, kept.completed, kept.watched) == (1, 1, DURATION_MS // 1_000)
    assert curve.viewers == [1] * 60


@given(ops=poison(), known=st.booleans())
def test_a_delete_starts_a_poisoned_record_afresh(bench: twin.Bench, ops: list[Op], known: bool) -> None:
    """It deletes nothing after now; later plays give the same record as for a learner who never had one."""
    key = (bench.fresh(), bench.fresh())
    durations = {key[1]: DURATION_MS if known else 0}
    bench.catalogue(key[1], durations[key[1]])
    reference = twin.Reference(durations)
    in_both(bench, key, reference, [*ops, NOW])
    assert not bench.record(*key).exists
    assert bench.record(*key).deleted_at <= NOW
    assert in_both(bench, key, reference, honest(20_000, 40_000)) == []
    fresh = Record()
    for report in honest(20_000, 40_000):
        fresh, _ = join(fresh, report, durations[key[1]], twin.THRESHOLD)
    assert bare(bench.record(*key)) == bare(fresh)


def bare(record: Record) -> bytes:
    """The record without what a tombstone keeps: its instant and the sessions."""
    return pack_record(replace(record, rev=0, deleted_at=0, guards=[]))


@given(ops=poison(), delta=st.sampled_from([1, 999, STEP_MS]))
def test_no_poison_is_dated_after_now(ops: Sequence[Op], delta: int) -> None:
    """Neither a deletion nor a report leaves an instant later than honest reports."""
    record = Record()
    for op in ops:
        record = (join(record, op, 0, 900) if isinstance(op, Report) else delete(record, op))[0]
    latest = max(
        record.last_watched, record.deleted_at, record.completed_at, record.position_at, record.unsettled_at,
        *(guard.at for guard in record.guards), 0,
    )  # fmt: skip
    assert latest <= NOW
    seek = report_of("honest", 1, NOW + delta, position_ms=3_000, seek=True)
    after, outcome = join(record, seek, 0, 900)
    assert (outcome, after.position, after.last_watched) == (Outcome.JOINED, 3_000, NOW + delta)


MANY = MAX_INTERVALS
BEYOND_END = every_other(1_000, MANY)
ROOM: dict[str, tuple[list[int], list[int], list[int], list[int], list[int]]] = {
    "all-beyond": (BEYOND_END, [], [0, 5], [0, 5], []),
    "all-beyond-and-again": (BEYOND_END, BEYOND_END, [0, 5], [0, 5], []),
    "only-again-is-full": ([0, 9_000], every_other(3, MANY), [0, 1], [0, 60], [0, 1, *every_other(3, 29)]),
    "across-the-end": ([*every_other(1, 29), *every_other(1_000, MANY - 29)], [], [59, 60], every_other(1, 30), []),
}
"""(seen, again, the seconds played then, seen and again after that)"""


@pytest.mark.parametrize(("seen", "again", "play", "then", "replayed"), ROOM.values(), ids=ROOM)
def test_seconds_beyond_the_end_make_room_once_the_catalogue_knows_it(
    bench: twin.Bench, seen: list[int], again: list[int], play: list[int], then: list[int], replayed: list[int]
) -> None:
    """Otherwise a full set would refuse every second of the video forever. They are removed only if the room is needed,
    so that a mistyped duration does not delete watched seconds."""
    key = (bench.fresh(), bench.fresh())
    durations = {key[1]: 0}
    reference = twin.Reference(durations)
    in_both(bench, key, reference, [Report(NOW, NOW, "s", 1, 1, seen, again, 1_000)])
    bench.catalogue(key[1], DURATION_MS)
    durations[key[1]] = DURATION_MS
    assert in_both(bench, key, reference, [report_of("t", 1, NOW + 1, position_ms=0, seek=True)]) == []
    assert (bench.record(*key).seen, bench.record(*key).again) == (seen, again)
    assert in_both(bench, key, reference, [Report(NOW + 2, NOW + 2, "t", 2, 2, play, [], 1_000)]) == []
    record = bench.record(*key)
    assert (record.seen, record.again) == (then, replayed)


@example(position_ms=MAX_MEDIA_S * 1_000, duration_ms=8_000)
@given(position_ms=st.integers(0, MAX_MEDIA_S * 1_000), duration_ms=st.integers(1_000, SETTLE_MS))
def test_position_of_a_short_video_moves_whatever_was_reported(position_ms: int, duration_ms: int) -> None:
    """No page can play SETTLE_MS of it, so none could pull back a position from beyond the end; the end limits it."""
    record, _ = join(Record(), report_of("a", 1, 1, position_ms=position_ms, seek=True), 0, 900)
    record, _ = join(record, report_of("b", 1, 2, [(0, 1_000)], 1_000), duration_ms, 900)
    assert record.position == 1_000
