"""What waits for the next flush: bounded, and joined only where that can't change what the store makes of it."""

from itertools import pairwise

import pytest

from protocol.record import Outcome, Record, Report, delete, join
from storage.packing import pack_record
from storage.pending import APART, MAX_WAITING, Batch, Committed, Full, Pending

NOW = 1_764_000_000_000


class Somebody:
    """An origin that remembers being taken."""

    def __init__(self) -> None:
        self.times_taken = 0

    def taken(self) -> None:
        self.times_taken += 1

    def outcome(self, op: Report | int, outcome: Outcome) -> None: ...

    def stored(self, committed: Committed) -> None: ...


def play(seq: int, at: int = NOW, session: str = "s") -> Report:
    return Report(at, at, session, seq, seq, [seq * 5, seq * 5 + 5], [], 5_000, seq * 5_000 + 5_000, at)


def waiting(pending: Pending) -> list[Report | int]:
    (delta,) = pending.take(NOW).deltas.values()
    return delta.ops


def joined(ops: list[Report | int]) -> Record:
    record = Record()
    for op in ops:
        record, _ = delete(record, op) if isinstance(op, int) else join(record, op, 0, 900)
    return record


def test_a_batch_is_taken_once_and_everybody_is_told() -> None:
    """Reports by record, origins without repeats, also those that only wait for a word; then a new batch begins."""
    pending, laptop, phone, asking = Pending(100, NOW), Somebody(), Somebody(), Somebody()
    for seq in (1, 2):
        pending.add("u", "v", play(seq), laptop)
    pending.add("u", "w", play(3), phone)
    pending.touch(asking)
    assert len(pending) == 3
    batch = pending.take(NOW)
    assert {key: len(delta.ops) for key, delta in batch.deltas.items()} == {("u", "v"): 2, ("u", "w"): 1}
    assert list(batch.origins) == [laptop, phone, asking]
    assert batch.deltas["u", "v"].origins == [laptop]
    assert [each.times_taken for each in (laptop, phone, asking)] == [1, 1, 1]
    assert len(pending) == 0
    assert not pending.take(NOW)
    assert not Batch()


def test_who_is_gone_is_owed_nothing_and_what_it_reported_stays() -> None:
    """A closed connection leaves its plays behind."""
    pending, gone = Pending(100, NOW), Somebody()
    pending.add("u", "v", play(1), gone)
    pending.forget(gone)
    batch = pending.take(NOW)
    assert not batch.origins
    assert len(batch.deltas["u", "v"].ops) == 1
    assert gone.times_taken == 0


def test_live_plays_of_an_outage_are_joined_beyond_a_few() -> None:
    """An hour of heartbeats waits in APART reports, and the record comes out as if each had been stored by itself."""
    pending, player = Pending(100_000, NOW), Somebody()
    reports = [play(seq, NOW + seq * 5_000) for seq in range(1, 721)]
    for report in reports:
        pending.add("u", "v", report, player)
    assert len(pending) == APART
    ops = waiting(pending)
    assert [seq for op in ops if isinstance(op, Report) for seq in op.seqs] == list(range(1, 721))
    assert pack_record(joined(ops)) == pack_record(joined(list(reports)))


def test_what_happened_before_the_batch_began_stays_apart() -> None:
    """It may have been sent elsewhere before, or lie before a deletion: only the store can tell, seq by seq."""
    pending, player = Pending(10_000, NOW), Somebody()
    for seq in range(1, 101):
        pending.add("u", "v", play(seq, NOW - 1_000 + seq), player)
    assert [op.seqs for op in waiting(pending) if isinstance(op, Report)] == [[seq] for seq in range(1, 101)]


def test_a_seq_that_is_in_the_batch_already_is_no_news() -> None:
    """A thousand repeats wait as one report, count once, and lose no second that they tell beyond it."""
    pending, player = Pending(10_000, NOW), Somebody()
    for _ in range(1_000):
        pending.add("u", "v", play(1), player)
    odd = play(1)
    odd.seen = [50, 60]
    pending.add("u", "v", odd, player)
    assert len(pending) == 1
    record = joined(waiting(pending))
    assert (record.seen, record.again, record.played_ms) == ([5, 10, 50, 60], [], 5_000)


def test_sessions_and_requests_are_not_mixed() -> None:
    """Two devices in turn stay two; REST reports, which have no session, each keep their own word."""
    pending, player = Pending(10_000, NOW), Somebody()
    for seq in range(1, 51):
        pending.add("u", "v", play(seq, session="ab"[seq % 2]), player)
        pending.add("u", "v", Report(NOW, NOW, claimed=seq), player)
    ops = [op for op in waiting(pending) if isinstance(op, Report)]
    assert [op.claimed for op in ops if not op.session] == list(range(1, 51))
    for session, odd in (("a", 0), ("b", 1)):
        seqs = [seq for op in ops if op.session == session for seq in op.seqs]
        assert seqs == [seq for seq in range(1, 51) if seq % 2 == odd]


def test_a_deletion_keeps_its_place() -> None:
    """What came before it and what came after it stay on their sides."""
    pending, player = Pending(100, NOW), Somebody()
    pending.add("u", "v", play(1), player)
    pending.add("u", "v", NOW + 1, player)
    pending.add("u", "v", play(2, NOW + 2), player)
    assert joined(waiting(pending)).seen == [10, 15]


@pytest.mark.parametrize("falling", [False, True])
def test_more_than_may_wait_for_one_record_is_refused_whole(falling: bool) -> None:
    """Old heartbeats, or a session whose seqs fall: Full, and what waits is untouched; other records have room."""
    pending, player, late = Pending(10_000, NOW), Somebody(), Somebody()
    for number in range(MAX_WAITING):
        seq = 10_000 - number if falling else number + 1
        pending.add("u", "v", play(seq, NOW if falling else NOW - 1), player)
    with pytest.raises(Full):
        pending.add("u", "v", play(1 if falling else 20_000, NOW - 1), late)
    assert len(pending) == MAX_WAITING
    pending.add("u", "w", play(1), player)
    batch = pending.take(NOW)
    assert late not in batch.origins
    assert late not in batch.deltas["u", "v"].origins


def test_more_than_may_wait_altogether_is_refused_whole() -> None:
    """The bound of the process counts reports, not records; a flush makes room again."""
    pending, player = Pending(10, NOW), Somebody()
    for number in range(10):
        pending.add("u", f"v{number // 2}", play(number + 1), player)
    for video in ("v0", "new"):
        with pytest.raises(Full):
            pending.add("u", video, play(99), player)
    assert "new" not in {video for _, video in pending.take(NOW).deltas}
    pending.add("u", "new", play(99), player)
    assert len(pending) == 1


def test_the_order_of_a_session_survives_joining() -> None:
    """Runs never overlap: each begins after the seq at which the one before it ended."""
    pending, player = Pending(10_000, NOW), Somebody()
    for seq in (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144):
        pending.add("u", "v", play(seq), player)
    ops = [op for op in waiting(pending) if isinstance(op, Report)]
    assert all(before.seq < after.first_seq for before, after in pairwise(ops))
