"""Totals of a video: the sum over its shards, capped to its duration; a damaged part is reported, not shown."""

from typing import Any

import pytest

from playhead.storage.parts import Parts
from playhead.storage.read.catalogue import Video
from playhead.storage.read.curves import Curve
from playhead.storage.read.totals import AUDIENCE_PAGE, POINTS_PAGE, Totals, VideoAnalytics, read_totals
from playhead.storage.values.damage import FOREIGN, Damaged
from playhead.storage.values.instants import CLOCKS_APART_MS
from tests.storage.conftest import NewStore

pytestmark = pytest.mark.stores("valkey")
NOW = 1_764_000_000_000


@pytest.fixture
def parts(new_store: NewStore) -> Parts:
    made: Parts = new_store(Parts)
    return made


def test_totals_of_shards_add_up() -> None:
    assert read_totals([]) == read_totals([[None, None, None]]) == Totals()
    assert read_totals([[b"2", b"1", b"70"], [b"3", None, b"30"]]) == Totals(5, 1, 100)


def test_more_than_the_duration_is_not_shown() -> None:
    """A new duration has not reached every record yet."""
    assert read_totals([[b"2", b"1", b"70"]], 30_999) == Totals(2, 1, 60)
    assert read_totals([[b"2", b"1", b"50"]], 30_999) == Totals(2, 1, 50)


@pytest.mark.parametrize("value", [b"", b"x", b"1.5", b"nan", b"9" * 16, b"--1", b"1\n"])
def test_a_total_that_is_no_integer_is_damaged(value: bytes) -> None:
    assert isinstance(read_totals([[b"2", b"1", b"70"], [value, b"1", b"70"]]), Damaged)
    assert isinstance(read_totals([[b"2", b"1", value]]), Damaged)


def test_a_summary_of_another_type_is_damaged() -> None:
    assert read_totals([[b"2", b"1", b"70"], FOREIGN]) is FOREIGN


async def test_a_video_that_nobody_watched_has_zeros(parts: Parts) -> None:
    assert await parts.totals.read("v") == Totals()
    assert await parts.totals.analytics("v", NOW) == VideoAnalytics(Totals(), Curve([], []), 0)
    assert [user for page in [page async for page in parts.totals.viewers("v")] for user in page] == []


async def test_who_watches_now_is_counted_by_the_last_moment_watched(parts: Parts) -> None:
    """Clocks of processes differ a little; a moment further in the future was written by a wrong clock."""
    live_ms = 15_000
    moments = [NOW, NOW - live_ms, NOW - live_ms - 1, NOW + CLOCKS_APART_MS, NOW + CLOCKS_APART_MS + 1]
    await parts.run([("ZADD", parts.keys.live("v"), at, f"user{n}") for n, at in enumerate(moments)])
    analytics = await parts.totals.analytics("v", NOW)
    assert isinstance(analytics, VideoAnalytics)
    assert analytics.watching == 3


async def test_a_curve_of_many_points_is_read_in_pages(parts: Parts) -> None:
    points = [word for second in range(POINTS_PAGE + 50) for word in (f"s{second}", 1)]
    await parts.run([("HSET", parts.keys.curve("v"), *points)])
    await parts.catalogue.put("v", Video("t", 5_000))
    analytics = await parts.totals.analytics("v", NOW)
    assert isinstance(analytics, VideoAnalytics)
    assert analytics.curve.viewers == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "command",
    [
        ("SET", "summary", "text"),
        ("SET", "curve", "text"),
        ("SET", "live", "text"),
        ("HSET", "summary", "watched", "many"),
        ("HSET", "curve", "s1", "many"),
        ("HSET", "curve", "x1", "1"),
    ],
    ids=" ".join,
)
async def test_analytics_of_a_damaged_video_are_damaged(parts: Parts, command: tuple[str, ...]) -> None:
    name, kind, *values = command
    await parts.run([(name, getattr(parts.keys, kind)("v"), *values)])
    assert isinstance(await parts.totals.analytics("v", NOW), Damaged)
    assert parts.damage.counts["totals"] == 1


async def test_a_damaged_duration_is_unknown(parts: Parts) -> None:
    await parts.run([("HSET", parts.keys.catalogue("v"), "duration_ms", "long")])
    await parts.run([("HSET", parts.keys.summary("v"), "viewers", 1, "watched", 70)])
    assert await parts.totals.read("v") == Totals(1, 0, 70)
    assert parts.damage.counts["catalogue"] == 1


async def test_viewers_come_in_pages_without_names_that_are_not_text(parts: Parts) -> None:
    count = 3 * AUDIENCE_PAGE
    entries: list[Any] = [word for n in range(count) for word in (f"user{n}", "x" * 100)]
    await parts.run([("HSET", parts.keys.audience("v"), *entries, b"\xff", "x")])
    pages = [page async for page in parts.totals.viewers("v")]
    assert {user for page in pages for user in page} == {f"user{n}" for n in range(count)}
    assert len(pages) > 1
    assert parts.damage.counts["entry"] == 1


async def test_an_audience_of_another_type_has_no_viewers(parts: Parts) -> None:
    await parts.run([("SET", parts.keys.audience("v"), "text")])
    assert [page async for page in parts.totals.viewers("v")] == []
    assert parts.damage.counts["totals"] == 1
