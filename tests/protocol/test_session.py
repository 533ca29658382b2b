"""Heartbeats become reports, and acks name the right seqs."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playhead.protocol.errors import FieldError, InvalidMessage, PeerError, Problem
from playhead.protocol.messages import Ack, Heartbeat
from playhead.protocol.record import ABSENT, Outcome, Report
from playhead.protocol.session import MAX_REJECTED, MAX_SESSIONS, Now, Plausibility, Sessions

VIDEO = "00000000-0000-4000-8000-000000000001"
WALL, MONO = 1_764_000_000_000, 5_000_000
START = Now(WALL, MONO)


def later(seconds: float) -> Now:
    """Return the time `seconds` after START, on both clocks."""
    return Now(WALL + round(seconds * 1_000), MONO + round(seconds * 1_000))


def new_sessions() -> Sessions:
    return Sessions("page", Plausibility())


def beat(seq: int = 1, **fields: Any) -> Heartbeat:
    return Heartbeat(seq=seq, video_id=VIDEO, **fields)


def reported(sessions: Sessions, message: Heartbeat, now: Now = START) -> Report:
    """Return the report of a heartbeat, which has to result in one."""
    report = sessions.heartbeat(message, now)
    assert report is not None
    return report


def flushed(sessions: Sessions) -> dict[str, Ack]:
    """Flush everything so far and return the acks by session."""
    sessions.committing()
    return {ack.session: ack for ack in sessions.stored()}


# The content of a report


def test_a_report_has_the_values_of_the_heartbeat() -> None:
    """In ms and whole seconds, at the instant of receipt."""
    message = beat(7, played=[(0, 5), (3, 8)], position=8, seek=True, duration=60.5, watched_duration=9)
    assert reported(new_sessions(), message) == Report(
        first_at=WALL,
        at=WALL,
        session="page",
        first_seq=7,
        seq=7,
        seen=[0, 8],
        again=[3, 5],
        played_ms=10_000,
        position_ms=8_000,
        position_at=WALL,
        seek=True,
        claimed=9,
        duration_ms=60_500,
    )


@pytest.mark.parametrize(
    ("fields", "takes_position"),
    [
        pytest.param({"played": [(0, 5)], "state": "playing"}, True, id="played"),
        pytest.param({"played": [(0, 5)], "state": "paused"}, True, id="played until it was paused"),
        pytest.param({"played": [(0, 5)], "state": "ended"}, True, id="played to the end"),
        pytest.param({"seek": True, "state": "paused"}, True, id="sought while paused"),
        pytest.param({"state": "playing"}, True, id="is playing"),
        pytest.param({"watched_duration": 5, "state": "paused"}, False, id="only claims"),
        pytest.param({"state": "paused"}, None, id="is paused"),
        pytest.param({"state": "ended"}, None, id="stands at the end"),
        pytest.param({"seek": False}, None, id="no change"),
        pytest.param({"played": []}, None, id="played nothing"),
        pytest.param({"played": [(5, 5)]}, None, id="played an empty interval"),
        pytest.param({"watched_duration": 0}, None, id="claims nothing"),
    ],
)
def test_only_playing_or_a_seek_moves_the_position(fields: dict[str, Any], takes_position: bool | None) -> None:
    """A paused player that keeps its socket open changes nothing, and its heartbeats are acked."""
    sessions = new_sessions()
    report = sessions.heartbeat(beat(3, position=4, **fields), START)
    if takes_position is None:
        assert report is None
    else:
        assert report is not None
        assert report.position_ms == (4_000 if takes_position else ABSENT)
        assert report.position_at == (WALL if takes_position else 0)
    assert flushed(sessions)["page"] == Ack(session="page", seq=3)


@pytest.mark.parametrize(
    ("fields", "at"),
    [
        pytest.param({}, WALL, id="no instant: now"),
        pytest.param({"age": 1_500}, WALL - 1_500, id="age"),
        pytest.param({"age": 0, "lastWatched": "2020-01-01"}, WALL, id="age wins over lastWatched"),
        pytest.param({"lastWatched": "2020-01-01T00:00:00.250Z"}, 1_577_836_800_250, id="lastWatched"),
        pytest.param({"lastWatched": "2999-01-01"}, WALL, id="a clock that is ahead"),
        pytest.param({"age": 365 * 86_400_000}, WALL - 365 * 86_400_000, id="a year ago"),
    ],
)
def test_effective_time(fields: dict[str, Any], at: int) -> None:
    """It is the receipt minus `age`; without an age, `lastWatched`, but never later than the receipt."""
    report = reported(new_sessions(), beat(played=[(0, 1)], position=1, **fields))
    assert (report.first_at, report.at, report.position_at) == (at, at, at)


def test_effective_time_is_never_before_the_first_instant() -> None:
    """0 means unknown, and even a server whose clock is near 1970 must not write it."""
    assert reported(new_sessions(), beat(played=[(0, 1)], age=60_000), Now(5_000, MONO)).at == 1


# Plausibility


def credited(sessions: Sessions, message: Heartbeat, now: Now = START) -> tuple[int, list[int]]:
    report = reported(sessions, message, now)
    return report.played_ms, report.seen


@pytest.mark.parametrize("rate", [0.5, 1, 2, 4])
def test_playing_up_to_four_times_as_fast_counts_in_full(rate: float) -> None:
    """A minute of heartbeats, one every 5 s."""
    sessions = new_sessions()
    for seq in range(1, 13):
        start, end = (seq - 1) * 5 * rate, seq * 5 * rate
        assert reported(sessions, beat(seq, played=[(start, end)]), later(5 * seq)).played_ms == 5_000 * rate
    assert flushed(sessions)["page"].capped is None


def test_the_first_report_is_credited_a_minute() -> None:
    """At the fastest rate and with slack: 4 × 60 s + 2 s. The rest is cut from the end and reported as capped."""
    sessions = new_sessions()
    assert credited(sessions, beat(5, played=[(100, 200), (300, 500)])) == (242_000, [100, 200, 300, 442])
    assert flushed(sessions)["page"] == Ack(session="page", seq=5, capped=[5])


@pytest.mark.parametrize(
    ("span_s", "played_ms"), [(0, 242_000), (60, 242_000), (61, 246_000), (3_600, 14_402_000), (172_800, 172_800_000)]
)
def test_the_first_report_is_credited_its_span(span_s: int, played_ms: int) -> None:
    """An hour offline arrives as one entry."""
    report = reported(new_sessions(), beat(played=[(0, 172_800)], span=span_s * 1_000))
    assert report.played_ms == played_ms


def test_a_span_is_credited_only_once() -> None:
    """Later reports are limited by the time since the last one; else a span in each would disable the limit."""
    sessions = new_sessions()
    reported(sessions, beat(1, played=[(0, 242)]))
    report = reported(sessions, beat(2, played=[(0, 3_600)], span=3_600_000), later(5))
    assert report.played_ms == 20_000


def test_unused_time_carries_over() -> None:
    """After a network stall several heartbeats arrive at once, and the second is as true as the first."""
    sessions = new_sessions()
    reported(sessions, beat(1, played=[(0, 242)]))
    assert credited(sessions, beat(2, played=[(300, 310)]), later(30)) == (10_000, [300, 310])
    assert credited(sessions, beat(3, played=[(310, 420)]), later(30)) == (110_000, [310, 420])
    assert sessions.heartbeat(beat(4, played=[(420, 421)]), later(30)) is None
    assert flushed(sessions)["page"].capped == [4]


def test_elapsed_time_is_the_difference_of_event_times() -> None:
    """A report from an hour ago allows an hour of plays since, whenever both arrive; the wall clock does not matter."""
    sessions = new_sessions()
    reported(sessions, beat(1, played=[(0, 242)], age=3_600_000))
    assert reported(sessions, beat(2, played=[(242, 3_842)]), Now(0, MONO)).played_ms == 3_600_000


def test_an_older_report_grants_no_time_twice() -> None:
    """The time before the newest event so far was already granted."""
    sessions = new_sessions()
    reported(sessions, beat(1, played=[(0, 242)], age=10_000))
    assert reported(sessions, beat(2, played=[(0, 100)])).played_ms == 40_000
    assert sessions.heartbeat(beat(3, played=[(0, 100)], age=9_000), START) is None
    assert sessions.heartbeat(beat(4, played=[(0, 100)]), START) is None


def test_a_report_capped_to_nothing_still_seeks() -> None:
    """Only the plays are cut."""
    sessions = new_sessions()
    reported(sessions, beat(1, played=[(0, 242)]))
    report = reported(sessions, beat(2, played=[(500, 600)], position=600, seek=True))
    assert (report.played_ms, report.seen, report.position_ms) == (0, [], 600_000)


def test_sessions_are_judged_separately() -> None:
    """A session that exceeds its time does not affect another."""
    sessions = new_sessions()
    assert reported(sessions, beat(1, played=[(0, 500)])).played_ms == 242_000
    assert reported(sessions, beat(1, played=[(0, 200)], session="outbox")).played_ms == 200_000


@given(
    beats=st.lists(
        st.tuples(st.integers(0, 400), st.integers(0, 400), st.integers(0, 30), st.integers(0, 100)), max_size=12
    )
)
def test_no_more_is_credited_than_elapsed_time_allows(beats: list[tuple[int, int, int, int]]) -> None:
    """For any heartbeats, at most 4 × (a minute plus the time between the first event and the last) + 2 s."""
    sessions = new_sessions()
    total = passed = 0
    events = []
    for seq, (start, length, step, age) in enumerate(beats, 1):
        passed += step
        report = sessions.heartbeat(beat(seq, played=[(start, start + length)], age=age * 1_000), later(passed))
        events.append((passed - age) * 1_000)
        total += report.played_ms if report else 0
        assert total <= 4 * (60_000 + max(events) - events[0]) + 2_000


# Rejections


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"played": [(0, 1), (6, 5)]}, "/played/1"),
        ({"played": [(6, 5)], "duration": 5}, "/played/0"),
    ],
)
def test_a_heartbeat_that_contradicts_itself_is_rejected_with_the_field(fields: dict[str, Any], pointer: str) -> None:
    """The rejection has its seq, and the rest of the batch is accepted."""
    sessions = new_sessions()
    reported(sessions, beat(1, played=[(0, 1)]))
    assert sessions.heartbeat(beat(2, **fields), START) is None
    reported(sessions, beat(3, played=[(1, 2)]))
    ack = flushed(sessions)["page"]
    assert ack.seq == 3
    assert [(r.seq, r.code, r.detail.split(":")[0]) for r in ack.rejected or ()] == [(2, "invalid", pointer)]


def test_a_rejected_heartbeat_uses_no_time() -> None:
    """And it does not count as the session's first report."""
    sessions = new_sessions()
    sessions.heartbeat(beat(1, played=[(500, 0)], age=0), START)
    assert reported(sessions, beat(2, played=[(0, 500)]), later(1)).played_ms == 242_000


@pytest.mark.parametrize(
    ("fields", "seen", "position_ms"),
    [
        ({"played": [(55, 62.5)], "position": 62.5, "duration": 60.5}, [55, 60], 60_500),
        ({"played": [(55, 62.5)], "position": 62.5}, [55, 62], 62_500),
        ({"played": [(55, 62.5)], "position": 62.5, "duration": 0}, [55, 62], 62_500),
    ],
)
def test_up_to_two_seconds_beyond_the_duration_count_as_rounding(
    fields: dict[str, Any], seen: list[int], position_ms: int
) -> None:
    """They count as the end. Without a known duration nothing is beyond it."""
    report = reported(new_sessions(), beat(**fields))
    assert (report.seen, report.position_ms) == (seen, position_ms)


@pytest.mark.parametrize(
    ("fields", "seen", "position_ms"),
    [
        ({"played": [(0, 1), (2, 3), (58, 63)], "position": 63, "duration": 60}, [0, 1, 2, 3, 58, 60], 60_000),
        ({"played": [(70, 80)], "position": 80, "duration": 60}, [], 60_000),
        ({"played": [(0, 5)], "position": 172_800, "duration": 60}, [0, 5], 60_000),
        ({"played": [(59, 172_800)], "duration": 60, "span": 172_800_000}, [59, 60], ABSENT),
    ],
)
def test_plays_further_beyond_the_duration_are_cut_and_reported_as_capped(
    fields: dict[str, Any], seen: list[int], position_ms: int
) -> None:
    """The rest of the heartbeat is accepted: a rendition may be shorter than the one that was played before."""
    sessions = new_sessions()
    report = reported(sessions, beat(**fields, state="playing"))
    assert (report.seen, report.position_ms) == (seen, position_ms)
    assert flushed(sessions)["page"].capped == [1]


def test_plays_cut_beyond_the_duration_use_no_time() -> None:
    sessions = new_sessions()
    reported(sessions, beat(1, played=[(60, 300)], duration=60, state="playing"))
    assert reported(sessions, beat(2, played=[(0, 242)])).played_ms == 242_000


def test_a_duration_that_is_not_final_is_not_reported_and_cuts_nothing() -> None:
    fields: dict[str, Any] = {"played": [(0, 9)], "position": 9, "duration": 8}
    growing = reported(new_sessions(), beat(**fields, duration_final=False))
    assert (growing.seen, growing.position_ms, growing.duration_ms) == ([0, 9], 9_000, 0)
    final = reported(new_sessions(), beat(**fields, duration_final=True))
    assert (final.seen, final.position_ms, final.duration_ms) == ([0, 8], 8_000, 8_000)


def invalid(seq: int | None, session: str | None = None) -> InvalidMessage:
    return InvalidMessage((FieldError("/position", "should be a number"),), seq, session)


def test_an_invalid_heartbeat_is_rejected_by_its_seq() -> None:
    """In its own session. One without a valid seq is not accepted."""
    sessions = new_sessions()
    assert sessions.refuse(invalid(4))
    assert sessions.refuse(invalid(2, "outbox"))
    assert not sessions.refuse(invalid(None))
    acks = flushed(sessions)
    assert {name: (ack.seq, [r.seq for r in ack.rejected or ()]) for name, ack in acks.items()} == {
        "page": (4, [4]),
        "outbox": (2, [2]),
    }


def test_the_rejections_of_one_ack_are_bounded() -> None:
    """A peer that sends more invalid heartbeats than an ack can name is disconnected."""
    sessions = new_sessions()
    for seq in range(1, MAX_REJECTED + 1):
        sessions.refuse(invalid(seq))
    with pytest.raises(PeerError) as refusal:
        sessions.refuse(invalid(MAX_REJECTED + 1))
    assert refusal.value.problem is Problem.TOO_MANY_BAD


# Acks


def test_nothing_is_acked_before_it_is_stored() -> None:
    """Neither when it arrives nor when its batch is taken."""
    sessions = new_sessions()
    reported(sessions, beat(1, played=[(0, 1)]))
    assert list(sessions.stored()) == []
    sessions.committing()
    assert list(sessions.stored()) == [Ack(session="page", seq=1)]
    assert list(sessions.stored()) == []


def test_two_batches_are_acked_one_after_the_other() -> None:
    """What arrives during a commit belongs to the next ack, including rejections and caps."""
    sessions = new_sessions()
    reported(sessions, beat(1, played=[(0, 500)]))
    sessions.refuse(invalid(2))
    sessions.committing()
    sessions.refuse(invalid(3))
    assert sessions.heartbeat(beat(4, played=[(0, 9)]), START) is None
    first, second = list(sessions.stored()), flushed(sessions)["page"]
    assert [(a.seq, a.capped, [r.seq for r in a.rejected or ()]) for a in first] == [(2, [1], [2])]
    assert (second.seq, second.capped, [r.seq for r in second.rejected or ()]) == (4, [4], [3])


def test_the_batch_being_committed_is_not_replaced_by_the_next() -> None:
    """A second `committing`, for a batch without its reports, changes nothing."""
    sessions = new_sessions()
    reported(sessions, beat(1, played=[(0, 1)]))
    sessions.committing()
    reported(sessions, beat(2, played=[(1, 2)]))
    sessions.committing()
    assert [ack.seq for ack in sessions.stored()] == [1]
    assert flushed(sessions)["page"].seq == 2


@pytest.mark.parametrize(
    ("outcome", "rejected", "capped"),
    [
        (Outcome.JOINED, None, None),
        (Outcome.CAPPED, None, [3, 4]),
        (Outcome.DELETED, ["deleted", "deleted"], None),
        (Outcome.FAILED, ["damaged", "damaged"], None),
        (Outcome.TOO_MANY_VIDEOS, ["too_many_videos", "too_many_videos"], None),
        (Outcome.NOTHING_TO_DELETE, None, None),
    ],
)
def test_an_outcome_of_the_store_is_reported_for_every_seq_of_a_run(
    outcome: Outcome, rejected: list[str] | None, capped: list[int] | None
) -> None:
    """In the ack of its batch."""
    sessions = new_sessions()
    for seq in (2, 3, 4):
        reported(sessions, beat(seq, played=[(0, 1)]))
    sessions.committing()
    sessions.outcome("page", [3, 4], outcome)
    (ack,) = sessions.stored()
    assert (ack.seq, ack.capped) == (4, capped)
    assert [(r.seq, r.code) for r in ack.rejected or ()] == list(zip((3, 4), rejected or (), strict=False))


def test_an_outcome_outside_a_commit_is_ignored() -> None:
    """It may belong to another connection, because the outcomes of a record go to every origin that reported it."""
    sessions = new_sessions()
    reported(sessions, beat(1, played=[(0, 1)]))
    sessions.outcome("page", [1], Outcome.DELETED)
    sessions.outcome("nobody", [1], Outcome.DELETED)
    assert flushed(sessions) == {"page": Ack(session="page", seq=1)}


def test_the_sessions_of_a_connection_are_bounded() -> None:
    """No more may wait for an ack. Sessions that have theirs are forgotten to make room."""
    sessions = new_sessions()
    for number in range(MAX_SESSIONS):
        reported(sessions, beat(1, played=[(0, 1)], session=f"s{number}"))
    with pytest.raises(PeerError) as refusal:
        sessions.heartbeat(beat(1, played=[(0, 1)], session="one-more"), START)
    assert refusal.value.problem is Problem.TOO_MANY_SESSIONS
    sessions.committing()
    with pytest.raises(PeerError):
        sessions.heartbeat(beat(1, played=[(0, 1)], session="one-more"), START)
    assert len(list(sessions.stored())) == MAX_SESSIONS
    reported(sessions, beat(1, played=[(0, 1)], session="one-more"))
    assert list(flushed(sessions)) == ["one-more"]
