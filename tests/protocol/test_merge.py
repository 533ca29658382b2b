"""Merges of whole records: they commute, are idempotent, count no play twice, and what was deleted stays deleted."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as replaced

from playhead.protocol.intervals import MAX_INTERVALS, size
from playhead.protocol.merge import merge
from playhead.protocol.record import MAX_SESSIONS, Record, Report, delete, join
from playhead.storage.values.packing import pack_record, unpack_record
from tests.histories import Op, interleaved, report_of, sessions_of, wild_ops

THRESHOLD = 900


def after(ops: Sequence[Op], record: Record | None = None) -> Record:
    record = record or Record()
    for op in ops:
        record, _ = join(record, op, 0, THRESHOLD) if isinstance(op, Report) else delete(record, op)
    return record


def bytes_without_rev(record: Record) -> bytes:
    """Return the stored bytes with rev 0."""
    return pack_record(replace(record, rev=0))


def associative_part(record: Record) -> bytes:
    """Return the part of a record that associates without exception."""
    return bytes_without_rev(replace(record, played_ms=0, again=[], completed_at=0))


def arbitrary_records() -> st.SearchStrategy[Record]:
    """Generate records of arbitrary histories, with few or too many sessions, and with deletions."""
    few = wild_ops(["a", "b", "c"])
    many = wild_ops([f"s{n}" for n in range(MAX_SESSIONS + 6)])
    return st.one_of(st.lists(few, max_size=8), st.lists(many, min_size=18, max_size=30)).map(after)


@given(a=arbitrary_records(), b=arbitrary_records())
def test_merges_commute_and_are_idempotent(a: Record, b: Record) -> None:
    """Byte for byte, for any two records. The empty record adds nothing, and the store accepts the result."""
    before = pack_record(a), pack_record(b)
    both = merge(a, b)
    assert bytes_without_rev(merge(b, a)) == bytes_without_rev(both)
    assert (
        bytes_without_rev(merge(both, a))
        == bytes_without_rev(merge(both, b))
        == bytes_without_rev(merge(both, both))
        == bytes_without_rev(both)
    )
    assert (
        bytes_without_rev(merge(a, Record()))
        == bytes_without_rev(merge(Record(), a))
        == bytes_without_rev(a)
        == bytes_without_rev(merge(a, a))
    )
    assert (pack_record(a), pack_record(b)) == before, "arguments are left alone"
    assert unpack_record(pack_record(both)) == both
    assert set(seconds(both.again)) <= set(seconds(both.seen))


@given(a=arbitrary_records(), b=arbitrary_records(), c=arbitrary_records())
def test_merges_associate(a: Record, b: Record, c: Record) -> None:
    """Except the two sums, a completion by the merge itself, and the guards beyond MAX_SESSIONS."""
    left, right = merge(merge(a, b), c), merge(a, merge(b, c))
    if len({g.session for r in (a, b, c) for g in r.guards}) > MAX_SESSIONS:
        left, right = replace(left, guards=[]), replace(right, guards=[])
    assert associative_part(left) == associative_part(right)


def seconds(flat: list[int]) -> list[int]:
    return [second for i in range(0, len(flat), 2) for second in range(flat[i], flat[i + 1])]


@given(data=st.data())
def test_records_of_separate_stores_merge_to_the_record_of_one_store(data: st.DataObject) -> None:
    """Where each session used one of the stores the result is exactly the record of all reports, in any order."""
    streams = data.draw(sessions_of(6))
    homes = [data.draw(st.integers(0, 2)) for _ in streams]
    stores = [after([r for s, home in zip(streams, homes, strict=True) if home == n for r in s]) for n in range(3)]
    one = after([report for stream in streams for report in stream])
    first, second, third = data.draw(st.permutations(stores))
    for joined in (merge(merge(first, second), third), merge(first, merge(second, third))):
        assert bytes_without_rev(replace(joined, completed_at=0)) == bytes_without_rev(replace(one, completed_at=0))
        assert (joined.completed_at > 0) == (one.completed_at > 0)


@given(data=st.data())
def test_an_older_state_of_a_record_adds_nothing(data: st.DataObject) -> None:
    """A backup merged into its own store, with deletions in between and with more sessions than are remembered."""
    names = [f"s{n}" for n in range(data.draw(st.sampled_from([2, MAX_SESSIONS + 6])))]
    ops = data.draw(st.lists(wild_ops(names), max_size=30))
    now = 0
    timed: list[Op] = []
    for op in ops:  # nothing happens after its receipt, deletions happen at it
        now += 100
        timed.append(now if isinstance(op, int) else shifted(op, now - data.draw(st.integers(0, 50))))
    cut = data.draw(st.integers(0, len(timed)))
    backup = after(timed[:cut])
    live = after(timed[cut:], backup)
    got = merge(live, backup)
    if (
        len(names) > MAX_SESSIONS
    ):  # a session that was forgotten and reported again may have an older seq than in the backup
        got, live = replace(got, guards=[]), replace(live, guards=[])
    assert bytes_without_rev(got) == bytes_without_rev(live)


def shifted(report: Report, at: int) -> Report:
    position_at = at if report.position_at else 0
    return replaced(report, at=at, first_at=at, position_at=position_at)


@given(data=st.data())
def test_no_play_counts_twice(data: st.DataObject) -> None:
    """Each store has the beginnings of some sessions, which may overlap, and the records merge in any order and with
    repeats. The sums never exceed what was played nor fall below one store's, and every seen second is there."""
    number = data.draw(st.sampled_from([3, MAX_SESSIONS + 4]))
    streams = [
        [report_of(f"s{n}", seq, 10 * seq + n, [(1_000 * a, 1_000 * (a + 3))]) for seq, a in enumerate(starts, 1)]
        for n, starts in enumerate(data.draw(st.lists(st.lists(st.integers(0, 9), max_size=3), max_size=number)))
    ]
    stores: list[Record] = []
    for _ in range(data.draw(st.integers(2, 4))):
        parts = [stream[: data.draw(st.integers(0, len(stream)))] for stream in streams]
        stores.append(after(data.draw(interleaved(parts))))
    known = list(stores)
    while len(stores) > 1 or data.draw(st.integers(0, 2)):
        one = stores.pop(data.draw(st.integers(0, len(stores) - 1)))
        other = data.draw(st.sampled_from(known)) if not stores or data.draw(st.booleans()) else stores.pop()
        stores.append(merge(one, other))
    (got,) = stores
    counts: dict[int, int] = {}
    for stream in streams:
        for report in stream:
            for second in seconds(report.seen):
                counts[second] = counts.get(second, 0) + 1
    assert got.played_ms <= sum(report.played_ms for stream in streams for report in stream)
    assert set(seconds(got.again)) <= {second for second, count in counts.items() if count > 1}


def test_sums_are_too_low_for_stores_with_a_common_past() -> None:
    """New plays cannot be distinguished from common ones: the larger sum stays, and the seen seconds are joined."""
    past = after([report_of("old", 1, 10, [(0, 60_000)])])
    here = after([report_of("here", 1, 20, [(60_000, 90_000)])], past)
    there = after([report_of("there", 1, 30, [(0, 20_000)])], past)
    got = merge(here, there)
    assert (got.played_ms, got.seen, got.again) == (90_000, [0, 90], [0, 20])


def test_sums_are_too_low_for_full_lists_of_sessions() -> None:
    """Either record may have forgotten sessions that the other counts."""
    here = after([report_of(f"h{n}", 1, 10 + n, [(0, 1_000)]) for n in range(MAX_SESSIONS)])
    there = after([report_of("t", 1, 99, [(0, 5_000)])])
    assert merge(here, there).played_ms == 16_000
    assert merge(here, there).again == [0, 1], "the second that both saw is there already"


def test_plays_without_a_session_are_not_added() -> None:
    """This service writes no such record, and its plays may be those of the other."""
    strange = Record(last_watched=9, played_ms=5_000, seen=[0, 5])
    assert merge(strange, strange) == strange
    assert merge(strange, after([report_of("a", 1, 9, [(0, 4_000)])])).played_ms == 5_000


@pytest.mark.parametrize("when", [50, 500])
def test_the_later_deletion_wins(when: int) -> None:
    """Also over plays after it in the store that did not know it, which a record cannot distinguish. Reports of the
    deleted sessions are still dropped."""
    deleted = after([report_of("a", 1, 100, [(0, 5_000)]), 200])
    other = after([report_of("b", 3, when, [(0, 9_000)], position_ms=9_000, claimed=50)])
    got = merge(deleted, other)
    assert (got.exists, got.deleted_at, got.played_ms) == (False, 200, 0)
    assert after([report_of("b", 3, 600, [(0, 9_000)])], got) == got
    assert after([report_of("b", 4, 600, [(0, 2_000)])], got).seen == [0, 2]


def test_plays_after_a_deletion_in_both_records_are_added() -> None:
    """As if there had been nothing before the deletion."""
    deleted = after([report_of("a", 5, 100, [(0, 50_000)]), 200])
    here = after([report_of("a", 6, 300, [(0, 3_000)])], deleted)
    there = after([report_of("b", 1, 300, [(2_000, 8_000)])], deleted)
    got = merge(here, there)
    assert (got.deleted_at, got.played_ms, got.seen, got.again) == (200, 9_000, [0, 8], [2, 3])


def test_two_incomplete_records_can_complete_the_video() -> None:
    """By the duration in the catalogue, where there is one."""
    here = after([report_of("a", 1, 100, [(0, 30_000)], duration_ms=60_000)])
    there = after([report_of("b", 1, 200, [(30_000, 60_000)], duration_ms=60_000)])
    assert merge(here, there).completed_at == 200
    got = merge(here, there, catalogue_ms=100_000)
    assert (got.completed_at, got.duration_ms) == (0, 100_000)


def test_of_too_many_intervals_the_longest_stay() -> None:
    """MAX_INTERVALS of them, and the same ones when merged again."""
    here = Record(last_watched=1, seen=[edge for n in range(MAX_INTERVALS) for edge in (10 * n, 10 * n + 2)])
    there = Record(last_watched=1, seen=[edge for n in range(MAX_INTERVALS) for edge in (10 * n + 5, 10 * n + 8)])
    got = merge(here, there)
    assert (len(got.seen), size(got.seen)) == (2 * MAX_INTERVALS, 3 * MAX_INTERVALS)
    assert merge(got, here) == merge(got, there) == got
