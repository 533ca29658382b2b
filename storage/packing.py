"""Records and reports as the store's scripts read and write them: msgpack arrays in a fixed order.

A record's order is that of RECORD in `lua/users.lua`, a report's that of its fields. A stored value is the rev, then
the record.
"""

from collections.abc import Callable
from operator import lt
from typing import Any

import msgpack
import msgspec

from protocol.record import ABSENT, Guard, Record
from protocol.scalars import MAX_INSTANT

append: Callable[[Any, bytearray, int], None] = msgspec.msgpack.Encoder().encode_into
"""append(report or tuple, to, -1) puts it at the end of `to`, as the scripts take it."""


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
    value: bytes = msgpack.packb(record.rev) + msgpack.packb(body)
    return value


_FIELDS = 13
"""Of a record without its rev; the last three are lists."""


class Damaged(Exception):
    """A stored value that we have not written."""


def unpack_record(value: bytes) -> Record:
    """The record of a stored value; the empty record for the empty value.

    Raises:
        Damaged: it can't be read.
    """
    if not value:
        return Record()
    try:
        unpacker = msgpack.Unpacker(max_buffer_size=len(value))
        unpacker.feed(value)
        rev, body = unpacker
        if len(body) != _FIELDS:
            raise ValueError("of another length")
        flat = body[-1]
        body[-1] = [Guard(*flat[i : i + 5]) for i in range(0, len(flat), 5)]
        record = Record(rev, *body)
        _check(record, [rev, *body[:-3]])
        return record
    except (ValueError, TypeError, LookupError, msgpack.UnpackException) as error:
        raise Damaged(str(error)) from error


def _check(record: Record, numbers: list[Any]) -> None:
    """Types and order, as readers rely on them: what else can be shown of a record can't fail.

    Raises:
        ValueError: another type, a set that is not sorted, an instant that no calendar has.
    """
    for guard in record.guards:
        if type(guard.session) is not str:
            raise ValueError("a session's name is text")
        numbers += (guard.seq, guard.at, guard.settle_ms, guard.buried)
    for seconds in (record.seen, record.again):
        if type(seconds) is not list or len(seconds) % 2 or not all(map(lt, [-1, *seconds], seconds)):
            raise ValueError("a set of seconds is sorted pairs")
        numbers += seconds
    if set(map(type, numbers)) != {int} or min(numbers) < ABSENT:
        raise ValueError("all else is integers")
    if max(record.deleted_at, record.last_watched, record.completed_at) > MAX_INSTANT:
        raise ValueError("an instant after 9999")
