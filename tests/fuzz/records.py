"""Reports joined into a record, and stored values that Playhead may not have written.

A script for `joins` is text: each line is a JSON object, either a report or {"delete": instant}; {"catalogue": ms,
"threshold": permille} applies from there on. `comb: [from, by, count]` plays single seconds, to reach the limit of
intervals. A field that is missing or of the wrong type has a default, and values out of bounds are clamped: every line
is a report that `protocol.session` can make, so the search spends its time on the join.
"""

import json
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any

from msgspec.structs import astuple

from playhead.protocol.intervals import MAX_INTERVALS, cell, coverage, intersection, size, union
from playhead.protocol.record import ABSENT, MAX_SESSIONS, SETTLE_MS, Outcome, Record, Report, delete, join
from playhead.protocol.scalars import MAX_MEDIA_S, MAX_SEQ
from playhead.server.push.progress_frames import progress_messages
from playhead.storage.values.damage import Damaged
from playhead.storage.values.packing import append, pack_record, unpack_record
from tests.fuzz.frames import JSON, MSGPACK
from tests.fuzz.values import LAST_INSTANT
from tests.intact import intact

MAX_MEDIA_MS = MAX_MEDIA_S * 1_000
MAX_LINES, MAX_WORK = 80, 25_000
"""Lines of a script, and interval ends that one script joins in total: slow inputs would slow down the search."""
_LISTS = ("seen", "again", "guards")


def joins(data: bytes) -> None:
    """Join the lines one after the other, and check every promise about joins at each."""
    record, catalogue, threshold = Record(), 0, 900
    last: tuple[Record, Report] | None = None
    work = 0
    for line in data.splitlines()[:MAX_LINES]:
        step = _object(line)
        if step is None:
            continue
        catalogue = whole(step.get("catalogue"), 0, MAX_MEDIA_MS, catalogue)
        threshold = whole(step.get("threshold"), 1, 1_000, threshold)
        if "delete" in step:
            record = _deleted(record, whole(step["delete"], 1, LAST_INSTANT, 1))
            last = None
        elif "catalogue" not in step:
            report = report_of(step)
            work += len(record.seen) + len(report.seen)
            if work > MAX_WORK:
                return
            if last is not None:
                _commute(*last, report, catalogue, threshold)
                _fold(last[1], report)
            last = record, report
            record = _joined(record, report, catalogue, threshold)


def stored(data: bytes) -> None:
    """Decode a stored value: it is a sound record or Damaged, nothing is raised, and a record can be shown."""
    record = unpack_record(data)
    if isinstance(record, Damaged):
        return
    for field in fields(Record):
        value = getattr(record, field.name)
        assert type(value) is (list if field.name in _LISTS else int), field.name
    sorted_seconds(record.seen)
    sorted_seconds(record.again)
    for guard in record.guards:
        assert type(guard.session) is str
        assert all(type(n) is int for n in (guard.seq, guard.at, guard.settle_ms, guard.buried))
    assert unpack_record(pack_record(record)) == record
    for page in progress_messages([("v", record)], record.rev, LAST_INSTANT):
        JSON.encode(page)
        MSGPACK.encode(page)


def sorted_seconds(flat: list[int], last: int | None = None) -> None:
    """Check a set of whole seconds: its half-open intervals are sorted and neither overlap nor touch."""
    assert len(flat) % 2 == 0
    assert all(type(n) is int for n in flat)
    assert all(a < b for a, b in pairwise(flat)), flat[:20]
    assert not flat or flat[0] >= 0
    assert last is None or not flat or flat[-1] <= last


def sound_report(report: Report, now: int) -> None:
    """Check the bounds of a report that protocol/record.py documents."""
    sorted_seconds(report.seen, MAX_MEDIA_S)
    sorted_seconds(report.again, MAX_MEDIA_S)
    assert intersection(report.seen, report.again) == report.again
    assert 1 <= report.first_at <= report.at <= now
    assert 0 <= report.first_seq <= report.seq <= MAX_SEQ
    assert report.played_ms >= 0
    assert report.position_ms == ABSENT or 0 <= report.position_ms <= MAX_MEDIA_MS
    assert report.position_at == (0 if report.position_ms == ABSENT else report.at)
    assert 0 <= report.claimed <= MAX_MEDIA_S
    assert 0 <= report.duration_ms <= MAX_MEDIA_MS
    assert all(type(n) is int for n in (report.at, report.seq, report.played_ms, report.position_ms, report.claimed))
    assert {type(part) for part in astuple(report)} <= {int, str, list, bool}


def report_of(step: dict[str, Any]) -> Report:
    """The report of a line."""
    plays = [
        (min(ends), max(ends))
        for play in _list(step.get("plays"))
        if len(ends := [whole(n, 0, MAX_MEDIA_MS, 0) for n in _list(play)]) == 2
    ]
    if len(comb := [whole(n, 0, MAX_MEDIA_S, 1) for n in _list(step.get("comb"))]) == 3:
        first, by, count = comb
        seconds = range(first, MAX_MEDIA_S, max(1, by))[: min(count, MAX_INTERVALS + 10)]
        plays += [(second * 1_000, second * 1_000 + 1_000) for second in seconds]
    session = step.get("session", "a")
    if session == "":
        plays = []  # a REST body has no session, and no plays
    seen, again = coverage(plays)
    seq = whole(step.get("seq"), 1, MAX_SEQ, 1)
    at = whole(step.get("at"), 1, LAST_INSTANT, 1)
    position = whole(step.get("position"), 0, MAX_MEDIA_MS, ABSENT)
    return Report(
        first_at=whole(step.get("first_at"), 1, at, at),
        at=at,
        session=session[:64] if isinstance(session, str) and session.isascii() else "b",
        first_seq=whole(step.get("first"), 1, seq, seq),
        seq=seq,
        seen=seen,
        again=again,
        played_ms=sum(end - start for start, end in plays),
        position_ms=position,
        position_at=0 if position == ABSENT else at,
        seek=bool(step.get("seek")),
        claimed=whole(step.get("claimed"), 0, MAX_MEDIA_S, 0),
        duration_ms=whole(step.get("duration"), 0, MAX_MEDIA_MS, 0),
    )


def whole(value: Any, low: int, high: int, default: int) -> int:
    """An integer within bounds, whatever `value` is."""
    return min(max(value, low), high) if type(value) is int else default


def _joined(record: Record, report: Report, catalogue: int, threshold: int) -> Record:
    untouched = _packed(record, report)
    joined, outcome = join(record, report, catalogue, threshold)
    assert _packed(record, report) == untouched, "a join does not change its arguments"
    again, repeated = join(joined, report, catalogue, threshold)
    if outcome is Outcome.DELETED:
        assert joined is record
        return record
    assert again == joined, "a repeat changes nothing"
    assert repeated in (Outcome.JOINED, Outcome.CAPPED)
    assert outcome in (Outcome.JOINED, Outcome.CAPPED)
    _sound(joined)
    video = [0, cell(catalogue or MAX_MEDIA_MS)]
    for before, after in ((record.seen, joined.seen), (record.again, joined.again)):
        assert union(after, intersection(before, video)) == after, "a second of the video once seen stays seen"
    assert 0 <= joined.played_ms - record.played_ms <= report.played_ms
    assert joined.last_watched == max(record.last_watched, report.at)
    assert joined.claimed == max(record.claimed, report.claimed)
    assert joined.completed_at == record.completed_at or not record.completed_at
    assert (joined.rev, joined.deleted_at) == (record.rev, record.deleted_at)
    if outcome is Outcome.JOINED and not catalogue:
        assert joined.seen == union(record.seen, report.seen)
    return joined


def _packed(record: Record, report: Report) -> bytes:
    packed = bytearray(pack_record(record))
    append(report, packed, -1)
    return bytes(packed)


def _sound(record: Record) -> None:
    for seconds in (record.seen, record.again):
        sorted_seconds(seconds, MAX_MEDIA_S)
        assert len(seconds) <= 2 * MAX_INTERVALS
    assert intersection(record.seen, record.again) == record.again
    assert len(record.guards) <= MAX_SESSIONS
    assert len({guard.session for guard in record.guards}) == len(record.guards)
    ages = [(guard.at, guard.session) for guard in record.guards]
    assert ages == sorted(ages)
    for guard in record.guards:
        assert guard.session
        assert 0 <= guard.settle_ms <= SETTLE_MS
        assert 0 <= guard.buried <= guard.seq <= MAX_SEQ
    assert not record.duration_ms or record.watched * 1_000 <= record.duration_ms
    assert max(record.position_at, record.unsettled_at, record.completed_at) <= record.last_watched
    assert record.position is None or 0 <= record.position <= MAX_MEDIA_MS
    assert 0 <= record.resume_ms <= MAX_MEDIA_MS
    value = pack_record(record)
    assert intact(unpack_record(value)) == record
    assert pack_record(intact(unpack_record(value))) == value


def _deleted(record: Record, at: int) -> Record:
    tombstone, outcome = delete(record, at)
    assert outcome in (Outcome.JOINED, Outcome.NOTHING_TO_DELETE)
    if tombstone is record:
        return record
    assert not tombstone.exists
    assert size(tombstone.seen) == tombstone.played_ms == tombstone.claimed == 0
    assert tombstone.deleted_at >= max(at, record.last_watched, record.deleted_at)
    assert delete(tombstone, at) == (tombstone, Outcome.JOINED)
    for guard in record.guards:
        late = Report(first_at=LAST_INSTANT, at=LAST_INSTANT, session=guard.session, first_seq=1, seq=guard.seq)
        assert join(tombstone, late, 0, 900)[1] is Outcome.DELETED
    _sound(tombstone)
    return tombstone


def _commute(record: Record, one: Report, other: Report, catalogue: int, threshold: int) -> None:
    """Check that reports of two sessions give the same record in both orders, except in the documented cases."""
    known = {guard.session: guard.seq for guard in record.guards}
    repeats = any(report.first_seq <= known.get(report.session, 0) for report in (one, other))
    if one.session == other.session or repeats or len(known) >= MAX_SESSIONS - 1:
        return
    ways = []
    for first, second in ((one, other), (other, one)):
        half, outcome = join(record, first, catalogue, threshold)
        whole_, outcome2 = join(half, second, catalogue, threshold)
        room_made = any(union(after, before) != after for before, after in _sets(record, whole_))
        if Outcome.CAPPED in (outcome, outcome2) or room_made:
            return  # an interval was dropped for lack of room, or one beyond the end of the video made room
        ways.append(replace(whole_, completed_at=0))
    assert ways[0] == ways[1]


def _sets(before: Record, after: Record) -> tuple[tuple[list[int], list[int]], ...]:
    return (before.seen, after.seen), (before.again, after.again)


def _fold(one: Report, other: Report) -> None:
    """Check that two reports of a session that the pending batch joins are a sound report."""
    if one.session != other.session or not one.session:
        return
    if one.first_seq <= other.seq <= one.seq:
        folded = one.repeated(other)
    elif other.seq > one.seq:
        folded = one.then(other)
        assert (folded.at, folded.first_at) == (max(one.at, other.at), min(one.first_at, other.first_at))
        assert folded.seqs == [one.seq, other.seq]
    else:
        return
    sorted_seconds(folded.seen, MAX_MEDIA_S)
    assert folded.seen == union(one.seen, other.seen)
    assert intersection(folded.seen, folded.again) == folded.again
    assert folded.first_seq <= folded.seq
    append(folded, bytearray(), -1)


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        tree = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return tree if isinstance(tree, dict) else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
