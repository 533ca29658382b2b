"""The running batch: what is joined while it waits, what is not, and how much may wait."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as replaced

from playhead.protocol.record import Outcome, Record, Report, delete, join
from playhead.server.lifecycle.waiters import Waiter
from playhead.storage.values.instants import Instants
from playhead.storage.values.packing import pack_record
from playhead.storage.write.pending import APART, MAX_RUN, MAX_WAITING, Committed, Delta, Full, Origin, Pending
from tests.histories import Op, interleaved, report_of, sessions_of, with_repeats

SINCE = 1_000
"""When the batches of these tests began, ms."""


class Sender:
    """An origin that notes when its reports left."""

    since = 0

    def __init__(self) -> None:
        self.times_taken = 0

    def taken(self) -> None:
        self.times_taken += 1

    def outcome(self, op: Report | int, outcome: Outcome) -> None:
        raise AssertionError("no store has answered")

    def stored(self, committed: Committed) -> None:
        raise AssertionError("nothing is stored")


def beat(session: str, seq: int, at: int = SINCE) -> Report:
    return report_of(session, seq, at, [(seq * 1_000, seq * 1_000 + 1_000)])


def waiting(ops: Sequence[Op], origin: Origin | None = None) -> list[Op]:
    """How `ops` wait in one delta."""
    delta = Delta()
    for op in ops:
        delta.add(op, origin or Sender(), SINCE)
    return delta.ops


def short(ops: Sequence[Op]) -> list[object]:
    return [op if isinstance(op, int) else (op.session, op.seqs) for op in ops]


def after(ops: Sequence[Op]) -> bytes:
    """The record that `ops` leave, but for what a run may tell differently: the registers of the position, which
    tests/protocol/test_record.py has, and the instant of the completion."""
    record = Record()
    for op in ops:
        record = join(record, op, 0, 900)[0] if isinstance(op, Report) else delete(record, op)[0]
    completed_at = int(record.completed_at > 0)
    return pack_record(
        replace(record, position_ms=-1, position_at=0, unsettled_ms=-1, unsettled_at=0, completed_at=completed_at)
    )


def test_a_few_reports_wait_apart() -> None:
    """So that the store can tell a repeat from news seq by seq."""
    assert short(waiting([beat("a", seq) for seq in range(1, APART + 1)])) == [
        ("a", [seq]) for seq in range(1, APART + 1)
    ]


def test_beyond_them_neighbours_of_a_session_are_joined() -> None:
    """An outage of an hour costs a few reports of memory, and each seq is known; none holds more than MAX_RUN."""
    ops = waiting([beat("a", seq) for seq in range(1, 721)])
    full = APART + MAX_RUN
    apart = [("a", [seq]) for seq in range(1, APART)]
    assert short(ops) == [*apart, ("a", list(range(APART, full))), ("a", list(range(full, 721)))]
    last = ops[-1]
    assert isinstance(last, Report)
    assert (last.first_seq, last.seq, last.played_ms) == (full, 720, (721 - full) * 1_000)


def test_sessions_are_joined_each_with_its_own() -> None:
    """Whatever stands between two reports of a session."""
    ops = waiting([beat(name, seq) for seq in range(1, 31) for name in ("a", "b")])
    assert len(ops) == APART
    for name in ("a", "b"):
        seqs = [seq for op in ops if isinstance(op, Report) and op.session == name for seq in op.seqs]
        assert seqs == list(range(1, 31))


@pytest.mark.parametrize("known", [1, 5, APART, APART + 5])
def test_report_that_comes_again_is_not_counted_again(known: int) -> None:
    """A player that reconnects sends what it has not seen acked, while the first copy still waits."""
    sent = [beat("a", seq) for seq in range(1, known + 1)]
    once, twice = waiting(sent), waiting([*sent, sent[-1]])
    assert twice == once


def test_replay_during_an_outage_leaves_later_plays_whole() -> None:
    """A player reconnects while the store is away, sends all again and plays on: nothing counts short."""
    sent = [beat("a", seq) for seq in range(1, 31)]
    new = [beat("a", seq) for seq in range(31, 41)]
    assert waiting([*sent, *sent, *new]) == waiting([*sent, *new])
    assert after(waiting([*sent, *sent, *new])) == after([*sent, *new])


def test_reports_of_before_the_batch_stay_apart() -> None:
    """Another worker may have taken them already, or they may lie before a deletion that we don't know."""
    ops = waiting([beat("a", seq, at=SINCE - 1) for seq in range(1, 2 * APART + 1)])
    assert short(ops) == [("a", [seq]) for seq in range(1, 2 * APART + 1)]


@pytest.mark.parametrize("of", ["a connection", "a request"])
async def test_reports_of_before_their_origin_came_stay_apart(of: str) -> None:
    """The player may have sent them to another process, and that may store some of them first."""
    origin = Waiter() if of == "a request" else Sender()
    if isinstance(origin, Sender):
        origin.since = SINCE + 1
    sent = [beat("a", seq) for seq in range(1, 2 * APART + 1)]
    assert short(waiting(sent, origin)) == [("a", [seq]) for seq in range(1, 2 * APART + 1)]


def test_rest_bodies_stay_apart() -> None:
    """They have no session, and each wants its own word."""
    ops = waiting([report_of("", 0, SINCE, claimed=n) for n in range(1, 2 * APART + 1)])
    assert [op.claimed for op in ops if isinstance(op, Report)] == list(range(1, 2 * APART + 1))


def test_nothing_is_joined_across_a_deletion() -> None:
    """What was played after it would be deleted with what came before."""
    before = [beat("a", seq, at=SINCE) for seq in range(1, APART + 1)]
    later = beat("a", APART + 1, at=SINCE + 2)
    ops = waiting([*before, SINCE + 1, later])
    assert ops == [*before, SINCE + 1, later]
    assert after(ops) == after([*before, SINCE + 1, later])


def test_play_after_a_deletion_does_not_join_a_repeat_from_before_it() -> None:
    """The run would have begun before the deletion, and be dropped whole."""
    first = [beat("a", seq) for seq in range(1, APART + 1)]
    ops: list[Op] = [*first, SINCE + 1, first[-1], beat("a", APART + 1, at=SINCE + 2)]
    assert waiting(ops) == ops


def test_repeat_that_waits_behind_a_deletion_stays_deleted() -> None:
    """It is kept apart, and the store knows it for a repeat."""
    first = beat("a", 1)
    assert after(waiting([first, SINCE + 1, first])) == after([first, SINCE + 1])


@given(data=st.data())
def test_waiting_changes_nothing(data: st.DataObject) -> None:
    """However the reports of some sessions mix, repeats and deletions among them: the record is that of the reports
    one by one."""
    streams = [
        [replaced(report, at=report.at + SINCE, first_at=report.at + SINCE) for report in stream]
        for stream in data.draw(sessions_of(3, longest=8))
    ]
    ops: list[Op] = list(data.draw(interleaved([data.draw(with_repeats(stream)) for stream in streams])))
    if data.draw(st.booleans()):
        ops.insert(data.draw(st.integers(0, len(ops))), SINCE + data.draw(st.integers(1, 99)))
    assert after(waiting(ops)) == after(ops)


def test_one_record_has_room_for_an_envelope_and_no_more() -> None:
    """Reports that can't be joined are refused then: nothing of the one too many is taken."""
    sender, late = Sender(), Sender()
    delta = Delta()
    for seq in range(1, MAX_WAITING + 1):
        delta.add(beat("a", seq, at=1), sender, SINCE)
    with pytest.raises(Full):
        delta.add(beat("a", MAX_WAITING + 1, at=1), late, SINCE)
    assert len(delta.ops) == MAX_WAITING
    assert delta.origins == [sender]
    delta.add(beat("a", MAX_WAITING, at=1), sender, SINCE)
    assert len(delta.ops) == MAX_WAITING


def test_batch_that_is_full_takes_nothing() -> None:
    """Not a new record, not one more report of a known one; and what it has is untouched."""
    pending = Pending(3, SINCE)
    sender, late = Sender(), Sender()
    for number in range(3):
        pending.add("u", f"v{number}", beat("a", 1), sender)
    for video_id in ("v0", "new"):
        with pytest.raises(Full):
            pending.add("u", video_id, beat("b", 1), late)
    assert len(pending) == 3
    batch = pending.take(SINCE)
    assert {key: short(delta.ops) for key, delta in batch.deltas.items()} == {
        ("u", f"v{number}"): [("a", [1])] for number in range(3)
    }
    assert list(batch.origins) == [sender]
    assert late.times_taken == 0


def test_one_user_takes_their_share_and_leaves_the_rest_to_others() -> None:
    """Counted from the first report on, though only once more wait than a share; other users have the rest."""
    pending = Pending(20, SINCE, 5)
    for number in range(2):
        pending.add("calm", f"v{number}", beat("a", 1), Sender())
    for number in range(5):
        pending.add("eager", f"v{number}", beat("a", 1), Sender())
    for video_id in ("v0", "new"):
        with pytest.raises(Full):
            pending.add("eager", video_id, beat("b", 1), Sender())
    assert len(pending) == 7
    for user, room in (("calm", 3), ("third", 5), ("fourth", 5)):
        for number in range(room):
            pending.add(user, f"w{number}", beat("a", 1), Sender())
        with pytest.raises(Full):
            pending.add(user, "more", beat("a", 1), Sender())
    assert len(pending) == 20
    with pytest.raises(Full):
        pending.add("fifth", "v", beat("a", 1), Sender())
    pending.take(SINCE)
    for number in range(5):
        pending.add("eager", f"v{number}", beat("a", 2), Sender())


def test_what_is_joined_counts_once_in_a_share() -> None:
    pending = Pending(100, SINCE, 2 * APART)
    for seq in range(1, MAX_RUN):
        pending.add("u", "v", beat("a", seq), Sender())
    for number in range(APART):
        pending.add("u", f"w{number}", beat("a", 1), Sender())
    with pytest.raises(Full):
        pending.add("u", "more", beat("a", 1), Sender())


@pytest.mark.parametrize(
    ("user", "reports", "fits"),
    [("u", 3, True), ("u", 4, False), ("other", 5, True), ("other", 6, False), ("u", 0, True)],
)
def test_room_for_many_is_room_for_all_of_them(user: str, reports: int, fits: bool) -> None:
    """A request asks before it adds the first, so that it is taken whole or not at all."""
    pending = Pending(7, SINCE, 5)
    for number in range(2):
        pending.add("u", f"v{number}", beat("a", 1), Sender())
    if fits:
        pending.check_room(user, reports)
    else:
        with pytest.raises(Full):
            pending.check_room(user, reports)


def test_joined_reports_take_no_room() -> None:
    """An outage fills memory with who is connected, not with what they send."""
    pending = Pending(2 * APART, SINCE)
    for seq in range(1, MAX_RUN):
        pending.add("u", "v", beat("a", seq), Sender())
    assert len(pending) == APART


def test_taking_begins_a_new_batch() -> None:
    """Everyone in it is told once, in the order they came; there is room again."""
    pending = Pending(2, SINCE)
    first, second, touching = Sender(), Sender(), Sender()
    pending.add("u", "v", beat("a", 1), first)
    pending.add("u", "w", beat("b", 1), second)
    pending.touch(touching)
    batch = pending.take(SINCE + 5)
    assert list(batch.origins) == [first, second, touching]
    assert [sender.times_taken for sender in (first, second, touching)] == [1, 1, 1]
    assert len(pending) == 0
    assert not pending.take(SINCE + 6)
    pending.add("u", "v", beat("a", 2), first)
    assert short(pending.take(SINCE + 7).deltas["u", "v"].ops) == [("a", [2])]


def test_what_may_be_joined_is_told_from_when_the_batch_began() -> None:
    """A report from while the last batch filled may be in another process's by now."""
    pending = Pending(100, SINCE)
    pending.take(SINCE + 50)
    for seq in range(1, APART + 3):
        pending.add("u", "v", beat("a", seq, at=SINCE + 49), Sender())
    assert len(pending) == APART + 2


def test_who_is_gone_is_not_told_and_leaves_its_reports() -> None:
    """A closed connection's plays are stored all the same."""
    pending = Pending(2, SINCE)
    gone = Sender()
    pending.add("u", "v", beat("a", 1), gone)
    pending.forget(gone)
    pending.forget(gone)
    batch = pending.take(SINCE)
    assert (gone.times_taken, list(batch.origins), list(batch.deltas)) == (0, [], [("u", "v")])
    assert batch


def test_touch_alone_makes_a_batch() -> None:
    """Who sent only what was rejected is owed an ack."""
    pending = Pending(1, SINCE)
    assert not pending.take(SINCE)
    sender = Sender()
    pending.touch(sender)
    batch = pending.take(SINCE)
    assert batch
    assert (list(batch.origins), batch.deltas) == ([sender], {})


def test_a_batch_knows_its_latest_instant_and_when_its_first_report_came() -> None:
    """A commit believes no later instant of what is stored; of a clock that was set back meanwhile, these are later
    than now, and were not made by another."""
    pending = Pending(10, SINCE)
    pending.begin(SINCE + 3)
    for op in (beat("a", 1, SINCE + 9), SINCE + 8, beat("a", 2, SINCE + 7)):
        pending.add("u", "v", op, Sender())
    batch = pending.take(SINCE + 10)
    assert (batch.since, batch.latest) == (SINCE + 3, SINCE + 9)
    assert pending.take(SINCE + 11).latest == 0


@pytest.mark.parametrize(
    ("since", "latest", "now", "want"),
    [
        (50_000, 50_100, 51_000, (51_100, 49_000)),
        (50_000, 60_000, 51_000, (60_100, 49_000)),
        (60_000, 60_000, 51_000, (60_100, 50_000)),
        (0, 0, 51_000, (51_100, 50_000)),
        (0, 0, 3, (103, 2)),
    ],
    ids=["as ever", "set back behind a report", "set back behind all", "not noted", "at the beginning of time"],
)
def test_what_a_commit_believes(since: int, latest: int, now: int, want: tuple[int, int]) -> None:
    assert Instants.of(since, latest, now) == want
