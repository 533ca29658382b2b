"""Stored instants that are later than now are replaced, and nothing else of the record changes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playhead.protocol.record import ABSENT, MAX_SESSIONS, Guard, Outcome, Record, Report, clamp_instants, delete, join
from playhead.protocol.scalars import MAX_INSTANT

NOW, BEFORE = 1_764_000_000_000, 1_763_999_999_000
FUTURE = NOW + 86_400_000
WATCHED = Record(
    rev=3,
    last_watched=NOW - 500,
    played_ms=60_000,
    position_ms=60_000,
    position_at=NOW - 500,
    seen=[0, 60],
    guards=[Guard("a", 12, NOW - 500, 10_000)],
)
instants = st.one_of(
    st.just(0), st.integers(BEFORE - 5, NOW + 5), st.sampled_from([1, FUTURE, FUTURE + 1, MAX_INSTANT])
)


@st.composite
def records(draw: st.DrawFn) -> Record:
    """Records of any clocks, in the order that joins produce: watched after the deletion, unsettled position newest."""
    deleted_at = draw(instants)
    registers = sorted((draw(instants), draw(instants)))
    unsettled = draw(st.booleans())
    guards = [Guard(f"s{n}", n + 1, draw(instants), 0) for n in range(draw(st.integers(0, MAX_SESSIONS)))]
    return Record(
        rev=7,
        deleted_at=deleted_at,
        last_watched=draw(instants.filter(lambda at: at == 0 or at > deleted_at)),
        completed_at=draw(instants),
        position_ms=1_000,
        position_at=registers[0],
        unsettled_ms=2_000 if unsettled else ABSENT,
        unsettled_at=registers[1] if unsettled else 0,
        guards=sorted(guards, key=lambda guard: (guard.at, guard.session)),
    )


@given(record=records())
def test_no_later_instant_is_left_and_the_order_stays(record: Record) -> None:
    """Sessions stay ordered by age, none is lost, correct instants are unchanged, and a second call changes nothing."""
    got = clamp_instants(record, NOW, BEFORE)
    assert max(got.deleted_at, got.completed_at, got.position_at, got.unsettled_at) <= NOW
    assert got.last_watched <= NOW + (record.deleted_at == NOW), "1 ms after a deletion of this very moment"
    assert (got.last_watched > 0, got.deleted_at > 0) == (record.last_watched > 0, record.deleted_at > 0)
    assert got.last_watched == 0 or got.last_watched > got.deleted_at
    if record.position_at > NOW and record.unsettled_at > NOW:
        assert got.position_at < got.unsettled_at
    assert sorted(guard.session for guard in got.guards) == sorted(guard.session for guard in record.guards)
    assert got.guards == sorted(got.guards, key=lambda guard: (guard.at, guard.session))
    assert all(guard.at <= NOW for guard in got.guards)
    assert clamp_instants(got, NOW, BEFORE) == got
    for name in ("deleted_at", "last_watched", "completed_at", "position_at", "unsettled_at"):
        if getattr(record, name) <= NOW:
            assert getattr(got, name) == getattr(record, name)
    assert replace(got, **{name: getattr(record, name) for name in TOUCHED}) == record


TOUCHED = ("deleted_at", "last_watched", "completed_at", "position_at", "unsettled_at", "guards")


def test_a_record_of_correct_clocks_is_unchanged() -> None:
    assert clamp_instants(WATCHED, NOW, BEFORE) is WATCHED


@pytest.mark.parametrize("ahead", [1, 60_000, 86_400_000, MAX_INSTANT - NOW])
def test_a_position_now_wins_over_one_of_the_future(ahead: int) -> None:
    at = NOW + ahead
    record = replace(WATCHED, last_watched=at, position_at=at, guards=[Guard("a", 12, at, 10_000)], completed_at=at)
    record, _ = join(
        clamp_instants(record, NOW, BEFORE), Report(NOW, NOW, "b", 1, 1, [0, 10], [], 10_000, 10_000, NOW), 0, 900
    )
    assert (record.position, record.last_watched, record.played_ms) == (10_000, NOW, 70_000)
    assert record.completed_at < NOW


@pytest.mark.parametrize("ahead", [1, 60_000, 86_400_000, MAX_INSTANT - NOW])
def test_after_a_deletion_of_the_future_plays_of_now_count_and_older_ones_do_not(ahead: int) -> None:
    record = clamp_instants(Record(deleted_at=NOW + ahead, guards=[Guard("a", 12, NOW + ahead, 0, 12)]), NOW, BEFORE)
    assert join(record, Report(NOW, NOW, "b", 1, 1, [0, 9]), 0, 900)[1] is Outcome.JOINED
    assert join(record, Report(BEFORE - 1, BEFORE - 1, "c", 1, 1, [0, 9]), 0, 900)[1] is Outcome.DELETED
    assert join(record, Report(NOW, NOW, "a", 12, 12, [0, 9]), 0, 900)[1] is Outcome.DELETED, "what it had deleted"


def test_a_deletion_now_is_not_extended_by_a_play_of_the_future() -> None:
    record = replace(WATCHED, last_watched=FUTURE, position_at=FUTURE)
    tombstone, _ = delete(clamp_instants(record, NOW, BEFORE), NOW)
    assert tombstone.deleted_at == NOW
