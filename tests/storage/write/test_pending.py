"""The pending batch: which reports are joined while they wait, which are not, and how many may wait."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as replaced

from playhead.protocol.record import Outcome, Record, Report, delete, join
from playhead.server.lifecycle.waiters import Waiter
from playhead.storage.values.damage import Damaged
from playhead.storage.values.instants import Instants
from playhead.storage.values.packing import pack_record
from playhead.storage.write.pending import (
    APART,
    MAX_RUN,
    MAX_WAITING,
    Committed,
    Delta,
    Full,
    Pending,
    Reporter,
    Result,
)
from tests.histories import Op, interleaved, report_of, sessions_of, with_repeats

SINCE = 1_000
"""When the batches of these tests started, ms."""


class Sender:
    """A reporter that records when its reports are committed."""

    since = 0

    def __init__(self) -> None:
        self.commits = 0

    def committing(self) -> None:
        self.commits += 1

    def outcome(self, op: Report | int, outcome: Outcome) -> None:
        raise AssertionError("no store has answered")

    def stored(self, committed: Committed) -> None:
        raise AssertionError("nothing is stored")


def beat(session: str, seq: int, at: int = SINCE) -> Report:
    return report_of(session, seq, at, [(seq * 1_000, seq * 1_000 + 1_000)])


def waiting(ops: Sequence[Op], reporter: Reporter | None = None) -> list[Op]:
    """The ops of a delta to which `ops` were added."""
    delta = Delta()
    for op in ops:
        delta.add(op, reporter or Sender(), SINCE)
    return delta.ops


def short(ops: Sequence[Op]) -> list[object]:
    return [op if isinstance(op, int) else (op.session, op.seqs) for op in ops]


def after(ops: Sequence[Op]) -> bytes:
    """The record after `ops`, without what joining reports may change: the position, which
    tests/protocol/test_record.py covers, and the instant of the completion."""
    record = Record()
    for op in ops:
        record = join(record, op, 0, 900)[0] if isinstance(op, Report) else delete(record, op)[0]
    completed_at = int(record.completed_at > 0)
    return pack_record(
        replace(record, position_ms=-1, position_at=0, unsettled_ms=-1, unsettled_at=0, completed_at=completed_at)
    )


def test_a_few_reports_are_kept_apart() -> None:
    """So that the store can tell repeats from new reports by their seqs."""
    assert short(waiting([beat("a", seq) for seq in range(1, APART + 1)])) == [
        ("a", [seq]) for seq in range(1, APART + 1)
    ]


def test_more_consecutive_reports_of_a_session_are_joined() -> None:
    """An outage of an hour takes the memory of a few reports, and each seq is kept; none has more than MAX_RUN."""
    ops = waiting([beat("a", seq) for seq in range(1, 721)])
    full = APART + MAX_RUN
    apart = [("a", [seq]) for seq in range(1, APART)]
    assert short(ops) == [*apart, ("a", list(range(APART, full))), ("a", list(range(full, 721)))]
    last = ops[-1]
    assert isinstance(last, Report)
    assert (last.first_seq, last.seq, last.played_ms) == (full, 720, (721 - full) * 1_000)


def test_only_reports_of_the_same_session_are_joined() -> None:
    """Whatever is between two reports of a session."""
    ops = waiting([beat(name, seq) for seq in range(1, 31) for name in ("a", "b")])
    assert len(ops) == APART
    for name in ("a", "b"):
        seqs = [seq for op in ops if isinstance(op, Report) and op.session == name for seq in op.seqs]
        assert seqs == list(range(1, 31))


@pytest.mark.parametrize("known", [1, 5, APART, APART + 5])
def test_a_repeated_report_does_not_count_again(known: int) -> None:
    """A player that reconnects sends unacked reports again while their first copies are still pending."""
    sent = [beat("a", seq) for seq in range(1, known + 1)]
    once, twice = waiting(sent), waiting([*sent, sent[-1]])
    assert twice == once


def test_a_replay_during_an_outage_keeps_later_plays_complete() -> None:
    """A player reconnects while the store is unavailable, sends everything again and plays on: no play is lost."""
    sent = [beat("a", seq) for seq in range(1, 31)]
    new = [beat("a", seq) for seq in range(31, 41)]
    assert waiting([*sent, *sent, *new]) == waiting([*sent, *new])
    assert after(waiting([*sent, *sent, *new])) == after([*sent, *new])


def test_reports_from_before_the_batch_are_kept_apart() -> None:
    """Another worker may have them already, or they may precede a deletion that this process does not know of."""
    ops = waiting([beat("a", seq, at=SINCE - 1) for seq in range(1, 2 * APART + 1)])
    assert short(ops) == [("a", [seq]) for seq in range(1, 2 * APART + 1)]


@pytest.mark.parametrize("of", ["a connection", "a request"])
async def test_reports_from_before_their_origin_was_opened_are_kept_apart(of: str) -> None:
    """The player may have sent them to another process, which may store some of them first."""
    reporter = Waiter() if of == "a request" else Sender()
    if isinstance(reporter, Sender):
        reporter.since = SINCE + 1
    sent = [beat("a", seq) for seq in range(1, 2 * APART + 1)]
    assert short(waiting(sent, reporter)) == [("a", [seq]) for seq in range(1, 2 * APART + 1)]


def test_rest_bodies_are_kept_apart() -> None:
    """They have no session, and each needs an outcome of its own."""
    ops = waiting([report_of("", 0, SINCE, claimed=n) for n in range(1, 2 * APART + 1)])
    assert [op.claimed for op in ops if isinstance(op, Report)] == list(range(1, 2 * APART + 1))


def test_nothing_is_joined_across_a_deletion() -> None:
    """Later plays would be deleted together with earlier ones."""
    before = [beat("a", seq, at=SINCE) for seq in range(1, APART + 1)]
    later = beat("a", APART + 1, at=SINCE + 2)
    ops = waiting([*before, SINCE + 1, later])
    assert ops == [*before, SINCE + 1, later]
    assert after(ops) == after([*before, SINCE + 1, later])


def test_play_after_a_deletion_does_not_join_a_repeat_from_before_it() -> None:
    """The joined report would start before the deletion, and be dropped as a whole."""
    first = [beat("a", seq) for seq in range(1, APART + 1)]
    ops: list[Op] = [*first, SINCE + 1, first[-1], beat("a", APART + 1, at=SINCE + 2)]
    assert waiting(ops) == ops


def test_a_repeat_after_a_deletion_stays_deleted() -> None:
    """It is kept apart, and the store recognises it as a repeat."""
    first = beat("a", 1)
    assert after(waiting([first, SINCE + 1, first])) == after([first, SINCE + 1])


@given(data=st.data())
def test_joining_pending_reports_does_not_change_the_record(data: st.DataObject) -> None:
    """However reports of several sessions, repeats and deletions are interleaved, the record is that of the separate
    reports."""
    streams = [
        [replaced(report, at=report.at + SINCE, first_at=report.at + SINCE) for report in stream]
        for stream in data.draw(sessions_of(3, longest=8))
    ]
    ops: list[Op] = list(data.draw(interleaved([data.draw(with_repeats(stream)) for stream in streams])))
    if data.draw(st.booleans()):
        ops.insert(data.draw(st.integers(0, len(ops))), SINCE + data.draw(st.integers(1, 99)))
    assert after(waiting(ops)) == after(ops)


def test_one_record_has_room_for_an_outbox_and_no_more() -> None:
    """Beyond that, reports that can't be joined are refused and not added."""
    sender, late = Sender(), Sender()
    delta = Delta()
    for seq in range(1, MAX_WAITING + 1):
        delta.add(beat("a", seq, at=1), sender, SINCE)
    with pytest.raises(Full):
        delta.add(beat("a", MAX_WAITING + 1, at=1), late, SINCE)
    assert len(delta.ops) == MAX_WAITING
    assert delta.reporters == [sender]
    delta.add(beat("a", MAX_WAITING, at=1), sender, SINCE)
    assert len(delta.ops) == MAX_WAITING


def test_a_full_batch_refuses_reports() -> None:
    """Reports of new records as well as of known ones. The batch does not change."""
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
    assert list(batch.reporters) == [sender]
    assert late.commits == 0


def test_one_user_can_use_only_their_share() -> None:
    """All of their reports count, although counting starts when more than a share are pending; others have the rest."""
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


def test_joined_reports_count_once_in_a_share() -> None:
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
def test_check_room_checks_all_reports_of_a_request(user: str, reports: int, fits: bool) -> None:
    """A request checks before it adds its first report, so that all or none of them are added."""
    pending = Pending(7, SINCE, 5)
    for number in range(2):
        pending.add("u", f"v{number}", beat("a", 1), Sender())
    if fits:
        pending.check_room(user, reports)
    else:
        with pytest.raises(Full):
            pending.check_room(user, reports)


def test_joined_reports_take_no_room() -> None:
    """In an outage memory depends on the number of connections, not on the number of their reports."""
    pending = Pending(2 * APART, SINCE)
    for seq in range(1, MAX_RUN):
        pending.add("u", "v", beat("a", seq), Sender())
    assert len(pending) == APART


def test_take_starts_a_new_batch() -> None:
    """Every reporter is notified once, in the order of their first reports; there is room again."""
    pending = Pending(2, SINCE)
    first, second, touching = Sender(), Sender(), Sender()
    pending.add("u", "v", beat("a", 1), first)
    pending.add("u", "w", beat("b", 1), second)
    pending.touch(touching)
    batch = pending.take(SINCE + 5)
    assert list(batch.reporters) == [first, second, touching]
    assert [sender.commits for sender in (first, second, touching)] == [1, 1, 1]
    assert len(pending) == 0
    assert not pending.take(SINCE + 6)
    pending.add("u", "v", beat("a", 2), first)
    assert short(pending.take(SINCE + 7).deltas["u", "v"].ops) == [("a", [2])]


def test_reports_are_joined_only_from_the_start_of_the_batch() -> None:
    """A report of the time of the last batch may be in another process's batch."""
    pending = Pending(100, SINCE)
    pending.take(SINCE + 50)
    for seq in range(1, APART + 3):
        pending.add("u", "v", beat("a", seq, at=SINCE + 49), Sender())
    assert len(pending) == APART + 2


def test_a_forgotten_origin_is_not_notified_and_its_reports_stay() -> None:
    """Plays of a closed connection are stored."""
    pending = Pending(2, SINCE)
    gone = Sender()
    pending.add("u", "v", beat("a", 1), gone)
    pending.forget(gone)
    pending.forget(gone)
    batch = pending.take(SINCE)
    assert (gone.commits, list(batch.reporters), list(batch.deltas)) == (0, [], [("u", "v")])
    assert batch


def test_touch_alone_makes_a_batch() -> None:
    """A reporter all of whose reports were rejected still gets an ack."""
    pending = Pending(1, SINCE)
    assert not pending.take(SINCE)
    sender = Sender()
    pending.touch(sender)
    batch = pending.take(SINCE)
    assert batch
    assert (list(batch.reporters), batch.deltas) == ([sender], {})


def test_a_batch_has_its_latest_instant_and_the_arrival_of_its_first_report() -> None:
    """A commit accepts no later instants in stored records. If the clock was set back meanwhile, those of the batch are
    later than now, although no other clock made them."""
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
def test_which_stored_instants_a_commit_accepts(since: int, latest: int, now: int, want: tuple[int, int]) -> None:
    assert Instants.of(since, latest, now) == want


def test_a_damaged_value_of_a_commit_is_counted_once_however_often_it_is_read() -> None:
    committed = Committed("epoch", {("u", "v"): Result(b"\xc1", ())})
    first, second = (committed.record(("u", "v")) for _ in range(2))
    assert isinstance(first, Damaged)
    assert first is second
    assert committed.damage.counts["record"] == 1
