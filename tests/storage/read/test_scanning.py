"""Scans: everything is returned at least once, a scan can be continued, and foreign keys are reported."""

import pytest

from playhead.storage.parts import Parts
from playhead.storage.read.scanning import FIELDS_PAGE, HASHES_AT_ONCE, KEYS_PAGE, START, KeysPage
from tests.storage.conftest import NewStore

pytestmark = pytest.mark.stores("valkey")
MANY = 3 * KEYS_PAGE


@pytest.fixture
def parts(new_store: NewStore) -> Parts:
    made: Parts = new_store(Parts)
    return made


async def learners(parts: Parts, count: int = MANY) -> set[str]:
    """Write keys of `count` learners, and return their names."""
    names = [parts.keys.progress(f"user{number}") for number in range(count)]
    await parts.run([("HSET", name, "rev", 1) for name in names])
    return set(names)


async def pages(parts: Parts, after: str = START) -> list[KeysPage]:
    return [page async for page in parts.scanner.keys(parts.keys.all_of("u", "progress"), after)]


async def test_all_keys_of_a_kind_are_found_in_pages(parts: Parts) -> None:
    names = await learners(parts)
    await parts.run([("HSET", parts.keys.audience("v"), "u", "x"), ("SET", parts.keys.epoch, "e")])
    found = await pages(parts)
    assert {name for page in found for name in page.names} == names
    assert len(found) >= MANY / KEYS_PAGE
    parts_done = [page.part for page in found]
    assert parts_done == sorted(parts_done)
    assert (found[-1].part, found[-1].place) == (1.0, START)
    assert all(page.part < 1 and page.place != START for page in found[:-1])


async def test_a_scan_continues_after_any_page(parts: Parts) -> None:
    names = await learners(parts)
    found = await pages(parts)
    for number, page in enumerate(found[:-1], 1):
        rest = await pages(parts, page.place)
        seen = {name for each in found[:number] for name in each.names}
        assert seen | {name for each in rest for name in each.names} == names


@pytest.mark.parametrize("place", ["an-earlier-run:17", "nonsense"])
async def test_a_scan_from_an_unknown_place_starts_from_the_beginning(parts: Parts, place: str) -> None:
    """As after a restart of the store, whose cursors are gone."""
    names = await learners(parts, 10)
    assert {name for page in await pages(parts, place) for name in page.names} == names


async def test_an_empty_store_has_one_empty_page(parts: Parts) -> None:
    found = await pages(parts)
    assert [name for page in found for name in page.names] == []
    assert found[-1].part == 1.0


async def test_a_name_that_playhead_did_not_write_is_counted_and_left_out(parts: Parts) -> None:
    names = await learners(parts, 3)
    bad = f"{parts.keys.prefix}:{{u00}}:progress:".encode() + b"\xff"
    await parts.run([("HSET", bad, "rev", 1)])
    assert {name for page in await pages(parts) for name in page.names} == names
    assert parts.damage.counts["key"] == 1


async def test_fields_of_many_hashes_come_once_each(parts: Parts) -> None:
    """Large hashes come in several pages, and a page has a bounded number of fields."""
    large = [parts.keys.progress(f"large{number}") for number in range(2)]
    small = [parts.keys.progress(f"small{number}") for number in range(HASHES_AT_ONCE + 5)]
    count = 12 * FIELDS_PAGE
    await parts.run([("HSET", key, *(word for n in range(count) for word in (f"f{n}", "x" * 100))) for key in large])
    await parts.run([("HSET", key, "f", "v") for key in small])
    found = [page async for page in parts.scanner.fields([*large, *small, parts.keys.progress("nobody")])]
    fields = {(key, field) for page in found for key, field, _ in page.fields}
    assert fields == {(key, b"f%d" % n) for key in large for n in range(count)} | {(key, b"f") for key in small}
    assert [page.foreign for page in found if page.foreign] == []
    assert len(found) > 10


async def test_a_key_of_another_type_is_reported_beside_the_others(parts: Parts) -> None:
    good, bad = parts.keys.progress("good"), parts.keys.progress("bad")
    await parts.run([("HSET", good, "f", "v"), ("SET", bad, "text")])
    (page,) = [page async for page in parts.scanner.fields([bad, good])]
    assert page.fields == [(good, b"f", b"v")]
    assert page.foreign == [bad]
    assert [page async for page in parts.scanner.fields([])] == []
