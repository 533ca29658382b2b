"""Entries of an audience: derived from records, and decoded or reported as damaged, whatever their bytes."""

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from playhead.protocol.record import Record
from playhead.protocol.scalars import MAX_MEDIA_S, MAX_SEQ
from playhead.storage.values.audience import Entry, entry_of, state_of, unpack_entry
from playhead.storage.values.damage import Damaged
from playhead.storage.values.packing import MAX_VALUE


def packed(rev: Any, body: Any) -> bytes:
    value: bytes = msgpack.packb(rev) + msgpack.packb(body)
    return value


def test_an_entry_has_what_counts_in_totals() -> None:
    record = Record(rev=7, last_watched=9, claimed=8, completed_at=9, seen=[0, 5], again=[1, 2])
    assert entry_of(record) == Entry(7, 8, 1, [0, 5], [1, 2])


@pytest.mark.parametrize(
    "record", [Record(rev=7, deleted_at=9), Record(rev=7, last_watched=9, completed_at=9)], ids=["tombstone", "nothing"]
)
def test_who_has_watched_nothing_has_completed_nothing(record: Record) -> None:
    assert entry_of(record) == Entry(7, 0, 0, [], [])


def test_a_state_is_the_last_moment_and_then_the_entry() -> None:
    unpacker = msgpack.Unpacker()
    unpacker.feed(state_of(Record(rev=7, last_watched=9, seen=[0, 5])))
    assert list(unpacker) == [9, 7, [5, 0, [0, 5], []]]


def test_an_entry_is_decoded() -> None:
    assert unpack_entry(packed(7, [5, 1, [0, 5], [1, 2]])) == Entry(7, 5, 1, [0, 5], [1, 2])


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xc1",
        packed(7, [5, 1, [0, 5], []]) + b"\x00",
        packed(7, [5, 1, [0, 5]]),
        packed(7, "text"),
        packed(-1, [5, 1, [], []]),
        packed(MAX_SEQ + 1, [5, 1, [], []]),
        packed(7.0, [5, 1, [], []]),
        packed(True, [5, 1, [], []]),
        packed(7, [MAX_MEDIA_S + 1, 1, [], []]),
        packed(7, [5, 2, [], []]),
        packed(7, [5, None, [], []]),
        packed(7, [5, 1, [5, 0], []]),
        packed(7, [5, 1, [0], []]),
        packed(7, [5, 1, [0, 5.0], []]),
        packed(7, [5, 1, [], {"a": 1}]),
        packed(7, [5, 1, [], [0, MAX_MEDIA_S + 1]]),
        packed(7, [5, 1, [], []]).ljust(MAX_VALUE + 1, b"\0"),
    ],
)
def test_another_value_is_damaged(value: bytes) -> None:
    entry = unpack_entry(value)
    assert isinstance(entry, Damaged)
    assert 0 < len(entry.why) <= 100


@given(st.binary(max_size=64))
def test_any_bytes_are_decoded_or_damaged(value: bytes) -> None:
    assert isinstance(unpack_entry(value), Entry | Damaged)
