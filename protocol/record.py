"""The record of one learner and one video, and the join rule by which reports become part of it.

Invariant: joins commute, associate and are idempotent. The same reports result in the same record, byte for byte,
whatever their order, batching and repetition, as long as each session's own reports keep their order. There are two
documented exceptions: `completed_at` depends on the reports known when the threshold was passed, and `again` and
`played_ms` may be too low, but never count twice, where a repeat cannot be distinguished from a new report.

`storage/lua/record.lua` implements the same rule atomically in the store, by the same functions in the same order;
`tests/property` compares the two. All values are integers (ms or whole seconds), so that Lua and Python cannot differ
in the last bit of a float.
"""

from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Self

import msgspec

from playhead.protocol.intervals import MAX_INTERVALS, cell, intersection, size, union

MAX_SESSIONS = 16
"""Sessions whose last seq a record remembers, so that a repeated play is not counted twice."""
SETTLE_MS = 10_000
"""A session that has played less than this without a seek cannot move a position back by more than this (media ms)."""
ABSENT = -1
"""A position that was never reported."""
IN_SYNC = 1
"""The `seq` of the items of a sync, which have no session. A sync creates either all of its new records or none."""


class Outcome(IntEnum):
    """The result of one report or deletion. The store's script returns the same numbers."""

    JOINED = 0
    DELETED = 1
    """Dropped, because it happened before the record was deleted."""
    CAPPED = 2
    """Joined, but a set of seconds would have exceeded MAX_INTERVALS and was left unchanged."""
    NOTHING_TO_DELETE = 3
    FAILED = 4
    """Dropped, because the stored record cannot be read. It stays unchanged until it is repaired; a deletion replaces
    it. Only the store returns this, for a value that this service did not write."""
    TOO_MANY_VIDEOS = 5
    """Dropped, because it would create a record and the learner already has the maximum number."""


@dataclass(slots=True)
class Guard:
    """What a record remembers about one session."""

    session: str
    seq: int
    at: int
    settle_ms: int
    """Media ms played so far, at most SETTLE_MS; a seek sets it to SETTLE_MS."""
    buried: int = 0
    """Reports up to this seq were deleted."""


class Report(
    msgspec.Struct, gc=False, array_like=True
):  # created in half the time of a dataclass, and ignored by the garbage collector
    """One heartbeat, several consecutive heartbeats of a session, or one REST body.

    Times are effective times: ms since 1970 by the server's clock, never later than the receipt. A REST body has no
    session (""), no seq and no plays, and therefore needs no guard.

    A report is sent to the store's script as an array of its fields in this order, which is also that of the parameters
    of `join` in `storage/lua/record.lua`.
    """

    first_at: int
    at: int
    session: str = ""
    first_seq: int = 0
    seq: int = 0
    seen: list[int] = []
    again: list[int] = []
    """Seconds that this report alone plays at least twice; a subset of `seen`."""
    played_ms: int = 0
    position_ms: int = ABSENT
    position_at: int = 0
    seek: bool = False
    claimed: int = 0
    duration_ms: int = 0
    run: list[int] = []
    """The seqs of a combined report; empty where there is only one."""

    @property
    def seqs(self) -> list[int]:
        return self.run or [self.seq]

    def repeated(self, again: Self) -> Self:
        """Combine this report with one whose seq it already contains: none of its plays counts twice."""
        return msgspec.structs.replace(
            self,
            seen=union(self.seen, again.seen),
            claimed=max(self.claimed, again.claimed),
            duration_ms=max(self.duration_ms, again.duration_ms),
        )

    def then(self, later: Self) -> Self:
        """Combine this report with a later one of the same session."""
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
    """What is stored about one learner and one video, in integers; 0 is an unknown instant or duration.

    The position consists of two registers. In each the newest report wins, and the larger position where two are
    equally new. One register is written by settled sessions, the other by sessions that have played less than SETTLE_MS
    without a seek. `position` derives the answer from both, which makes the settle rule commute: no report is judged by
    the state that it happens to meet.
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
    """At most MAX_SESSIONS, sorted by (at, session), the oldest first."""

    @property
    def exists(self) -> bool:
        """Whether there is progress: False for the empty record, and for a tombstone without later reports."""
        return self.last_watched > 0

    @property
    def counts(self) -> bool:
        """Whether it counts towards the maximum number of records. Tombstones do, since they have to be kept."""
        return self.last_watched > 0 or self.deleted_at > 0

    @property
    def watched(self) -> int:
        """`watchedDuration` in whole seconds."""
        watched = max(size(self.seen), self.claimed)
        return min(watched, self.duration_ms // 1_000) if self.duration_ms else watched

    @property
    def position(self) -> int | None:
        """The position in media ms; None where no report determines one.

        An unsettled report that is newer than every settled one counts, unless it moves the position back by more than
        SETTLE_MS: from the settled position, or from watchedDuration where no session has settled.
        """
        settled = self.position_ms if self.position_ms != ABSENT else None
        if self.unsettled_ms != ABSENT:
            base = settled if settled is not None else self.watched * 1_000
            if self.duration_ms:
                base = min(base, self.duration_ms)  # it may be larger if it was reported before the duration was known
            if self.unsettled_ms >= base - SETTLE_MS:
                return self.unsettled_ms
        return settled

    @property
    def resume_ms(self) -> int:
        """Where a player should start, in media ms. Derived when the record is read; nothing stored depends on it."""
        at = self.position if self.position is not None else self.watched * 1_000
        if self.duration_ms and at >= self.duration_ms - max(10_000, self.duration_ms // 50):
            return 0
        return at


def clamp_instants(record: Record, latest: int, before: int) -> Record:
    """Return the record without instants after `latest`, which only a wrong clock can have produced.

    Each such instant becomes `before`, or 1 ms less where the order among them would be lost. This is applied to the
    stored record before anything is joined: reports and deletions made since then win, and late reports still lose.
    Applying it again changes nothing.

    Args:
        latest: ms since 1970; not earlier than now by any correct clock, nor than any report about to be joined.
        before: ms since 1970, at most `latest`; earlier than anything that happened since the batch began to fill.
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
    """Return the record with `report` joined into it, and the outcome. `record` itself is not changed.

    Args:
        catalogue_ms: the video's duration in the catalogue, 0 where it has none; nothing beyond it is joined.
        threshold_permille: the part of the duration, in thousandths, that completes the record when watched.
        room: whether the learner may have another record; only a report that would create one depends on it.
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
    is_new = False
    settled = False
    if report.session:
        partial = guard is not None and not repeat and report.first_seq <= guard.seq
        forgotten = guard is None and len(guards) >= MAX_SESSIONS and (report.at, report.session) <= _age(guards[0])
        is_new = not (repeat or partial or forgotten)
        if not forgotten:
            settle_ms = guard.settle_ms if guard else 0
            if is_new:
                settle_ms = SETTLE_MS if report.seek else min(SETTLE_MS, settle_ms + report.played_ms)
            settled = settle_ms == SETTLE_MS and not repeat
            seq, at = (max(guard.seq, report.seq), max(guard.at, report.at)) if guard else (report.seq, report.at)
            guards.append(Guard(report.session, seq, at, settle_ms, guard.buried if guard else 0))
            guards.sort(key=_age)
            del guards[:-MAX_SESSIONS]
    joined = replace(record, guards=guards)
    capped = _join_seconds(joined, report, is_new, video)
    _join_position(joined, report, settled)
    joined.played_ms += report.played_ms if is_new else 0
    joined.claimed = max(record.claimed, report.claimed)
    joined.last_watched = max(record.last_watched, report.at)
    joined.duration_ms = catalogue_ms or max(record.duration_ms, report.duration_ms)
    if not joined.completed_at and is_complete(joined.watched, joined.duration_ms, threshold_permille):
        joined.completed_at = joined.last_watched
    return joined, Outcome.CAPPED if capped else Outcome.JOINED


def delete(record: Record, now: int) -> tuple[Record, Outcome]:
    """Replace the record by a tombstone. The guards stay, so that a late repeat of a deleted report is dropped.

    A deletion may be repeated, for example after the store's answer was lost: what the record contains by then happened
    after the deletion, and stays.
    """
    if now <= record.deleted_at:
        return record, Outcome.JOINED
    if not record.exists:
        return record, Outcome.NOTHING_TO_DELETE
    guards = [replace(guard, buried=guard.seq) for guard in record.guards]
    return Record(rev=record.rev, deleted_at=max(now, record.last_watched), guards=guards), Outcome.JOINED


def is_complete(watched: int, duration_ms: int, threshold_permille: int) -> bool:
    """Whether watched >= threshold × duration in integers, or every whole second is watched: a threshold of 1 would be
    out of reach otherwise."""
    if duration_ms <= 0 or watched <= 0:
        return False
    return watched >= duration_ms // 1_000 or watched * 1_000_000 >= threshold_permille * duration_ms


def _clip(report: Report, video: list[int], catalogue_ms: int) -> Report:
    """Return the report without anything beyond the end of the video."""
    return msgspec.structs.replace(
        report,
        seen=intersection(report.seen, video),
        again=intersection(report.again, video),
        position_ms=min(report.position_ms, catalogue_ms),
    )


def _age(guard: Guard) -> tuple[int, str]:
    return guard.at, guard.session


def _join_seconds(record: Record, report: Report, is_new: bool, video: list[int]) -> bool:
    """Join the sets in place; True where one of them stays unchanged because it would exceed MAX_INTERVALS.

    Seconds beyond the end of the video, stored before the catalogue had its duration, are removed only when their room
    is needed: a mistyped duration must not delete what was watched.
    """
    seen, again = _joined(record, report, is_new)
    if video and max(len(seen), len(again)) > 2 * MAX_INTERVALS:
        record.seen, record.again = intersection(record.seen, video), intersection(record.again, video)
        seen, again = _joined(record, report, is_new)
    if len(seen) > 2 * MAX_INTERVALS:
        return True
    record.seen = seen
    if len(again) > 2 * MAX_INTERVALS:
        return True
    record.again = again
    return False


def _joined(record: Record, report: Report, is_new: bool) -> tuple[list[int], list[int]]:
    """Return `seen` and `again` after the join."""
    seen = union(record.seen, report.seen)
    if not is_new:
        return seen, record.again
    return seen, union(union(record.again, report.again), intersection(record.seen, report.seen))


def _join_position(record: Record, report: Report, settled: bool) -> None:
    reported = (report.position_at, report.position_ms)
    if report.position_ms == ABSENT:
        return
    if settled:
        record.position_at, record.position_ms = max(reported, (record.position_at, record.position_ms))
    else:
        record.unsettled_at, record.unsettled_ms = max(reported, (record.unsettled_at, record.unsettled_ms))
    if (record.unsettled_at, record.unsettled_ms) <= (record.position_at, record.position_ms):
        record.unsettled_at, record.unsettled_ms = 0, ABSENT
