"""The catalogue: durations are cached until they change, and a damaged entry is reported by what is wrong with it."""

from collections.abc import Callable
from typing import Any

import pytest

from playhead.storage.parts import Parts
from playhead.storage.read import catalogue
from playhead.storage.read.catalogue import Video, read_duration, read_video
from playhead.storage.values.damage import FOREIGN, Damaged
from tests.storage.conftest import NewStore

pytestmark = pytest.mark.stores("valkey")
FILM = Video("Einführung", 90_000)


@pytest.fixture
def parts(new_store: NewStore) -> Parts:
    made: Parts = new_store(Parts)
    return made


@pytest.mark.parametrize(
    ("stored", "duration_ms"), [(None, 0), (b"0", 0), (b"90500", 90_500), (b"172800000", 172_800_000)]
)
def test_a_duration_is_decoded(stored: bytes | None, duration_ms: int) -> None:
    assert read_duration(stored) == duration_ms


@pytest.mark.parametrize("stored", [b"", b"-1", b"90.5", b"1e3", b"172800001", b"9999999999", b"\xff", b" 1", b"1\n"])
def test_another_duration_is_damaged(stored: bytes) -> None:
    assert isinstance(read_duration(stored), Damaged)
    assert isinstance(read_video([b"title", stored]), Damaged)


@pytest.mark.parametrize(
    ("stored", "video"),
    [
        ([None, None], None),
        ([b"title", None], None),
        ([None, b"5000"], Video("", 5_000)),
        (["Einführung".encode(), b"90000"], FILM),
        (FOREIGN, FOREIGN),
    ],
)
def test_an_entry_is_decoded(stored: Any, video: Video | Damaged | None) -> None:
    assert read_video(stored) == video


def test_a_title_that_is_not_text_is_damaged() -> None:
    assert isinstance(read_video([b"\xff", b"5000"]), Damaged)


async def test_put_replaces_and_add_does_not(parts: Parts) -> None:
    assert await parts.catalogue.get("v") is None
    assert await parts.catalogue.add("v", FILM) is None
    assert await parts.catalogue.add("v", Video("another", 1_000)) is None
    assert await parts.catalogue.get("v") == FILM
    assert await parts.catalogue.put("v", Video("another", 1_000)) is None
    assert await parts.catalogue.get("v") == Video("another", 1_000)


async def test_a_key_of_another_type_is_not_written(parts: Parts) -> None:
    await parts.run([("SET", parts.keys.catalogue("v"), "text")])
    assert await parts.catalogue.put("v", FILM) == FOREIGN
    assert await parts.catalogue.add("v", FILM) == FOREIGN
    assert await parts.catalogue.get("v") == FOREIGN
    assert await parts.run([("GET", parts.keys.catalogue("v"))]) == [b"text"]
    assert await parts.catalogue.durations({"v"}) == {"v": 0}
    assert parts.damage.counts["catalogue"] == 4


async def test_a_cached_duration_is_read_again_when_it_is_old(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message about the change may have been lost."""
    now = 1_000.0
    monkeypatch.setattr("playhead.storage.read.catalogue.time.monotonic", lambda: now)
    await parts.catalogue.put("v", FILM)
    assert await parts.catalogue.durations({"v", "w"}) == {"v": 90_000, "w": 0}
    await parts.run([("HSET", parts.keys.catalogue("v"), "duration_ms", 60_000)])
    now += catalogue.MAX_AGE_S - 1
    assert await parts.catalogue.durations({"v"}) == {"v": 90_000}
    now += 1
    assert await parts.catalogue.durations({"v"}) == {"v": 60_000}


async def test_a_message_or_another_store_drops_cached_durations(parts: Parts) -> None:
    changes: list[tuple[Callable[[], None], set[str]]] = [
        (lambda: parts.catalogue.receive(b"v"), {"v"}),
        (parts.catalogue.forget_all, {"v", "w"}),
    ]
    for change, videos in changes:
        await parts.run([("DEL", parts.keys.catalogue(name)) for name in ("v", "w")])
        parts.catalogue.forget_all()
        assert await parts.catalogue.durations({"v", "w"}) == {"v": 0, "w": 0}
        for name in ("v", "w"):
            await parts.run([("HSET", parts.keys.catalogue(name), "title", "t", "duration_ms", 90_000)])
        parts.catalogue.receive(b"\xff\xfe")
        assert await parts.catalogue.durations({"v", "w"}) == {"v": 0, "w": 0}, "foreign bytes change nothing"
        change()
        assert await parts.catalogue.durations({"v", "w"}) == {name: 90_000 * (name in videos) for name in ("v", "w")}


async def test_the_cache_is_bounded(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "MAX_CACHED", 10)
    for number in range(25):
        await parts.catalogue.durations({f"video{number}"})
        assert len(parts.catalogue._cache) <= 10
