"""Salvage of a damaged record: what can be read is kept, nothing is invented, and lost fields are named."""

from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from playhead.protocol.intervals import MAX_INTERVALS
from playhead.protocol.record import ABSENT, MAX_SESSIONS, Guard, Record
from playhead.protocol.scalars import MAX_MEDIA_S
from playhead.storage.maintenance.salvage import Salvaged, salvage
from playhead.storage.values.audience import Entry
from playhead.storage.values.packing import pack_record, unpack_record
from tests.protocol.test_merge import arbitrary_records

SOUND = Record(
    rev=0,
    last_watched=400,
    claimed=3,
    played_ms=9_000,
    duration_ms=10_000,
    completed_at=300,
    position_ms=5_000,
    position_at=400,
    unsettled_ms=7_000,
    unsettled_at=401,
    seen=[0, 5, 7, 9],
    again=[1, 2],
    guards=[Guard("a", 4, 400, 9_000)],
)
ENTRY = Entry(7, 7, 1, [0, 5, 7, 9], [1, 2])


def body(**changed: Any) -> list[Any]:
    """The fields of SOUND as they are stored, some of them changed."""
    fields: dict[str, Any] = {
        "deleted_at": 0,
        "last_watched": 400,
        "claimed": 3,
        "played_ms": 9_000,
        "duration_ms": 10_000,
        "completed_at": 300,
        "position_ms": 5_000,
        "position_at": 400,
        "unsettled_ms": 7_000,
        "unsettled_at": 401,
        "seen": [0, 5, 7, 9],
        "again": [1, 2],
        "guards": ["a", 4, 400, 9_000, 0],
    }
    return list((fields | changed).values())


def value_of(fields: Any, rev: Any = 7) -> bytes:
    value: bytes = msgpack.packb(rev) + msgpack.packb(fields)
    return value


def saved(value: bytes, entry: Entry | None = None) -> Salvaged:
    found = salvage(value, entry)
    assert found is not None
    return found


@given(arbitrary_records())
def test_a_sound_record_is_salvaged_whole(record: Record) -> None:
    if record.exists or record.deleted_at:
        assert saved(pack_record(record)) == Salvaged(replace(record, rev=0), [])


@pytest.mark.parametrize(
    ("changed", "field", "left", "lost"),
    [
        ({"claimed": -1}, "claimed", 0, "claimed"),
        ({"claimed": MAX_MEDIA_S + 1}, "claimed", 0, "claimed"),
        ({"claimed": True}, "claimed", 0, "claimed"),
        ({"claimed": 3.0}, "claimed", 3, ""),
        ({"claimed": 3.5}, "claimed", 0, "claimed"),
        ({"played_ms": "9"}, "played_ms", 0, "playedDuration"),
        ({"duration_ms": None}, "duration_ms", 0, "duration"),
        ({"completed_at": 2**60}, "completed_at", 0, "completedAt"),
        ({"position_ms": ABSENT, "position_at": 0}, "position_ms", ABSENT, ""),
        ({"position_ms": -2}, "position_at", 0, "position"),
        ({"unsettled_at": "x"}, "unsettled_ms", ABSENT, "position"),
        ({"seen": "x"}, "seen", [], "seen"),
        ({"seen": [7, 9, 0, 5]}, "seen", [0, 5, 7, 9], ""),
        ({"seen": [0, 5, 3, 9]}, "seen", [0, 9], ""),
        ({"seen": [0, 5, 9, 7]}, "seen", [0, 5], ""),
        ({"again": {}}, "again", [], "again"),
        ({"again": [1, 2, 20, 30]}, "again", [1, 2], ""),
        ({"guards": 7}, "guards", [], "sessions"),
        ({"guards": ["a", 4, 400, 9_000]}, "guards", [], "sessions"),
        ({"guards": ["a b", 4, 400, 9_000, 0]}, "guards", [], "sessions"),
        ({"guards": ["a", "4", 400, 9_000, 0]}, "guards", [], "sessions"),
    ],
)
def test_a_damaged_field_is_lost_and_named(changed: dict[str, Any], field: str, left: Any, lost: str) -> None:
    found = saved(value_of(body(**changed)))
    assert getattr(found.record, field) == left
    assert found.lost == ([lost] if lost else [])


def test_lost_seconds_come_from_the_audience() -> None:
    """Which stores them a second time."""
    found = saved(value_of(body(seen="x", again="x", completed_at=0)), ENTRY)
    assert (found.record.seen, found.record.again) == ([0, 5, 7, 9], [1, 2])
    assert found.record.completed_at == found.record.last_watched == 400
    assert found.lost == []


def test_a_value_of_which_nothing_can_be_read_is_made_of_its_entry() -> None:
    found = saved(b"\xc1", ENTRY)
    assert found.record == Record(last_watched=1, completed_at=1, seen=[0, 5, 7, 9], again=[1, 2])
    assert found.lost == [
        *("deletedAt", "lastWatched", "claimed", "playedDuration", "duration", "completedAt", "position", "sessions")
    ]


@pytest.mark.parametrize("value", [b"", b"\xc1", b"\xff\xff", value_of("text"), value_of([]), value_of(body()[:1])])
def test_nothing_is_made_of_nothing(value: bytes) -> None:
    assert salvage(value, None) is None


def test_a_record_of_a_later_version_is_left_alone() -> None:
    """It has more fields than are known here, and would lose them."""
    assert salvage(value_of([*body(), 0]), ENTRY) is None


def test_a_lost_instant_is_the_earliest_after_the_deletion() -> None:
    assert saved(value_of(body(last_watched="x", deleted_at=50))).record.last_watched == 51
    assert saved(value_of(body(last_watched="x"))).record.last_watched == 1


def test_a_cut_value_keeps_its_leading_fields() -> None:
    whole = value_of(body())
    for length in range(len(whole)):
        found = salvage(whole[:length], None)
        if found is not None:
            assert found.record.last_watched == 400 or found.record.last_watched == found.record.deleted_at + 1
            assert found.record.claimed in (0, 3)
            assert found.lost, "something is missing"
    assert saved(whole).lost == []


def test_sets_and_sessions_are_bounded() -> None:
    many = [edge for n in range(MAX_INTERVALS + 50) for edge in (2 * n, 2 * n + 1)]
    sessions = [word for n in range(MAX_SESSIONS + 4) for word in (f"s{n}", 1, n, 0, 0)]
    record = saved(value_of(body(seen=many, guards=sessions))).record
    assert len(record.seen) == 2 * MAX_INTERVALS
    assert [guard.at for guard in record.guards] == list(range(4, MAX_SESSIONS + 4)), "the newest"


values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-1, 2**60), st.floats(), st.text(max_size=3), st.binary(max_size=3)
    ),
    lambda inner: st.lists(inner, max_size=6),
)


@given(st.one_of(st.binary(max_size=80), st.lists(values, max_size=13).map(value_of)), st.booleans())
def test_whatever_is_salvaged_can_be_read(value: bytes, known: bool) -> None:
    found = salvage(value, ENTRY if known else None)
    if found is not None:
        assert unpack_record(pack_record(found.record)) == found.record
        assert found.record.counts
