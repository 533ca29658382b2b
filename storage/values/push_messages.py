"""Messages on a learner's channel: the revisions that a change spans, and the records that it changed.

`lua/push_messages.lua` writes them, too. A process that cannot read a message reads the learner's changes from the
store instead.
"""

from typing import Any, NamedTuple

import msgpack

from playhead.protocol.record import Record
from playhead.protocol.scalars import MAX_SEQ
from playhead.storage.values.damage import Damaged
from playhead.storage.values.packing import NOT_MSGPACK, unpack_record


class Push(NamedTuple):
    """One decoded message."""

    worker: str
    """The process that published it."""
    before: int
    rev: int
    records: list[tuple[str, Record]]
    """(videoId, record) of all changed records; empty where receivers have to read them from the store."""


def pack_announcement(worker: str, rev: int) -> bytes:
    """Encode a message which says that the learner is at `rev`, without records."""
    packed: bytes = msgpack.packb((worker, rev, rev, ()))
    return packed


def unpack_push(data: bytes) -> Push | Damaged:
    """Decode a published message; it is Damaged as well if one of its records is."""
    try:
        worker, before, rev, records = msgpack.unpackb(data, raw=True)
        if (type(before), type(rev)) != (int, int) or not 0 <= before <= rev <= MAX_SEQ:
            raise ValueError("the revisions are invalid")
        push = Push(_text(worker), before, rev, [(_text(video_id), _record(value)) for video_id, value in records])
        if max((record.rev for _, record in push.records), default=before) != rev:
            raise ValueError("no record has the message's revision")
    except NOT_MSGPACK as error:
        return Damaged(str(error)[:100] or type(error).__name__)
    return push


def _text(value: Any) -> str:
    if type(value) is not bytes:
        raise ValueError("a name is not text")
    return value.decode()


def _record(value: Any) -> Record:
    record = unpack_record(value) if type(value) is bytes and value else Damaged("a record is missing")
    if isinstance(record, Damaged):
        raise ValueError(record.why)
    return record
