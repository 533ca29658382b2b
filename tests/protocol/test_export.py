"""A line of an export has everything about a record, and the error of an invalid line names its fields."""

import json
from dataclasses import replace

import pytest
from hypothesis import given

from playhead.protocol.export import MAX_LINE, EndedLine, RecordLine, read_line, record_line
from playhead.protocol.intervals import MAX_INTERVALS
from playhead.protocol.record import MAX_SESSIONS, Guard, Record
from playhead.protocol.scalars import MAX_INSTANT, MAX_MEDIA_S, MAX_SEQ
from playhead.storage.values.packing import pack_record
from tests.protocol.test_merge import arbitrary_records

USER, VIDEO = "7d1a0e7c-0b1f-4b7e-9f6e-3f0a52a4b001", "7d1a0e7c-0b1f-4b7e-9f6e-3f0a52a4b002"
FULL = [edge for n in range(MAX_INTERVALS) for edge in (MAX_MEDIA_S - 2 * n - 1, MAX_MEDIA_S - 2 * n)]
LARGEST = Record(
    deleted_at=MAX_INSTANT - 1,
    last_watched=MAX_INSTANT,
    claimed=MAX_MEDIA_S,
    played_ms=2**50 + 1,
    duration_ms=MAX_MEDIA_S * 1_000,
    completed_at=MAX_INSTANT,
    position_ms=MAX_MEDIA_S * 1_000,
    position_at=MAX_INSTANT,
    seen=sorted(FULL),
    again=sorted(FULL),
    guards=[Guard(f"{n:064}", MAX_SEQ, MAX_INSTANT, 10_000, MAX_SEQ) for n in range(MAX_SESSIONS)],
)


@given(record=arbitrary_records())
def test_a_record_is_unchanged_after_export_and_import(record: Record) -> None:
    """Byte for byte, except the rev."""
    if record.exists or record.deleted_at:
        line = read_line(record_line(USER, VIDEO, replace(record, rev=7)))
        assert isinstance(line, RecordLine)
        assert (line.user_id, line.video_id) == (USER, VIDEO)
        assert pack_record(line.record()) == pack_record(replace(record, rev=0))


def test_the_largest_record_fits_a_line() -> None:
    """With full sets and guards, and every number at its maximum."""
    line = record_line(USER, VIDEO, LARGEST)
    assert len(line) < MAX_LINE / 5
    read = read_line(line)
    assert isinstance(read, RecordLine)
    assert read.record() == LARGEST


BAD = [
    (b"", "not JSON"),
    (b"{", "not JSON"),
    (b"[]", "should be a JSON object"),
    (b"{}", "type: should be one of"),
    (b'{"type":"playhead export","version":2}', "version: should be 1"),
    (b" " * (MAX_LINE + 1), "should have at most 1048576 bytes"),
]
FIELDS = [
    ("userId", "me", "userId: should be a UUID"),
    ("videoId", None, "videoId: "),
    ("lastWatched", "yesterday", "lastWatched: should be an ISO 8601"),
    ("lastWatched", None, "lastWatched should be given"),
    ("deletedAt", "2030-01-01T00:00:00Z", "lastWatched should be after deletedAt"),
    ("claimed", 1.5, "claimed: "),
    ("claimed", MAX_MEDIA_S + 1, "claimed: "),
    ("playedDuration", -1, "playedDuration: "),
    ("playedDuration", float("nan"), "playedDuration: "),
    ("duration", "60", "duration: "),
    ("position", {"at": "2026-01-01T00:00:00Z"}, "position/seconds: "),
    ("seen", [[5, 0]], "seen: should be sorted"),
    ("seen", [[0, 5], [5, 9]], "seen: should be sorted"),
    ("seen", [[0, 5, 9]], "seen/0"),
    ("seen", [[0, MAX_MEDIA_S + 1]], "seen/0/1: "),
    ("seen", [[2 * n, 2 * n + 1] for n in range(MAX_INTERVALS + 1)], "seen: "),
    ("sessions", [{"session": "a b", "seq": 1, "at": "2026-01-01T00:00:00Z", "settled": 0}], "sessions/0/session: "),
    ("sessions", 2 * [{"session": "a", "seq": 1, "at": "2026-01-01T00:00:00Z", "settled": 0}], "each session once"),
    ("rating", 5, "rating: "),
]


@pytest.mark.parametrize(("text", "detail"), BAD, ids=[detail for _, detail in BAD])
def test_an_invalid_line_is_an_error(text: bytes, detail: str) -> None:
    """The message says what is wrong and repeats no value."""
    with pytest.raises(ValueError, match=detail):
        read_line(text)


@pytest.mark.parametrize(
    ("name", "value", "detail"), FIELDS, ids=[f"{name}-{n}" for n, (name, *_) in enumerate(FIELDS)]
)
def test_an_invalid_field_is_named(name: str, value: object, detail: str) -> None:
    """Each kind of field."""
    tree = json.loads(record_line(USER, VIDEO, Record(last_watched=1_764_000_000_000, seen=[0, 5])))
    tree[name] = value
    with pytest.raises(ValueError, match=detail):
        read_line(json.dumps(tree).encode())


def test_only_a_tombstone_has_no_last_watched() -> None:
    tree = {"type": "record", "userId": USER, "videoId": VIDEO, "deletedAt": "2026-01-01T00:00:00Z", "claimed": 5}
    with pytest.raises(ValueError, match="lastWatched should be given: only a deleted record has none"):
        read_line(json.dumps(tree).encode())
    tombstone = read_line(json.dumps({**tree, "claimed": 0, "seen": []}).encode())
    assert isinstance(tombstone, RecordLine)
    assert not tombstone.record().exists


def test_fields_with_a_later_instant_are_named() -> None:
    """As in the line, so that an operator finds them."""
    record = replace(LARGEST, unsettled_ms=5, unsettled_at=MAX_INSTANT, guards=LARGEST.guards[:2])
    line = read_line(record_line(USER, VIDEO, record))
    assert isinstance(line, RecordLine)
    late = [
        "deletedAt",
        "lastWatched",
        "completedAt",
        "position/at",
        "strayPosition/at",
        "sessions/0/at",
        "sessions/1/at",
    ]
    assert line.later_than(MAX_INSTANT - 2) == late
    assert line.later_than(MAX_INSTANT - 1) == late[1:]
    assert line.later_than(MAX_INSTANT) == []


def test_record_without_instants_is_never_late() -> None:
    line = read_line(record_line(USER, VIDEO, Record(deleted_at=5)))
    assert isinstance(line, RecordLine)
    assert line.later_than(5) == []
    assert line.later_than(4) == ["deletedAt"]


def test_ended_session_with_a_later_instant_is_named() -> None:
    line = read_line(json.dumps({"type": "ended", "userId": USER, "at": "2026-01-01T00:00:00Z"}).encode())
    assert isinstance(line, EndedLine)
    assert line.later_than(line.at) == []
    assert line.later_than(line.at - 1) == ["at"]


def test_session_that_no_player_could_send_is_left_out() -> None:
    record = Record(last_watched=5, guards=[Guard("a b", 1, 5, 0), Guard("page", 2, 5, 0)])
    line = read_line(record_line(USER, VIDEO, record))
    assert isinstance(line, RecordLine)
    assert [guard.session for guard in line.sessions] == ["page"]
