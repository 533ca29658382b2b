"""Records and reports as the store's scripts read and write them: msgpack arrays in a fixed order.

A record's order is that of its fields without the rev, a report's that of its fields; `storage/scripts.py` gives the
scripts the same. A stored value is the rev, then the record.
"""

from collections.abc import Callable
from operator import lt
from typing import Any

import msgpack
import msgspec

from playhead.protocol.intervals import MAX_INTERVALS
from playhead.protocol.record import ABSENT, MAX_SESSIONS, Guard, Record
from playhead.protocol.scalars import MAX_INSTANT, MAX_MEDIA_S, MAX_SEQ
from playhead.storage.values.damage import Damaged

append: Callable[[Any, bytearray, int], None] = msgspec.msgpack.Encoder().encode_into
"""append(report or tuple, buffer, -1) encodes it at the end of `buffer`, as the scripts expect it."""


_NAMES = "surrogateescape"
"""A session name that is not valid UTF-8 is kept as it is: only the store's scripts compare it."""


def pack_record(record: Record) -> bytes:
    """Encode a record as it is stored."""
    guards: list[Any] = []
    for guard in record.guards:
        guards += (guard.session, guard.seq, guard.at, guard.settle_ms, guard.buried)
    body = (
        record.deleted_at,
        record.last_watched,
        record.claimed,
        record.played_ms,
        record.duration_ms,
        record.completed_at,
        record.position_ms,
        record.position_at,
        record.unsettled_ms,
        record.unsettled_at,
        record.seen,
        record.again,
        guards,
    )
    value: bytes = msgpack.packb(record.rev) + msgpack.packb(body, unicode_errors=_NAMES)
    return value


MAX_REV = 2**53 - 2**32
"""The highest revision that the scripts count on from: there is room for as many again."""
VALUE_HEAD = 32
"""Bytes at the beginning of a stored value that hold its rev and its instants."""
FIELDS = 13
"""The number of fields of a record without its rev; the last three are lists."""
MAX_VALUE = 65_536
"""The longest stored record or audience entry, in bytes; the longest that Playhead writes takes two thirds of it."""


def unpack_record(value: bytes) -> Record | Damaged:
    """Decode a stored record; the empty value is the empty record."""
    if not value:
        return Record()
    if len(value) > MAX_VALUE:
        return Damaged("too long")
    try:
        unpacker = msgpack.Unpacker(max_buffer_size=len(value), unicode_errors=_NAMES)
        unpacker.feed(value)
        rev, body = unpacker
        if type(body) is not list or len(body) != FIELDS:
            raise ValueError("wrong number of fields")
        flat = body[-1]
        if len(flat) % 5 or len(flat) > 5 * MAX_SESSIONS:
            raise ValueError("wrong number of session fields")
        body[-1] = [Guard(*flat[i : i + 5]) for i in range(0, len(flat), 5)]
        record = Record(rev, *body)
        _check(record)
        return record
    except NOT_MSGPACK as error:
        return Damaged(str(error)[:100] or type(error).__name__)


NOT_MSGPACK = (ValueError, TypeError, LookupError, OverflowError, msgpack.UnpackException)
"""What decoding foreign bytes by msgpack, and reading the result, can raise."""


def check_seconds(seconds: Any) -> None:
    """Check a set of seconds.

    Raises:
        ValueError: not a set as in `protocol/intervals.py`, or beyond the longest video.
    """
    if type(seconds) is not list or len(seconds) % 2 or not all(map(lt, [-1, *seconds], seconds)):
        raise ValueError("a set of seconds is not sorted pairs")
    if len(seconds) > 2 * MAX_INTERVALS or (seconds and seconds[-1] > MAX_MEDIA_S):
        raise ValueError("a set of seconds is too large")


def _check(r: Record) -> None:
    """Check the types, bounds and order that readers rely on, so that nothing else can fail when a record is shown.
    `check` in `lua/packing.lua` checks the same.

    Raises:
        ValueError: a wrong type, an unsorted set, or an instant beyond the calendar.
    """
    instants = [r.deleted_at, r.last_watched, r.completed_at]
    numbers = [*instants, r.rev, r.claimed, r.played_ms, r.duration_ms, r.position_at, r.unsettled_at]
    positions = [r.position_ms, r.unsettled_ms]
    for guard in r.guards:
        if type(guard.session) is not str:
            raise ValueError("a session name is not text")
        numbers += (guard.seq, guard.at, guard.settle_ms, guard.buried)
    for seconds in (r.seen, r.again):
        check_seconds(seconds)
    if set(map(type, [*numbers, *positions, *r.seen, *r.again])) != {int}:
        raise ValueError("a field is not an integer")
    if min(numbers) < 0 or min(positions) < ABSENT:
        raise ValueError("a number is negative")
    if max(instants) > MAX_INSTANT or max(*numbers, *positions) > MAX_SEQ:
        raise ValueError("a number is too large")
