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
"""append(report or tuple, to, -1) puts it at the end of `to`, as the scripts take it."""


_NAMES = "surrogateescape"
"""A session's name of bytes that are no text is kept as it is: only the store's scripts compare it."""


def pack_record(record: Record) -> bytes:
    """The stored value of a record."""
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
"""Of a record without its rev; the last three are lists."""
MAX_VALUE = 65_536
"""Bytes of a stored record, or of an entry of an audience; the largest that we write takes two thirds."""


def unpack_record(value: bytes) -> Record | Damaged:
    """The record of a stored value; the empty record for the empty value."""
    if not value:
        return Record()
    if len(value) > MAX_VALUE:
        return Damaged("too long")
    try:
        unpacker = msgpack.Unpacker(max_buffer_size=len(value), unicode_errors=_NAMES)
        unpacker.feed(value)
        rev, body = unpacker
        if type(body) is not list or len(body) != FIELDS:
            raise ValueError("of another length")
        flat = body[-1]
        if len(flat) % 5 or len(flat) > 5 * MAX_SESSIONS:
            raise ValueError("sessions of another length")
        body[-1] = [Guard(*flat[i : i + 5]) for i in range(0, len(flat), 5)]
        record = Record(rev, *body)
        _check(record)
        return record
    except NOT_MSGPACK as error:
        return Damaged(str(error)[:100] or type(error).__name__)


NOT_MSGPACK = (ValueError, TypeError, LookupError, OverflowError, msgpack.UnpackException)
"""What msgpack, and reading what came out of it, can raise for bytes that are not ours."""


def check_seconds(seconds: Any) -> None:
    """Raises ValueError: not a set as `protocol/intervals.py` has them, within a video."""
    if type(seconds) is not list or len(seconds) % 2 or not all(map(lt, [-1, *seconds], seconds)):
        raise ValueError("a set of seconds is sorted pairs")
    if len(seconds) > 2 * MAX_INTERVALS or (seconds and seconds[-1] > MAX_MEDIA_S):
        raise ValueError("a set of seconds is too large")


def _check(r: Record) -> None:
    """Types, bounds and order, as readers rely on them: what else can be shown of a record can't fail. The same as
    `check` of `lua/packing.lua` checks.

    Raises:
        ValueError: another type, a set that is not sorted, an instant that no calendar has.
    """
    instants = [r.deleted_at, r.last_watched, r.completed_at]
    numbers = [*instants, r.rev, r.claimed, r.played_ms, r.duration_ms, r.position_at, r.unsettled_at]
    positions = [r.position_ms, r.unsettled_ms]
    for guard in r.guards:
        if type(guard.session) is not str:
            raise ValueError("a session's name is text")
        numbers += (guard.seq, guard.at, guard.settle_ms, guard.buried)
    for seconds in (r.seen, r.again):
        check_seconds(seconds)
    if set(map(type, [*numbers, *positions, *r.seen, *r.again])) != {int}:
        raise ValueError("all else is integers")
    if min(numbers) < 0 or min(positions) < ABSENT:
        raise ValueError("a number below 0")
    if max(instants) > MAX_INSTANT or max(*numbers, *positions) > MAX_SEQ:
        raise ValueError("a number that is too large")
