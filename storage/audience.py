"""What a viewer adds to the totals of a video: the entries that `lua/videos.lua` keeps, as it makes them of records."""

from operator import lt
from typing import NamedTuple

import msgpack

from protocol.record import Record
from storage.packing import Damaged


class Entry(NamedTuple):
    """One viewer of one video."""

    rev: int
    """Of the record that it was made of."""
    watched: int
    """Whole s."""
    completed: int
    """1 or 0."""
    seen: list[int]
    again: list[int]


def entry_of(record: Record) -> Entry:
    """The entry that a record should have; an empty one for a tombstone."""
    completed = 1 if record.watched and record.completed_at else 0
    return Entry(record.rev, record.watched, completed, record.seen, record.again)


def state_of(record: Record) -> bytes:
    """What stage 2 takes of a record: as `state` in `lua/users.lua`."""
    rev, *entry = entry_of(record)
    state: bytes = b"".join(map(msgpack.packb, (record.last_watched, rev, entry)))
    return state


def unpack_entry(value: bytes) -> Entry:
    """A stored entry.

    Raises:
        Damaged: it can't be read.
    """
    try:
        unpacker = msgpack.Unpacker(max_buffer_size=max(len(value), 1))
        unpacker.feed(value)
        rev, (watched, completed, seen, again) = unpacker
        for seconds in (seen, again):
            if type(seconds) is not list or len(seconds) % 2 or not all(map(lt, [-1, *seconds], seconds)):
                raise ValueError("a set of seconds is sorted pairs")
        if set(map(type, (rev, watched, completed, *seen, *again))) != {int}:
            raise ValueError("all else is integers")
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise Damaged(str(error)) from error
    return Entry(rev, watched, completed, seen, again)
