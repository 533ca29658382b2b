"""Messages of a learner's channel: what `lua/push_messages.lua` publishes is decoded, anything else is damaged."""

from typing import Any

import msgpack
import pytest

from playhead.protocol.record import Record
from playhead.protocol.scalars import MAX_SEQ
from playhead.storage.values.damage import Damaged
from playhead.storage.values.packing import pack_record
from playhead.storage.values.push_messages import Push, pack_announcement, unpack_push

RECORD = Record(rev=7, last_watched=9, seen=[0, 5])
VALUE = pack_record(RECORD)


def test_a_change_has_its_revisions_and_records() -> None:
    data = msgpack.packb([b"w1", 5, 7, [[b"v", VALUE]]])
    assert unpack_push(data) == Push("w1", 5, 7, [("v", RECORD)])


def test_an_announcement_has_no_records() -> None:
    """It spans no revision, so only a process that is missing some has to read."""
    assert unpack_push(pack_announcement("w1", 7)) == Push("w1", 7, 7, [])


@pytest.mark.parametrize(
    "message",
    [
        None,
        [],
        [b"w", 1, 2],
        [b"w", 1, 2, [], 5],
        [b"w", 2, 1, []],
        [b"w", -1, 1, []],
        [b"w", 0, MAX_SEQ + 1, []],
        [b"w", 1.0, 7, [[b"v", VALUE]]],
        [b"w", True, 7, [[b"v", VALUE]]],
        [7, 5, 7, [[b"v", VALUE]]],
        [b"\xff", 5, 7, [[b"v", VALUE]]],
        [b"w", 5, 7, [[7, VALUE]]],
        [b"w", 5, 7, [[b"\xff", VALUE]]],
        [b"w", 5, 7, [[b"v", b""]]],
        [b"w", 5, 7, [[b"v", 7]]],
        [b"w", 5, 7, [[b"v", VALUE + b"\x00"]]],
        [b"w", 5, 8, [[b"v", VALUE]]],
        [b"w", 5, 7, []],
        [b"w", 5, 7, 7],
    ],
)
def test_another_message_is_damaged(message: Any) -> None:
    """Of a message with one damaged record nothing is used: the learner's changes are read instead."""
    push = unpack_push(msgpack.packb(message))
    assert isinstance(push, Damaged)
    assert 0 < len(push.why) <= 100


@pytest.mark.parametrize("data", [b"", b"\xc1", b"text", msgpack.packb([b"w", 7, 7, []]) + b"\x00"])
def test_other_bytes_are_damaged(data: bytes) -> None:
    assert isinstance(unpack_push(data), Damaged)
