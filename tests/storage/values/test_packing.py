"""Records as stored values: decoding returns what was encoded."""

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from playhead.protocol.intervals import MAX_INTERVALS
from playhead.protocol.record import Guard, Record, Report, join
from playhead.protocol.scalars import MAX_INSTANT, MAX_MEDIA_S
from playhead.storage.values.damage import Damaged
from playhead.storage.values.packing import MAX_VALUE, append, pack_record, unpack_record
from tests.histories import wild_ops
from tests.intact import intact

whole = st.integers(0, 2**53 - 1)
instants = st.integers(0, MAX_INSTANT)
sets = st.lists(st.integers(0, 172_800), max_size=8, unique=True).map(
    lambda edges: sorted(edges)[: len(edges) // 2 * 2]
)
guards = st.builds(Guard, st.text("abc019_-", max_size=64), whole, whole, st.integers(0, 10_000))
records = st.builds(
    Record,
    rev=whole,
    deleted_at=instants,
    last_watched=instants,
    claimed=whole,
    played_ms=whole,
    duration_ms=whole,
    completed_at=instants,
    position_ms=st.integers(-1, 172_800_000),
    position_at=whole,
    unsettled_ms=st.integers(-1, 172_800_000),
    unsettled_at=whole,
    seen=sets,
    again=sets,
    guards=st.lists(guards, max_size=16),
)


@given(record=records)
def test_a_decoded_record_equals_the_encoded_one(record: Record) -> None:
    """In every field, and it encodes to the same bytes."""
    value = pack_record(record)
    assert intact(unpack_record(value)) == record
    assert pack_record(intact(unpack_record(value))) == value


@given(ops=st.lists(wild_ops(["a", "b"]), max_size=8))
def test_a_decoded_record_joins_like_the_encoded_one(ops: list[Report | int]) -> None:
    """Its types are those that the reference rule takes."""
    record = Record()
    for op in ops:
        if isinstance(op, Report):
            stored = intact(unpack_record(pack_record(record)))
            joined = join(stored, op, 0, 900)
            assert joined == join(record, op, 0, 900)
            record, _ = joined


def test_no_value_is_the_empty_record() -> None:
    """As a missing field reads."""
    assert unpack_record(b"") == Record()


def test_value_is_the_rev_and_then_the_record() -> None:
    """So that a script can skip a record by its rev."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(pack_record(Record(rev=300, last_watched=5)))
    rev, body = unpacker
    assert (rev, len(body), body[1]) == (300, 13, 5)


@pytest.mark.parametrize(
    "value",
    [
        b"\xc1",
        b"\x01",
        b"\x01\x90",
        b"\x01\x01",
        b"\x01\x90\x90",
        b"nonsense",
        pack_record(Record(rev=1))[:-1],
        pack_record(Record(rev=1, guards=[Guard("a", 1, 1, 1)])) + b"\x00",
        msgpack.packb(1) + msgpack.packb([0] * 12 + [[1, 2, 3]]),
        b"\xdd\xff\xff\xff\xff",
        b"\x01" + msgpack.packb([[0, 5], [], []]),
        b"\xa11" + msgpack.packb([*[0] * 10, [], [], []]),
        b"\x01" + msgpack.packb([*[0] * 9, "0", [], [], []]),
        b"\x01" + msgpack.packb([*[0] * 9, [], [], []]),
        b"\x01" + msgpack.packb([*[0] * 11, [], [], []]),
        b"\x01" + msgpack.packb([*[0] * 10, [1], [], []]),
        b"\x01" + msgpack.packb([*[0] * 10, [5, 1], [], []]),
        b"\x01" + msgpack.packb([*[0] * 10, [], "abcd", []]),
        b"\x01" + msgpack.packb([*[0] * 10, [], [], [1, 2, 3, 4, 5]]),
        b"\x01" + msgpack.packb([0, MAX_INSTANT + 1, *[0] * 8, [], [], []]),
        b"\x01" + msgpack.packb([0, -1, *[0] * 8, [], [], []]),
        b"\x01" + msgpack.packb([*[0] * 6, -2, *[0] * 3, [], [], []]),
        b"\x01" + msgpack.packb([*[0] * 9, 2**53, [], [], []]),
        b"\x01" + msgpack.packb([*[0] * 9, float("nan"), [], [], []]),
        b"\x01" + msgpack.packb([0.5] * 10 + [[], [], []]),
        b"\x01" + msgpack.packb([*[0] * 10, [0, MAX_MEDIA_S + 1], [], []]),
        b"\x01" + msgpack.packb([*[0] * 10, list(range(2 * MAX_INTERVALS + 2)), [], []]),
        b"\x01" + msgpack.packb([*[0] * 10, {}, [], []]),
        b"\x01" + msgpack.packb([*[0] * 10, [], [], ["s", 1, 1, 1, -1]]),
        b"\x01" + msgpack.packb([*[0] * 10, [], [], ["s", 1, 1, 1, 0] * 17]),
        pack_record(Record(rev=1, last_watched=5)) + b" " * MAX_VALUE,
    ],
    ids=repr,
)
def test_foreign_bytes_are_damaged(value: bytes) -> None:
    """One result for everything that Playhead has not written, so that callers need not know what can be wrong."""
    assert isinstance(unpack_record(value), Damaged)


@given(report=wild_ops(["a"]).filter(lambda op: isinstance(op, Report)))
def test_report_is_packed_in_the_scripts_order(report: Report) -> None:
    """As `join` of record.lua takes it: integers, text, lists of integers, and one boolean."""
    packed = bytearray(b"before")
    append(report, packed, -1)
    assert packed.startswith(b"before")
    assert msgpack.unpackb(packed[6:]) == [
        report.first_at,
        report.at,
        report.session,
        report.first_seq,
        report.seq,
        report.seen,
        report.again,
        report.played_ms,
        report.position_ms,
        report.position_at,
        report.seek,
        report.claimed,
        report.duration_ms,
        report.run,
    ]
