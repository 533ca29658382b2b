"""Audience entries: what one viewer adds to the totals of a video, as `lua/videos.lua` derives it from a record."""

from typing import NamedTuple

import msgpack

from playhead.protocol.record import Record
from playhead.protocol.scalars import MAX_MEDIA_S, MAX_SEQ
from playhead.storage.values.damage import Damaged
from playhead.storage.values.packing import MAX_VALUE, NOT_MSGPACK, check_seconds


class Entry(NamedTuple):
    """The entry of one viewer of one video."""

    rev: int
    """The revision of the record that it was derived from."""
    watched: int
    """Whole seconds."""
    completed: int
    """1 or 0."""
    seen: list[int]
    again: list[int]


def entry_of(record: Record) -> Entry:
    """The entry that a record should have; an empty one for a tombstone."""
    completed = 1 if record.watched and record.completed_at else 0
    return Entry(record.rev, record.watched, completed, record.seen, record.again)


def state_of(record: Record) -> bytes:
    """The state that stage 2 takes of a record; the same as `state_of` in `lua/users.lua`."""
    rev, *entry = entry_of(record)
    state: bytes = b"".join(map(msgpack.packb, (record.last_watched, rev, entry)))
    return state


def unpack_entry(value: bytes) -> Entry | Damaged:
    """Decode a stored entry."""
    if len(value) > MAX_VALUE:
        return Damaged("too long")
    try:
        unpacker = msgpack.Unpacker(max_buffer_size=max(len(value), 1))
        unpacker.feed(value)
        rev, (watched, completed, seen, again) = unpacker
        numbers = rev, watched, completed
        if set(map(type, (*numbers, *seen, *again))) != {int}:
            raise ValueError("a field is not an integer")
        if min(numbers) < 0 or rev > MAX_SEQ or watched > MAX_MEDIA_S or completed > 1:
            raise ValueError("a number is out of range")
        for seconds in (seen, again):
            check_seconds(seconds)
    except NOT_MSGPACK as error:
        return Damaged(str(error)[:100] or type(error).__name__)
    return Entry(rev, watched, completed, seen, again)
