"""What can be saved of a record that can't be read: field by field, what each is alone; pure.

Nothing is made up: a field that is lost is as if nobody had reported it, and lastWatched is then as early as it may be.
What a viewer had seen is known a second time, by the entry of the video's audience. Where a session is lost, a play of
it that is sent again counts twice in `again` and playedDuration.
"""

import re
from typing import Any, NamedTuple

import msgpack

from playhead.protocol.intervals import MAX_INTERVALS, intersection
from playhead.protocol.record import ABSENT, MAX_SESSIONS, Guard, Record
from playhead.protocol.scalars import MAX_INSTANT, MAX_MEDIA_S, MAX_SEQ
from playhead.storage.values.audience import Entry
from playhead.storage.values.packing import FIELDS, NOT_MSGPACK

MOST_OBJECTS = 20_000
"""Of a set; more than twice as many as we write."""


class Saved(NamedTuple):
    record: Record
    """Its rev is 0: the store counts it."""
    lost: list[str]
    """Names of fields, for people."""


def salvage(value: bytes, entry: Entry | None) -> Saved | None:
    """The record that is left of a damaged value; None where nothing is, or a later version seems to have written it.

    Args:
        entry: what the video's audience knows of this viewer, where that is sound.
    """
    fields = _fields(value)
    if fields is None:
        return None
    lost: list[str] = []

    def whole(place: int, name: str, most: int, absent: int = 0) -> int:
        number = _whole(fields[place], most) if place < len(fields) else None
        if number is None and not (place < len(fields) and fields[place] == absent):
            lost.append(name)
        return absent if number is None else number

    deleted_at, last_watched = whole(0, "deletedAt", MAX_INSTANT), whole(1, "lastWatched", MAX_INSTANT)
    record = Record(
        deleted_at=deleted_at,
        last_watched=last_watched,
        claimed=whole(2, "claimed", MAX_MEDIA_S),
        played_ms=whole(3, "playedDuration", MAX_SEQ),
        duration_ms=whole(4, "duration", MAX_MEDIA_S * 1_000),
        completed_at=whole(5, "completedAt", MAX_INSTANT),
        position_ms=whole(6, "position", MAX_MEDIA_S * 1_000, ABSENT),
        position_at=whole(7, "position", MAX_INSTANT),
        unsettled_ms=whole(8, "position", MAX_MEDIA_S * 1_000, ABSENT),
        unsettled_at=whole(9, "position", MAX_INSTANT),
    )
    for name, place, known in (("seen", 10, entry and entry.seen), ("again", 11, entry and entry.again)):
        seconds = _seconds(fields[place]) if place < len(fields) else None
        if seconds is None:
            seconds = known
        if seconds is None:
            lost.append(name)
        setattr(record, name, seconds or [])
    record.again = intersection(record.again, record.seen)
    record.guards = _guards(fields[12] if len(fields) == FIELDS else None, lost)
    if record.position_ms == ABSENT or not record.position_at:
        record.position_ms, record.position_at = ABSENT, 0
    if record.unsettled_ms == ABSENT or not record.unsettled_at:
        record.unsettled_ms, record.unsettled_at = ABSENT, 0
    has_contents = record.seen or record.claimed or record.position_ms != ABSENT or record.unsettled_ms != ABSENT
    if has_contents and not record.last_watched:
        record.last_watched = record.deleted_at + 1
    if not record.last_watched and not record.deleted_at:
        return None
    if entry is not None and entry.completed and not record.completed_at:
        record.completed_at = record.last_watched
    return Saved(record, list(dict.fromkeys(lost)))


def _fields(value: bytes) -> list[Any] | None:
    """As many of a record's fields as can be told apart, from its first on; None for a later version's."""
    fields: list[Any] = []
    try:
        unpacker = msgpack.Unpacker(
            max_buffer_size=max(len(value), 1), unicode_errors="surrogateescape", max_array_len=MOST_OBJECTS
        )
        unpacker.feed(value)
        unpacker.unpack()
        length = unpacker.read_array_header()
        if length > FIELDS:
            return None
        for _ in range(length):
            fields.append(unpacker.unpack())
    except NOT_MSGPACK:
        pass
    return fields


def _whole(value: Any, most: int) -> int | None:
    """A number that was written as another kind of number is still the same; None for any other value."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= most else None


def _seconds(value: Any) -> list[int] | None:
    """The intervals that are some, put in order."""
    if type(value) is not list:
        return None
    pairs = []
    for start, end in zip(value[::2], value[1::2], strict=False):
        first, last = _whole(start, MAX_MEDIA_S), _whole(end, MAX_MEDIA_S)
        if first is not None and last is not None and first < last:
            pairs.append((first, last))
    found: list[int] = []
    for first, last in sorted(pairs):
        if found and first <= found[-1]:
            found[-1] = max(found[-1], last)
        else:
            found += (first, last)
    return found[: 2 * MAX_INTERVALS]


def _guards(value: Any, lost: list[str]) -> list[Guard]:
    guards: dict[str, Guard] = {}
    flat = value if type(value) is list else []
    for i in range(0, len(flat) - 4, 5):
        name, *numbers = flat[i : i + 5]
        found = [_whole(number, MAX_SEQ) for number in numbers]
        if type(name) is str and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) and None not in found:
            guards[name] = Guard(name, *(number or 0 for number in found))
    if type(value) is not list or 5 * len(guards) != len(value):
        lost.append("sessions")
    return sorted(guards.values(), key=lambda guard: (guard.at, guard.session))[-MAX_SESSIONS:]
