"""Repairs before a rebuild: each finding says whether it was repaired, and a check changes nothing."""

from typing import Any

import pytest

from playhead.protocol.record import Record
from playhead.storage.maintenance.repair import FOREIGN_KEY, NO_RECORD, NO_REV, Repair
from playhead.storage.parts import Parts
from playhead.storage.values.packing import pack_record, unpack_record
from tests.storage.conftest import NewStore

pytestmark = pytest.mark.stores("valkey")
DAMAGED = pack_record(Record(rev=3, last_watched=400, claimed=5, seen=[0, 5]))[:-2]


class Findings(list[tuple[str, str, bool]]):
    """(kind, what, whether it can be repaired) of each finding."""

    def __call__(self, kind: str, what: str, *, repairable: bool) -> None:
        self.append((kind, what, repairable))


@pytest.fixture
def parts(new_store: NewStore) -> Parts:
    made: Parts = new_store(Parts)
    return made


@pytest.fixture
def found() -> Findings:
    return Findings()


async def types(parts: Parts, *names: str) -> list[bytes]:
    answers: list[bytes] = await parts.run([("TYPE", name) for name in names])
    return answers


@pytest.mark.parametrize("repair", [False, True], ids=["check", "repair"])
async def test_derived_keys_of_another_type_are_removed(parts: Parts, found: Findings, repair: bool) -> None:
    keys = parts.keys
    foreign = [keys.audience("v"), keys.summary("v"), keys.curve("v"), keys.live("v"), keys.released("v"), keys.ended]
    sound = [keys.audience("w"), keys.live("w")]
    await parts.run([("SET", name, "text") for name in foreign])
    await parts.run([("HSET", sound[0], "u", "x"), ("ZADD", sound[1], 1, "u")])
    await Repair(parts, repair=repair, on_finding=found).keys()
    assert sorted(found) == sorted((FOREIGN_KEY, name, True) for name in foreign)
    assert set(await types(parts, *foreign)) == ({b"none"} if repair else {b"string"})
    assert await types(parts, *sound) == [b"hash", b"zset"]


async def test_a_damaged_catalogue_entry_is_reported_and_kept(parts: Parts, found: Findings) -> None:
    """Nothing else has a video's title and duration."""
    bad, good = parts.keys.catalogue("v"), parts.keys.catalogue("w")
    await parts.run(
        [("HSET", bad, "title", "t", "duration_ms", "long"), ("HSET", good, "title", "t", "duration_ms", 5)]
    )
    await Repair(parts, repair=True, on_finding=found).keys()
    assert found == [("a catalogue entry that can't be read", "video v", False)]
    assert await types(parts, bad) == [b"hash"]


@pytest.mark.parametrize("repair", [False, True], ids=["check", "repair"])
@pytest.mark.parametrize("rev", ["text", "-1", "", "4", "9" * 20])
async def test_a_revision_below_the_records_is_raised(parts: Parts, found: Findings, rev: str, repair: bool) -> None:
    key = parts.keys.progress("u")
    await parts.run([("HSET", key, "rev", rev)])
    await Repair(parts, repair=repair, on_finding=found).learners({"u": 5})
    assert found == [(NO_REV, "user u", True)]
    (stored,) = await parts.run([("HGET", key, "rev")])
    assert stored == (b"5" if repair else rev.encode())


async def test_a_revision_that_covers_the_records_is_left(parts: Parts, found: Findings) -> None:
    """A key of another type is reported by the pass that reads its records."""
    await parts.run([("HSET", parts.keys.progress("u"), "rev", 7), ("SET", parts.keys.progress("x"), "text")])
    repair = Repair(parts, repair=True, on_finding=found)
    await repair.learners({"u": 7, "x": 3, "new": 0})
    await repair.learners({})
    assert found == []


@pytest.mark.parametrize("repair", [False, True], ids=["check", "repair"])
async def test_a_damaged_record_is_replaced_by_what_can_be_read(parts: Parts, found: Findings, repair: bool) -> None:
    key = parts.keys.progress("u")
    await parts.run([("HSET", key, "rev", 3, "v", DAMAGED)])
    repaired = await Repair(parts, repair=repair, on_finding=found).records([("u", "v", DAMAGED)])
    assert found == [(NO_RECORD, "user u, video v; lost: again, sessions", True)]
    (stored,) = await parts.run([("HGET", key, "v")])
    if not repair:
        assert (repaired, stored) == ([], DAMAGED)
    else:
        assert repaired == [("u", "v", stored)]
        assert unpack_record(stored) == Record(rev=4, last_watched=400, claimed=5, seen=[0, 5])


async def test_a_record_that_has_changed_since_is_left(parts: Parts, found: Findings) -> None:
    """A report of the learner, or a deletion, came first."""
    key, new = parts.keys.progress("u"), pack_record(Record(rev=4, deleted_at=500))
    await parts.run([("HSET", key, "rev", 4, "v", new)])
    repaired = await Repair(parts, repair=True, on_finding=found).records([("u", "v", DAMAGED)])
    assert await parts.run([("HGET", key, "v")]) == [new]
    assert repaired in ([], [("u", "v", new)])


@pytest.mark.parametrize("entry", [None, b"\xc1"], ids=["no entry", "damaged entry"])
async def test_a_record_of_which_nothing_is_left_is_kept(parts: Parts, found: Findings, entry: Any) -> None:
    """The finding says how the learner can start over."""
    await parts.run([("HSET", parts.keys.progress("u"), "rev", 3, "v", b"\xc1")])
    if entry:
        await parts.run([("HSET", parts.keys.audience("v"), "u", entry)])
    assert await Repair(parts, repair=True, on_finding=found).records([("u", "v", b"\xc1")]) == []
    assert found == [(NO_RECORD, "user u, video v; DELETE /progress/u/v resets it", False)]
    assert await parts.run([("HGET", parts.keys.progress("u"), "v")]) == [b"\xc1"]
