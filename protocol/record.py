"""The record of one learner and one video, and the one rule by which reports join into it.

Invariant: joins commute, associate and may be repeated. Whatever order, batching or repetition brings the same
reports (each session's own in its order), the record comes out the same, byte for byte. Two documented corners:
`completed_at` is told from the reports known when the threshold was passed, and `again` and `played_ms` may
count short, never double, where a repeat can't be told from news.

`storage/lua/users.lua` is the same rule, atomic in the store; `tests/property` holds the two against each other.
Everything is an integer (ms or whole s), so that Lua and Python cannot differ in the last bit of a float.
"""

from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Self

import msgspec

from playhead.protocol.intervals import MAX_INTERVALS, cell, intersection, size, union

MAX_SESSIONS = 16
"""Sessions whose last seq a record remembers: the guard against counting a repeated play twice."""
SETTLE_MS = 10_000
"""A session that has played less, without a seek, can't pull a position back by more than this (media ms)."""
ABSENT = -1
"""A position that nobody has reported."""
IN_SYNC = 1
"""The `seq` of a sync's items, which have no session: the new records of a sync begin all or none."""


class Outcome(IntEnum):
    """What became of one report or deletion; the store's script answers with the same numbers."""

    JOINED = 0
    DELETED = 1
    """Dropped: it happened before the record was deleted."""
    CAPPED = 2
    """Joined, but a set of seconds would have passed MAX_INTERVALS and was left as it was."""
    NOTHING_TO_DELETE = 3
    FAILED = 4
    """Dropped: the stored record can't be read, and stays as it is until it is repaired; a deletion starts it afresh.
    Only the store says this, of a value that we did not write."""
    TOO_MANY_VIDEOS = 5
    """Dropped: it would begin a record, and the learner has as many as are allowed."""


@dataclass(slots=True)
class Guard:
    """What a record remembers of one session."""

    session: str
    seq: int
    at: int
    settle_ms: int
    """Media ms played so far, up to SETTLE_MS; a seek fills it at once."""
    buried: int = 0
    """Seqs up to here lie under a deletion."""


class Report(msgspec.Struct, gc=False, array_like=True):  # half a dataclass' time to make, none of the collector's
    """What one heartbeat says, or a run of a session's neighbouring heartbeats, or one REST body.

    Times are effective times: ms since 1970, by the server's clock, never after the receipt. A REST body has
    no session (""), no seq and no plays, and so needs no guard.

    It travels to the store's script as an array of its fields in this order, and is joined there by `join` of
    `storage/lua/users.lua`, which takes them in the same order.
    """

    first_at: int
    at: int
    session: str = ""
    first_seq: int = 0
    seq: int = 0
    seen: list[int] = []
    again: list[int] = []
    """Seconds that this report alone plays at least twice; always part of `seen`."""
    played_ms: int = 0
    position_ms: int = ABSENT
    position_at: int = 0
    seek: bool = False
    claimed: int = 0
    duration_ms: int = 0
    run: list[int] = []
    """The seqs of a joined report, where there is more than one."""

    @property
    def seqs(self) -> list[int]:
        return self.run or [self.seq]

    def repeated(self, again: Self) -> Self:
        """This report, and `again`, which came under a seq that this one has already: no play of it counts twice."""
        return msgspec.structs.replace(
            self,
            seen=union(self.seen, again.seen),
            claimed=max(self.claimed, again.claimed),
            duration_ms=max(self.duration_ms, again.duration_ms),
        )

    def then(self, later: Self) -> Self:
        """One report for both, `later` being of the same session and after this one."""
        position = max((self.position_at, self.position_ms), (later.position_at, later.position_ms))
        both = intersection(self.seen, later.seen)
        return type(self)(
            session=self.session,
            first_seq=self.first_seq,
            first_at=min(self.first_at, later.first_at),
            at=max(self.at, later.at),
            seq=later.seq,
            seen=union(self.seen, later.seen),
            again=union(union(self.again, later.again), both),
            played_ms=self.played_ms + later.played_ms,
            position_ms=position[1],
            position_at=position[0],
            seek=self.seek or later.seek,
            claimed=max(self.claimed, later.claimed),
            duration_ms=max(self.duration_ms, later.duration_ms),
            run=self.seqs + later.seqs,
        )


@dataclass(slots=True)
class Record:
    """What is kept of one learner and one video, in integers; 0 is an instant or a duration that nobody has told.

    The position is two registers, each "newest wins, ties: the larger": one fed by settled sessions, one by
    sessions that have played under SETTLE_MS without a seek. `position` derives the answer from both, which
    is what makes the settle rule commute: no report is judged by the state that it happens to meet.
    """

    rev: int = 0
    deleted_at: int = 0
    last_watched: int = 0
    claimed: int = 0
    played_ms: int = 0
    duration_ms: int = 0
    completed_at: int = 0
    position_ms: int = ABSENT
    position_at: int = 0
    unsettled_ms: int = ABSENT
    unsettled_at: int = 0
    seen: list[int] = field(default_factory=list)
    again: list[int] = field(default_factory=list)
    guards: list[Guard] = field(default_factory=list)
    """At most MAX_SESSIONS, oldest first by (at, session)."""

    @property
    def exists(self) -> bool:
        """False for the empty record and for a tombstone that nothing has followed."""
        return self.last_watched > 0

    @property
    def counts(self) -> bool:
        """Whether it is one of the records that a learner may have: tombstones are, since they must be kept."""
        return self.last_watched > 0 or self.deleted_at > 0

    @property
    def watched(self) -> int:
        """watchedDuration, whole s."""
        watched = max(size(self.seen), self.claimed)
        return min(watched, self.duration_ms // 1_000) if self.duration_ms else watched

    @property
    def position(self) -> int | None:
        """ms of media time to be at, or None where no device's word counts.

        An unsettled report newer than every settled one counts unless it pulls back by more than SETTLE_MS;
        where no session has settled, what it may not pull back from is watchedDuration.
        """
        settled = self.position_ms if self.position_ms != ABSENT else None
        if self.unsettled_ms != ABSENT:
            base = settled if settled is not None else self.watched * 1_000
            if self.duration_ms:
                base = min(base, self.duration_ms)  # who told it before the duration was known may have told more
            if self.unsettled_ms >= base - SETTLE_MS:
                return self.unsettled_ms
        return settled

    @property
    def resume_ms(self) -> int:
        """Where a player should start: a reader's rule, nothing stored is changed by it."""
        at = self.position if self.position is not None else self.watched * 1_000
        if self.duration_ms and at >= self.duration_ms - max(10_000, self.duration_ms // 50):
            return 0
        return at


def believed(record: Record, latest: int, before: int) -> Record:
    """The record without instants after `latest`: only a clock that was wrong can have made them, and they bind nobody.

    Each becomes `before`, or 1 ms less where the order among them would be lost. Apply it to what is stored before
    anything is joined: reports and deletions made since then win, and late reports still lose. Applied again it changes
    nothing.

    Args:
        latest: ms since 1970, no earlier than now by any clock that is right, nor than any report about to be joined.
        before: ms since 1970, at most `latest`: earlier than anything that has happened since the batch began to fill.
    """
    newest = record.guards[-1].at if record.guards else 0
    registers = max(record.position_at, record.unsettled_at)
    if max(record.deleted_at, record.last_watched, record.completed_at, registers, newest) <= latest:
        return record
    deleted_at = record.deleted_at if record.deleted_at <= latest else before - 1
    settled_at = before if record.unsettled_ms == ABSENT else before - 1
    guards = [guard if guard.at <= latest else replace(guard, at=before) for guard in record.guards]
    return replace(
        record,
        deleted_at=deleted_at,
        last_watched=record.last_watched if record.last_watched <= latest else max(before, deleted_at + 1),
        completed_at=record.completed_at if record.completed_at <= latest else before,
        position_at=record.position_at if record.position_at <= latest else settled_at,
        unsettled_at=record.unsettled_at if record.unsettled_at <= latest else before,
        guards=sorted(guards, key=_age),
    )


def join(
    record: Record, report: Report, catalogue_ms: int, threshold_permille: int, room: bool = True
) -> tuple[Record, Outcome]:
    """The record with `report` joined in; `record` itself is left alone.

    Args:
        catalogue_ms: the video's duration in the catalogue, 0 where it has none; nothing beyond it is joined.
        threshold_permille: complete when watched >= this part of the duration.
        room: whether the learner may have one more record, which matters only where this would be a new one.
    """
    if not room and not record.counts:
        return record, Outcome.TOO_MANY_VIDEOS
    guard = next((g for g in record.guards if g.session == report.session), None)
    repeat = guard is not None and report.seq <= guard.seq
    if report.first_at <= record.deleted_at or (guard is not None and report.seq <= guard.buried):
        return record, Outcome.DELETED
    video = [0, cell(catalogue_ms)] if catalogue_ms else []
    if video:
        report = _clip(report, video, catalogue_ms)
    guards = [g for g in record.guards if g is not guard]
    news = False
    settled = False
    if report.session:
        partial = guard is not None and not repeat and report.first_seq <= guard.seq
        forgotten = guard is None and len(guards) >= MAX_SESSIONS and (report.at, report.session) <= _age(guards[0])
        news = not (repeat or partial or forgotten)
        if not forgotten:
            settle_ms = guard.settle_ms if guard else 0
            if news:
                settle_ms = SETTLE_MS if report.seek else min(SETTLE_MS, settle_ms + report.played_ms)
            settled = settle_ms == SETTLE_MS and not repeat
            seq, at = (max(guard.seq, report.seq), max(guard.at, report.at)) if guard else (report.seq, report.at)
            guards.append(Guard(report.session, seq, at, settle_ms, guard.buried if guard else 0))
            guards.sort(key=_age)
            del guards[:-MAX_SESSIONS]
    joined = replace(record, guards=guards)
    capped = _join_seconds(joined, report, news, video)
    _join_position(joined, report, settled)
    joined.played_ms += report.played_ms if news else 0
    joined.claimed = max(record.claimed, report.claimed)
    joined.last_watched = max(record.last_watched, report.at)
    joined.duration_ms = catalogue_ms or max(record.duration_ms, report.duration_ms)
    if not joined.completed_at and is_complete(joined.watched, joined.duration_ms, threshold_permille):
        joined.completed_at = joined.last_watched
    return joined, Outcome.CAPPED if capped else Outcome.JOINED


def delete(record: Record, now: int) -> tuple[Record, Outcome]:
    """A tombstone for all that the record holds. The guards stay: a late repeat of what was deleted stays deleted.

    So may a deletion come twice, as when the store's answer was lost: what the record holds by then happened
    after it, and stays.
    """
    if now <= record.deleted_at:
        return record, Outcome.JOINED
    if not record.exists:
        return record, Outcome.NOTHING_TO_DELETE
    guards = [replace(guard, buried=guard.seq) for guard in record.guards]
    return Record(rev=record.rev, deleted_at=max(now, record.last_watched), guards=guards), Outcome.JOINED


def is_complete(watched: int, duration_ms: int, threshold_permille: int) -> bool:
    """watched >= threshold × duration, in integers; or every whole second, so that a threshold of 1 can be met."""
    if duration_ms <= 0 or watched <= 0:
        return False
    return watched >= duration_ms // 1_000 or watched * 1_000_000 >= threshold_permille * duration_ms


def _clip(report: Report, video: list[int], catalogue_ms: int) -> Report:
    """The report without what lies beyond the end of the video."""
    return msgspec.structs.replace(
        report,
        seen=intersection(report.seen, video),
        again=intersection(report.again, video),
        position_ms=min(report.position_ms, catalogue_ms),
    )


def _age(guard: Guard) -> tuple[int, str]:
    return guard.at, guard.session


def _join_seconds(record: Record, report: Report, news: bool, video: list[int]) -> bool:
    """Join the sets in place; True where the cap left one of them as it was.

    What the record holds beyond the end, from before the catalogue knew it, goes only when its room is needed: a
    duration that was mistyped must not cost what was watched.
    """
    seen, again = _joined(record, report, news)
    if video and max(len(seen), len(again)) > 2 * MAX_INTERVALS:
        record.seen, record.again = intersection(record.seen, video), intersection(record.again, video)
        seen, again = _joined(record, report, news)
    if len(seen) > 2 * MAX_INTERVALS:
        return True
    record.seen = seen
    if len(again) > 2 * MAX_INTERVALS:
        return True
    record.again = again
    return False


def _joined(record: Record, report: Report, news: bool) -> tuple[list[int], list[int]]:
    """`seen` and `again` as they would be."""
    seen = union(record.seen, report.seen)
    if not news:
        return seen, record.again
    return seen, union(union(record.again, report.again), intersection(record.seen, report.seen))


def _join_position(record: Record, report: Report, settled: bool) -> None:
    told = (report.position_at, report.position_ms)
    if report.position_ms == ABSENT:
        return
    if settled:
        record.position_at, record.position_ms = max(told, (record.position_at, record.position_ms))
    else:
        record.unsettled_at, record.unsettled_ms = max(told, (record.unsettled_at, record.unsettled_ms))
    if (record.unsettled_at, record.unsettled_ms) <= (record.position_at, record.position_ms):
        record.unsettled_at, record.unsettled_ms = 0, ABSENT
