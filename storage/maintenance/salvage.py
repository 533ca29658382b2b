"""Salvages a record that cannot be read, field by field; a pure function.

Nothing is invented: a lost field is as if nobody had reported it, and a lost lastWatched becomes the earliest possible
instant. The seconds that a viewer has seen are stored a second time, in the entry of the video's audience. If a session
is lost, a play of it that is sent again counts twice in `again` and playedDuration.
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
"""Most objects of a set; more than twice as many as Playhead writes."""


class Salvaged(NamedTuple):
    """A salvaged record."""

    record: Record
    """The record; its rev is 0, as the store counts it."""
    lost: list[str]
    """Names of lost fields, for people."""


def salvage(value: bytes, entry: Entry | None) -> Salvaged | None:
    """Salvage the record of a damaged value; None if nothing is left, or a later version seems to have written it.

    Args:
        entry: the viewer's entry in the video's audience, if that is readable.
    """
    fields = _fields(value)
    if fields is None:
        return None
    lost: list[str] = []

    def number_at(place: int, name: str, most: int, absent: int = 0) -> int:
        number = _whole(fields[place], most) if place < len(fields) else None
        if number is None and not (place < len(fields) and fields[place] == absent):
            lost.append(name)
        return absent if number is None else number

    deleted_at, last_watched = number_at(0, "deletedAt", MAX_INSTANT), number_at(1, "lastWatched", MAX_INSTANT)
    record = Record(
        deleted_at=deleted_at,
        last_watched=last_watched,
        claimed=number_at(2, "claimed", MAX_MEDIA_S),
        played_ms=number_at(3, "playedDuration", MAX_SEQ),
        duration_ms=number_at(4, "duration", MAX_MEDIA_S * 1_000),
        completed_at=number_at(5, "completedAt", MAX_INSTANT),
        position_ms=number_at(6, "position", MAX_MEDIA_S * 1_000, ABSENT),
        position_at=number_at(7, "position", MAX_INSTANT),
        unsettled_ms=number_at(8, "position", MAX_MEDIA_S * 1_000, ABSENT),
        unsettled_at=number_at(9, "position", MAX_INSTANT),
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
    return Salvaged(record, list(dict.fromkeys(lost)))


def _fields(value: bytes) -> list[Any] | None:
    """Decode the leading fields that can be read; None for a record of a later version."""
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
    """A whole number, also if it was written as a float; None for any other value."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= most else None


def _seconds(value: Any) -> list[int] | None:
    """The valid intervals of a set, sorted and joined."""
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
