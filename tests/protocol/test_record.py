"""The join: what does not depend on order, batching and repetition, and examples of each rule."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as replaced

from playhead.protocol.intervals import MAX_INTERVALS, intersection, size, union
from playhead.protocol.record import (
    ABSENT,
    MAX_SESSIONS,
    SETTLE_MS,
    Outcome,
    Record,
    Report,
    delete,
    is_complete,
    join,
)
from playhead.storage.values.packing import pack_record
from tests.histories import (
    DURATION_MS,
    Op,
    batched,
    interleaved,
    near_instants,
    report_of,
    reports,
    rest_reports,
    sessions_of,
    wild_ops,
    with_repeats,
)

THRESHOLD = 900


def after(ops: Iterable[Op], record: Record | None = None, catalogue_ms: int = 0, threshold: int = THRESHOLD) -> Record:
    """Return the record after `ops`."""
    record = record or Record()
    for op in ops:
        record, _ = join(record, op, catalogue_ms, threshold) if isinstance(op, Report) else delete(record, op)
    return record


def state(record: Record) -> tuple[bytes, bool]:
    """Return what must not depend on order: every byte, but of the completion only whether there is one."""
    return pack_record(replace(record, rev=0, completed_at=0)), record.completed_at > 0


def seconds(flat: list[int]) -> set[int]:
    return {second for i in range(0, len(flat), 2) for second in range(flat[i], flat[i + 1])}


# Order and repetition


@given(data=st.data())
def test_order_and_repetition_do_not_matter(data: st.DataObject) -> None:
    """Up to 16 sessions in any interleaving that keeps each one's order, with REST bodies anywhere and with repeated
    parts, result byte for byte in the record of one session after the other."""
    streams = data.draw(sessions_of(MAX_SESSIONS, longest=3))
    rest = data.draw(st.lists(rest_reports(), max_size=3))
    catalogue_ms = data.draw(st.sampled_from([0, 0, 30_500]))
    plain = after([report for stream in [*streams, rest] for report in stream], catalogue_ms=catalogue_ms)
    arriving = [data.draw(with_repeats(stream)) for stream in streams]
    arrived = data.draw(interleaved([*arriving, rest]))
    assert state(after(arrived, catalogue_ms=catalogue_ms)) == state(plain)
    mixed = after(arrived)
    assert_completed_in_bounds(mixed, [report for stream in [*streams, rest] for report in stream])


def assert_completed_in_bounds(record: Record, given_reports: list[Report]) -> None:
    """Check that completion is not before the reports until then suffice, and not after the last instant watched."""
    if record.completed_at:
        by_time = sorted(given_reports, key=lambda report: report.at)
        suffices = next(
            report.at
            for n, report in enumerate(by_time, 1)
            if after(replaced(r, duration_ms=DURATION_MS) for r in by_time[:n]).completed_at
        )
        assert suffices <= record.completed_at <= record.last_watched


@given(data=st.data())
def test_repeating_the_whole_history_changes_nothing(data: st.DataObject) -> None:
    """Including the instant of completion."""
    history = data.draw(interleaved(data.draw(sessions_of(MAX_SESSIONS, longest=3))))
    record = after(history)
    assert after(history, record) == record


@given(data=st.data())
def test_a_record_only_grows_until_it_is_deleted(data: st.DataObject) -> None:
    """No report removes a second, lowers the claim or undoes the completion; `again` is a subset of `seen`."""
    record = Record()
    for op in data.draw(st.lists(wild_ops(["a", "b", "c"]), max_size=30)):
        was, record = record, after([op], record)
        assert intersection(record.seen, record.again) == record.again
        assert record.guards == sorted(record.guards, key=lambda g: (g.at, g.session))
        assert len({g.session for g in record.guards}) == len(record.guards) <= MAX_SESSIONS
        if isinstance(op, Report):
            assert union(was.seen, record.seen) == record.seen
            assert union(was.again, record.again) == record.again
            assert record.claimed >= was.claimed
            assert record.played_ms >= was.played_ms
            assert record.last_watched >= was.last_watched
            assert record.completed_at == was.completed_at or not was.completed_at
            assert record.deleted_at == was.deleted_at


@given(data=st.data())
def test_join_does_not_change_its_arguments(data: st.DataObject) -> None:
    """A record does not change while somebody else holds it."""
    history = data.draw(st.lists(wild_ops(["a", "b"]), min_size=1, max_size=10))
    record = after(history[:-1])
    packed, op = pack_record(record), repr(history[-1])
    after(history[-1:], record)
    assert (pack_record(record), repr(history[-1])) == (packed, op)


# Counting: never twice


class Multiset:
    """An exact model that forgets no session: how often each second was played, counting each heartbeat once."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self.played_ms = 0
        self._known: set[tuple[str, int]] = set()

    def add(self, report: Report) -> None:
        if (report.session, report.seq) not in self._known:
            self._known.add((report.session, report.seq))
            self.counts.update(seconds(report.seen))
            self.counts.update(seconds(report.again))
            self.played_ms += report.played_ms

    @property
    def seen(self) -> set[int]:
        return set(self.counts)

    @property
    def again(self) -> set[int]:
        return {second for second, count in self.counts.items() if count > 1}


@given(data=st.data())
def test_up_to_sixteen_sessions_are_counted_exactly(data: st.DataObject) -> None:
    """`seen`, `again` and `played_ms` equal those of a model that forgets nothing."""
    streams = data.draw(sessions_of(MAX_SESSIONS, longest=3))
    exact = Multiset()
    record = Record()
    for report in data.draw(interleaved([data.draw(with_repeats(stream)) for stream in streams])):
        exact.add(report)
        record = after([report], record)
    assert (seconds(record.seen), seconds(record.again)) == (exact.seen, exact.again)
    assert record.played_ms == exact.played_ms


@given(data=st.data())
def test_forgotten_sessions_are_never_counted_twice(data: st.DataObject) -> None:
    """With more sessions than a record remembers and with late repeats, coverage is exact and the two sums are at most
    what was played."""
    names = [f"s{n}" for n in range(MAX_SESSIONS + 8)]
    last: Counter[str] = Counter()
    given_so_far: list[Report] = []
    exact = Multiset()
    record = Record()
    for name in data.draw(st.lists(st.sampled_from(names), min_size=30, max_size=60)):
        again = [report for report in given_so_far if report.session == name]
        if len(again) > 0 and data.draw(st.booleans()):
            arriving = again[data.draw(st.integers(0, len(again) - 1)) :]
        else:
            last[name] += 1
            start = data.draw(st.integers(0, 20)) * 1_000
            arriving = [report_of(name, last[name], data.draw(near_instants), [(start, start + 5_000)])]
            given_so_far += arriving
        for report in arriving:
            exact.add(report)
            record = after([report], record)
    assert seconds(record.seen) == exact.seen
    assert seconds(record.again) <= exact.again
    assert record.played_ms <= exact.played_ms


def test_a_session_older_than_all_remembered_ones_adds_coverage_only() -> None:
    """It cannot be distinguished from a repeat, and counts as one."""
    record = after([report_of(f"s{n}", 1, 100 + n, [(0, 1_000)]) for n in range(MAX_SESSIONS)])
    late = after([report_of("late", 1, 50, [(0, 9_000)])], record)
    assert (late.seen, late.again, late.played_ms) == ([0, 9], record.again, record.played_ms)
    assert late.guards == record.guards


def test_a_newer_session_replaces_the_oldest() -> None:
    """The 16 newest by their last instant are remembered; of two at the same instant the larger name is newer."""
    record = after([report_of(f"s{n:02}", 1, 100, [(0, 1_000)]) for n in range(MAX_SESSIONS)])
    record = after([report_of("zz", 1, 100, [(0, 1_000)])], record)
    assert [g.session for g in record.guards] == [*(f"s{n:02}" for n in range(1, MAX_SESSIONS)), "zz"]
    assert record.played_ms == (MAX_SESSIONS + 1) * 1_000


# Runs: reports that were combined while they were pending


@st.composite
def runs(draw: st.DrawFn, longest: int = 6) -> list[Report]:
    (stream,) = draw(sessions_of(1, longest=longest))
    return stream


def joined(run: Sequence[Report]) -> Report:
    return reduce(Report.then, run)


@given(context=sessions_of(4), run=runs(), data=st.data())
def test_combining_consecutive_reports_first_changes_nothing(
    context: list[list[Report]], run: list[Report], data: st.DataObject
) -> None:
    """A new run results in the same record as its reports one by one, with one exception: where the session settles
    within the run, its earlier positions count as settled too, so the two position registers may differ."""
    run = [replaced(report, session="run") for report in run]
    before = after(data.draw(interleaved(context)))
    split = data.draw(st.integers(0, len(run)))
    before = after(run[:split], before)
    one_by_one = after(run[split:], before)
    at_once = after([joined(run[split:])], before) if run[split:] else before
    settled_before = any(g.session == "run" and g.settle_ms == SETTLE_MS for g in before.guards)
    settled_after = any(g.session == "run" and g.settle_ms == SETTLE_MS for g in one_by_one.guards)
    if settled_after and not settled_before:
        one_by_one, at_once = without_position(one_by_one), without_position(at_once)
    assert state(at_once) == state(one_by_one)


def without_position(record: Record) -> Record:
    return replace(record, position_ms=ABSENT, position_at=0, unsettled_ms=ABSENT, unsettled_at=0)


def test_a_seek_anywhere_in_a_run_settles_it() -> None:
    """As it does for the reports one by one."""
    run = [report_of("a", 1, 10, seek=True), report_of("a", 2, 20, [(0, 1_000)], 1_000)]
    assert after([joined(run)]).guards == after(run).guards
    assert after(run).guards[0].settle_ms == SETTLE_MS


def test_a_run_begins_at_its_earliest_instant() -> None:
    """Its reports may have instants in any order: a deletion between two of them drops the run."""
    run = report_of("b", 1, 650, [(0, 5_000)]).then(report_of("b", 2, 550, [(5_000, 9_000)]))
    record = after([report_of("a", 1, 500), 600])
    assert (run.first_at, run.at) == (550, 650)
    assert join(record, run, 0, THRESHOLD) == (record, Outcome.DELETED)


def test_a_run_whose_first_report_is_already_stored_adds_no_sums() -> None:
    """The boundary case of a partial repeat: the run begins with exactly the last known seq."""
    run = [report_of("a", seq, seq, [(0, 5_000)]) for seq in (1, 2, 3)]
    record = after([joined(run[1:])], after(run[:2]))
    assert (record.played_ms, record.guards[0].seq) == (10_000, 3)


def test_a_run_that_reaches_the_settle_limit_counts_as_settled() -> None:
    """An example of the exception: 4 s, then 6 s. One by one, the first position is unsettled until the second."""
    first = report_of("a", 1, 20, [(0, 4_000)], position_ms=4_000)
    second = report_of("a", 2, 10, [(4_000, 10_000)], position_ms=10_000)
    one_by_one, at_once = after([first, second]), after([first.then(second)])
    assert (one_by_one.position_ms, one_by_one.unsettled_ms) == (10_000, 4_000)
    assert (at_once.position_ms, at_once.unsettled_ms) == (4_000, ABSENT)
    assert one_by_one.position == at_once.position == 4_000


@given(run=runs().filter(lambda run: len(run) > 1), data=st.data())
def test_then_associates(run: list[Report], data: st.DataObject) -> None:
    """The run is the same however consecutive reports are grouped."""
    split = data.draw(st.integers(1, len(run) - 1))
    assert joined(run[:split]).then(joined(run[split:])) == joined(run)


@given(run=runs(), data=st.data())
def test_a_partly_repeated_run_is_never_counted_twice(run: list[Report], data: st.DataObject) -> None:
    """Where some of it is already stored, coverage is exact, the sums are at most what was played, and repeated parts
    add nothing."""
    exact = Multiset()
    for report in run:
        exact.add(report)
    stored = data.draw(st.integers(0, len(run)))
    start = data.draw(st.integers(0, stored))
    record = after(run[:stored])
    if run[start:]:
        record = after([joined(run[start:])], record)
    assert seconds(record.seen) == exact.seen
    assert seconds(record.again) <= exact.again
    assert record.played_ms <= exact.played_ms
    assert state(after(run, record)) == state(record)


@given(run=runs(), data=st.data())
def test_parts_of_a_stored_run_are_repeats(run: list[Report], data: st.DataObject) -> None:
    """A run that is sent again in any other grouping changes nothing."""
    record = after([joined(run)])
    again = [joined(part) for part in data.draw(batched(run))]
    assert after(again, record) == record


# Deletion


@given(data=st.data())
def test_nothing_before_a_deletion_returns(data: st.DataObject) -> None:
    """Late and repeated reports of any session are dropped unless they happened after `deletedAt`."""
    streams = data.draw(sessions_of(6))
    arriving = [data.draw(with_repeats(stream)) for stream in streams]
    record = Record()
    allowed: list[Report] = []
    for op in data.draw(interleaved(arriving)):
        if data.draw(st.integers(0, 5)) == 5:
            deleted, outcome = delete(record, data.draw(near_instants))
            if outcome is Outcome.JOINED and deleted.deleted_at > record.deleted_at:
                assert not deleted.exists
                assert (deleted.seen, deleted.claimed, deleted.played_ms, deleted.position) == ([], 0, 0, None)
                allowed = []
            record = deleted
        record, outcome = join(record, op, 0, THRESHOLD)
        assert (outcome is Outcome.DELETED) or op.at > record.deleted_at
        if outcome is not Outcome.DELETED:
            allowed.append(op)
        assert record.seen == reduce(union, (report.seen for report in allowed), list[int]())
        assert record.played_ms <= sum(report.played_ms for report in allowed)
        assert record.last_watched == max((report.at for report in allowed), default=0)
        assert not record.exists or record.last_watched > record.deleted_at
    full = after([report for stream in streams for report in stream])
    gone = after([1_000], full)
    for op in data.draw(interleaved(arriving)):
        assert join(gone, op, 0, THRESHOLD) == (gone, Outcome.DELETED)


def test_a_deletion_covers_everything_in_the_record() -> None:
    """Even if another server, whose clock is ahead, has given it a later instant."""
    record = after([report_of("a", 1, 500, [(0, 5_000)]), 400])
    assert (record.deleted_at, record.exists, record.guards[0].session) == (500, False, "a")


def test_a_late_repeat_with_a_newly_computed_age_stays_deleted() -> None:
    """A player computes `age` when it sends again, so a repeat may appear to have happened just after the deletion."""
    record = after([report_of("a", 1, 500, [(0, 5_000)]), 501])
    assert join(record, report_of("a", 1, 503, [(0, 5_000)]), 0, THRESHOLD) == (record, Outcome.DELETED)


def test_a_run_that_began_before_the_deletion_is_dropped_entirely() -> None:
    """The part after the deletion cannot be distinguished. Reports are only combined where the worker knows of no
    deletion between them."""
    record = after([report_of("a", 1, 500, [(0, 5_000)]), 600])
    run = report_of("b", 1, 550, [(0, 5_000)]).then(report_of("b", 2, 650, [(5_000, 9_000)]))
    assert join(record, run, 0, THRESHOLD) == (record, Outcome.DELETED)


def test_watching_after_a_deletion_starts_a_new_record() -> None:
    """It has nothing of the old one: no claim, no duration, no completion."""
    old = report_of("a", 1, 500, [(0, 60_000)], 60_000, claimed=60, duration_ms=DURATION_MS)
    record = after([old, 600, report_of("a", 2, 700, [(0, 3_000)])])
    assert (record.seen, record.claimed, record.played_ms, record.duration_ms) == ([0, 3], 0, 3_000, 0)
    assert (record.completed_at, record.deleted_at, record.last_watched) == (0, 600, 700)


@pytest.mark.parametrize(
    ("record", "now", "outcome"),
    [
        pytest.param(Record(), 9, Outcome.NOTHING_TO_DELETE, id="never there"),
        pytest.param(after([report_of("a", 1, 5), 6]), 7, Outcome.NOTHING_TO_DELETE, id="deleted already"),
        pytest.param(after([report_of("a", 1, 5), 6]), 6, Outcome.JOINED, id="the same deletion again"),
        pytest.param(after([report_of("a", 1, 5), 6]), 4, Outcome.JOINED, id="an older one"),
    ],
)
def test_an_empty_record_has_nothing_to_delete(record: Record, now: int, outcome: Outcome) -> None:
    """The record is unchanged. The outcome differs for a deletion that an earlier one covers."""
    assert delete(record, now) == (record, outcome)


def test_a_repeated_deletion_keeps_later_plays() -> None:
    """After a lost answer of the store the batch is repeated: plays after the deletion stay."""
    record = after([report_of("a", 1, 500, [(0, 5_000)]), 600, report_of("a", 2, 700, [(5_000, 9_000)])])
    assert delete(record, 600) == (record, Outcome.JOINED)
    assert not delete(record, 701)[0].exists


# The interval cap


def alternating_seconds(first: int, count: int) -> list[int]:
    return [edge for n in range(count) for edge in (first + 2 * n, first + 2 * n + 1)]


def test_a_full_set_is_not_changed() -> None:
    """A report that would result in 2,049 intervals is capped. What fits is joined, and so are all other fields."""
    full = after([replaced(report_of("a", 1, 1), seen=alternating_seconds(0, MAX_INTERVALS))])
    assert len(full.seen) == 2 * MAX_INTERVALS
    one_more = report_of("a", 2, 9, [(10_000_000, 10_001_000), (0, 1_000)], position_ms=1_000)
    record, outcome = join(full, one_more, 0, THRESHOLD)
    assert outcome is Outcome.CAPPED
    assert (record.seen, record.again) == (full.seen, full.again)
    assert (record.played_ms, record.last_watched, record.guards[0].seq) == (2_000, 9, 2)
    filled, outcome = join(record, report_of("a", 3, 10, [(0, 3_000)]), 0, THRESHOLD)
    assert outcome is Outcome.JOINED
    assert size(filled.seen) == MAX_INTERVALS + 1


def test_a_full_again_does_not_affect_seen() -> None:
    """Only the full set stays unchanged."""
    record = after(
        [
            replaced(report_of("a", 1, 1), seen=[0, 10_000]),
            replaced(report_of("a", 2, 1), seen=alternating_seconds(0, MAX_INTERVALS)),
        ]
    )
    full = record.again
    assert len(full) == 2 * MAX_INTERVALS
    record, outcome = join(record, replaced(report_of("a", 3, 1), seen=[9_000, 9_001, 10_000, 10_001]), 0, THRESHOLD)
    assert (outcome, record.again, record.seen) == (Outcome.CAPPED, full, [0, 10_001])


# Position and resume


def settled(session: str, at: int, position_ms: int, seq: int = 1) -> Report:
    return report_of(session, seq, at, [(position_ms, position_ms + SETTLE_MS)], position_ms + SETTLE_MS)


def unsettled(session: str, at: int, position_ms: int, seq: int = 1) -> Report:
    return report_of(session, seq, at, [(position_ms, position_ms + 1_000)], position_ms)


@pytest.mark.parametrize(
    ("history", "position"),
    [
        pytest.param([], None, id="no reports"),
        pytest.param([report_of("a", 1, 1, [(0, 20_000)])], None, id="played, but no position reported"),
        pytest.param([unsettled("a", 1, 3_000)], 3_000, id="a first open counts at once"),
        pytest.param(
            [settled("a", 1, 300_000), unsettled("b", 2, 0)], 310_000, id="an unsettled open at 0:00 is ignored"
        ),
        pytest.param([unsettled("b", 2, 0), settled("a", 1, 300_000)], 310_000, id="also when it arrives first"),
        pytest.param([settled("a", 1, 300_000), unsettled("b", 2, 299_999)], 310_000, id="moves back by over 10 s"),
        pytest.param([settled("a", 1, 300_000), unsettled("b", 2, 300_000)], 300_000, id="moves back by 10 s"),
        pytest.param(
            [settled("a", 1, 300_000), unsettled("b", 2, 900_000)], 900_000, id="unsettled ones may move forward"
        ),
        pytest.param([settled("a", 1, 300_000), settled("b", 2, 0)], 10_000, id="played 10 s: it is where they are"),
        pytest.param(
            [settled("a", 1, 300_000), replaced(unsettled("b", 2, 0), seek=True)], 0, id="a seek is meant at once"
        ),
        pytest.param(
            [settled("a", 1, 300_000), *(unsettled("b", 1 + n, n * 1_000, seq=n) for n in range(1, 10))],
            310_000,
            id="9 s of a second device",
        ),
        pytest.param(
            [settled("a", 1, 300_000), *(unsettled("b", 1 + n, n * 1_000, seq=n) for n in range(1, 11))],
            10_000,
            id="10 s of a second device",
        ),
        pytest.param([settled("a", 5, 300_000), settled("b", 4, 0)], 310_000, id="the later in fact wins"),
        pytest.param([settled("a", 5, 300_000), settled("b", 5, 0)], 310_000, id="at the same moment the larger"),
        pytest.param(
            [settled("a", 5, 300_000), unsettled("b", 4, 900_000)], 310_000, id="an older unsettled one is ignored"
        ),
        pytest.param([report_of("", 0, 1, claimed=300), unsettled("b", 2, 0)], None, id="nor against REST's claim"),
        pytest.param([report_of("", 0, 1, claimed=300), unsettled("b", 2, 290_000)], 290_000, id="near REST's claim"),
    ],
)
def test_position(history: list[Report], position: int | None) -> None:
    """The newest wins; a session that has played less than 10 s without a seek cannot move it back by more than 10 s.
    In any order that keeps each session's own."""
    assert after(history).position == position
    backwards = sorted(history, key=lambda report: report.session, reverse=True)
    assert after(backwards).position == position


@pytest.mark.parametrize(
    ("position_ms", "duration_ms", "resume"),
    [
        (50_000, 0, 50_000),
        (50_000, 60_000, 0),
        (49_999, 60_000, 49_999),
        (3_527_999, 3_600_000, 3_527_999),
        (3_528_000, 3_600_000, 0),
        (0, 60_000, 0),
        (5_000, 8_000, 0),
    ],
)
def test_resume(position_ms: int, duration_ms: int, resume: int) -> None:
    """Within max(10 s, 2 %) of the end a player starts at 0."""
    record = after([report_of("a", 1, 1, [], position_ms, seek=True, duration_ms=duration_ms)])
    assert (record.resume_ms, record.position) == (resume, position_ms)


def test_resume_without_a_position_is_the_watched_duration() -> None:
    """As for a record that only REST has written."""
    assert after([report_of("", 0, 1, claimed=42)]).resume_ms == 42_000


# Watched and completed


@pytest.mark.parametrize(
    ("watched", "duration_ms", "threshold", "complete"),
    [
        (0, 0, 900, False),
        (60, 0, 900, False),
        (53, 60_000, 900, False),
        (54, 60_000, 900, True),
        (54, 60_500, 900, False),
        (55, 60_500, 900, True),
        (60, 60_500, 1_000, True),
        (60, 60_999, 1_000, True),
        (59, 60_999, 1_000, False),
        (1, 1_000, 1_000, True),
        (0, 999, 1, False),
        (172_800, 172_800_000, 1_000, True),
    ],
)
def test_is_complete(watched: int, duration_ms: int, threshold: int, complete: bool) -> None:
    """A threshold of 1 can be reached: every whole second suffices, whatever fraction the duration ends on."""
    assert is_complete(watched, duration_ms, threshold) is complete


@pytest.mark.parametrize("threshold", [1, 500, 900, 1_000])
@pytest.mark.parametrize("duration_ms", [1_000, 1_499, 1_500, 1_501, 60_500, 60_999, 90_600])
def test_watching_the_whole_video_completes_it(duration_ms: int, threshold: int) -> None:
    """From the first frame to the last, at any threshold; and watched never exceeds the duration."""
    record = after([report_of("a", 1, 1, [(0, duration_ms)], duration_ms=duration_ms)], threshold=threshold)
    assert record.completed_at == 1
    assert record.watched == duration_ms // 1_000


@pytest.mark.parametrize(
    ("history", "watched", "completed"),
    [
        pytest.param([report_of("a", 1, 1, [(0, 5_000)] * 10)], 5, False, id="the same 5 s ten times"),
        pytest.param([report_of("a", 1, 1, [], 60_000, seek=True)], 0, False, id="dragged to the end"),
        pytest.param([report_of("", 0, 1, claimed=54)], 54, False, id="claimed just under 0.9 of 60.5 s"),
        pytest.param([report_of("", 0, 1, claimed=55)], 55, True, id="claimed enough"),
        pytest.param([report_of("", 0, 1, claimed=99)], 60, True, id="claimed more than there is"),
        pytest.param([report_of("a", 1, 1, [(0, 30_000)]), report_of("", 0, 1, claimed=20)], 30, False, id="larger"),
    ],
)
def test_watched_is_coverage_or_claim(history: list[Report], watched: int, completed: bool) -> None:
    """The larger of the two, at most the duration. Rewatching adds nothing, and a seek is not watching."""
    record = after([replaced(report, duration_ms=DURATION_MS) for report in history])
    assert (record.watched, record.completed_at > 0) == (watched, completed)


def test_the_duration_in_the_catalogue_overrides_reported_ones() -> None:
    """Where the catalogue has none, the largest reported duration counts."""
    record = after([report_of("a", 1, 1, duration_ms=50_000)], catalogue_ms=90_000)
    assert record.duration_ms == 90_000
    assert after([report_of("b", 1, 2, duration_ms=95_000)], record).duration_ms == 95_000
    assert after([report_of("b", 1, 2, duration_ms=40_000)], record, catalogue_ms=60_000).duration_ms == 60_000


def test_nothing_beyond_the_duration_in_the_catalogue_is_joined() -> None:
    """Neither seconds nor a position. The last second counts if its midpoint is within the video."""
    report = report_of("a", 1, 1, [(80_000, 120_000), (85_000, 120_000)], 120_000)
    record = after([report], catalogue_ms=90_500)
    assert (record.seen, record.again, record.position) == ([80, 90], [85, 90], 90_500)
    assert after([report_of("a", 1, 1, [(0, 5_000)])], catalogue_ms=400).seen == []


def test_a_completed_record_stays_complete_with_a_longer_duration() -> None:
    """Neither watching nor a better duration undoes the completion."""
    done = after([report_of("a", 1, 7, [(0, 60_000)], duration_ms=60_000)])
    longer = after([report_of("a", 2, 9, [], 5, seek=True, duration_ms=600_000)], done)
    assert (longer.completed_at, longer.duration_ms) == (7, 600_000)


def test_late_plays_complete_at_the_newest_known_instant() -> None:
    """The one value that depends on the order of arrival: `lastWatched` when the threshold was passed."""
    early = report_of("phone", 1, 10, [(0, 40_000)], duration_ms=DURATION_MS)
    late = report_of("laptop", 1, 50, [(40_000, 60_000)], duration_ms=DURATION_MS)
    rewatch = report_of("tv", 1, 90, [(0, 1_000)])
    assert after([early, late, rewatch]).completed_at == 50
    assert after([late, rewatch, early]).completed_at == 90


@given(report=reports("a", 1))
def test_generated_reports_are_consistent(report: Report) -> None:
    """Seconds played twice in one report are among its seconds, as the join assumes."""
    assert intersection(report.seen, report.again) == report.again


def test_repeat_with_more_adds_coverage_only() -> None:
    """A client that sends a seq again after it has collected more: its plays are not counted twice."""
    first = report_of("a", 3, 10, [(0, 5_000)], 5_000, claimed=4, duration_ms=60_000)
    again = report_of("a", 3, 20, [(0, 8_000)], 8_000, claimed=9, duration_ms=61_000)
    both = first.repeated(again)
    assert both == replaced(first, seen=[0, 8], claimed=9, duration_ms=61_000)
    assert both.seqs == [3]


def test_learner_without_room_keeps_the_records_that_they_have() -> None:
    """Only a report that would create a record is dropped; a tombstone counts as one."""
    play = report_of("a", 1, 10, [(0, 5_000)], 5_000)
    assert join(Record(), play, 0, THRESHOLD, room=False) == (Record(), Outcome.TOO_MANY_VIDEOS)
    for record in (Record(last_watched=5), Record(deleted_at=5)):
        joined, outcome = join(record, play, 0, THRESHOLD, room=False)
        assert (joined.seen, outcome) == ([0, 5], Outcome.JOINED)


def test_seconds_beyond_the_catalogues_end_make_room_only_when_it_is_needed() -> None:
    """They were stored before the catalogue had the video's duration."""
    beyond = [edge for n in range(MAX_INTERVALS) for edge in (100 + 2 * n, 101 + 2 * n)]
    record = Record(last_watched=5, seen=beyond, again=beyond)
    play = report_of("a", 1, 10, [(0, 5_000), (1_000, 2_000)], 5_000)
    full, outcome = join(record, play, 0, THRESHOLD)
    assert (full.seen, full.again, outcome) == (beyond, beyond, Outcome.CAPPED)
    cleared, outcome = join(record, play, 60_000, THRESHOLD)
    assert (cleared.seen, cleared.again, outcome) == ([0, 5], [1, 2], Outcome.JOINED)
    few, outcome = join(replace(record, seen=[100, 101], again=[]), play, 60_000, THRESHOLD)
    assert (few.seen, outcome) == ([0, 5, 100, 101], Outcome.JOINED), "there is room for both"


def test_unsettled_position_is_compared_with_the_end_where_the_settled_one_lies_beyond_it() -> None:
    """The settled position was reported before the duration was known."""
    record = Record(last_watched=9, duration_ms=60_000, position_ms=90_000, position_at=1, unsettled_ms=50_000)
    assert record.position == 50_000
    assert replace(record, unsettled_ms=49_999).position == 90_000
    assert replace(record, duration_ms=0).position == 90_000
