"""What a learner's channel carries: which revisions a change spans, and the records that it changed.

`lua/push_messages.lua` writes the same; whoever finds a message damaged reads what it lacks from the store.
"""

from typing import Any, NamedTuple

import msgpack

from playhead.protocol.record import Record
from playhead.protocol.scalars import MAX_SEQ
from playhead.storage.values.damage import Damaged
from playhead.storage.values.packing import NOT_MSGPACK, unpack_record


class Push(NamedTuple):
    """One message."""

    worker: str
    """Who published it."""
    before: int
    rev: int
    records: list[tuple[str, Record]]
    """(videoId, record) of all that was changed; none where whoever lacks something must read it."""


def pack_announcement(worker: str, rev: int) -> bytes:
    """The message that the learner is at `rev`, and no more."""
    packed: bytes = msgpack.packb((worker, rev, rev, ()))
    return packed


def unpack_push(data: bytes) -> Push | Damaged:
    """A message that was published; Damaged also where one of its records is."""
    try:
        worker, before, rev, records = msgpack.unpackb(data, raw=True)
        if (type(before), type(rev)) != (int, int) or not 0 <= before <= rev <= MAX_SEQ:
            raise ValueError("no revisions")
        push = Push(_text(worker), before, rev, [(_text(video_id), _record(value)) for video_id, value in records])
        if max((record.rev for _, record in push.records), default=before) != rev:
            raise ValueError("a revision that none of its records has")
    except NOT_MSGPACK as error:
        return Damaged(str(error)[:100] or type(error).__name__)
    return push


def _text(value: Any) -> str:
    if type(value) is not bytes:
        raise ValueError("a name is text")
    return value.decode()


def _record(value: Any) -> Record:
    record = unpack_record(value) if type(value) is bytes and value else Damaged("no record")
    if isinstance(record, Damaged):
        raise ValueError(record.why)
    return record
