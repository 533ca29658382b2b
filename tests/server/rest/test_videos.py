"""The catalogue and a video's analytics on a real socket: durations, retention and replays."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio

from tests.conftest import StoreServer
from tests.device import PATIENCE_S, device
from tests.rest import iso, ok, refused, rest
from tests.serving import Running, serving

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.stores("valkey", "redis7")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(store_server: StoreServer) -> AsyncIterator[Running]:
    """One server for all tests in this file; each test uses its own learners and videos."""
    async with serving(redis_url=store_server.url, key_prefix=f"t{uuid4().hex}", flush_interval_s=0.02) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(server: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with rest(server) as client:
        yield client


def uuid() -> str:
    return str(uuid4())


async def claim(api: httpx.AsyncClient, user: str, video: str, seconds: int) -> dict[str, Any]:
    """Report a watchedDuration, and return the record in full detail."""
    body = {"userId": user, "videoId": video, "watchedDuration": seconds, "lastWatched": "2024-05-01T10:00:00Z"}
    record: dict[str, Any] = ok(await api.post("/progress/update?detail=full", json=body))
    return record


@pytest.mark.parametrize(
    ("title", "duration"), [("Sets", 90), ("Mengenlehre – 集合", 90.5), ("x" * 300, 172_800), ("Live", 0)]
)
async def test_a_catalogue_entry_is_returned_as_it_was_put(api: httpx.AsyncClient, title: str, duration: float) -> None:
    """404 before; then the same title and duration, with the id in lower case. A repeated PUT changes nothing."""
    video = uuid()
    refused(await api.get(f"/videos/{video}"), "not_found")
    entry = {"videoId": video, "title": title, "duration": duration}
    for _ in range(2):
        assert ok(await api.put(f"/videos/{video.upper()}", json={"title": title, "duration": duration})) == entry
    assert ok(await api.get(f"/videos/{video.upper()}")) == entry
    assert ok(await api.put(f"/videos/{video}", json={"title": "Another", "duration": 1}))["title"] == "Another"
    assert ok(await api.get(f"/videos/{video}"))["duration"] == 1


async def test_the_catalogues_duration_bounds_what_counts_as_watched(api: httpx.AsyncClient) -> None:
    """The counted time is capped at the duration.

    The claim itself is kept, for a later and longer version of the video.
    """
    user, video = uuid(), uuid()
    ok(await api.put(f"/videos/{video}", json={"title": "Sets", "duration": 90.7}))
    record = await claim(api, user, video, 500)
    assert (record["watchedDuration"], record["duration"], record["completed"]) == (90, 90.7, True)
    ok(await api.put(f"/videos/{video}", json={"title": "Sets, the long cut", "duration": 1_000}))
    record = await claim(api, user, video, 10)
    assert (record["watchedDuration"], record["duration"]) == (500, 1_000)
    assert record["completed"], "a completed record stays completed"


async def test_a_record_adopts_a_new_duration_with_its_next_report(api: httpx.AsyncClient) -> None:
    """Without a duration no record is complete. With the catalogue's, the next report of any kind decides."""
    user, video = uuid(), uuid()
    record = await claim(api, user, video, 95)
    assert (record["watchedDuration"], record["completed"]) == (95, False)
    assert "duration" not in record
    ok(await api.put(f"/videos/{video}", json={"title": "Sets", "duration": 100}))
    record = await claim(api, user, video, 1)
    assert (record["watchedDuration"], record["completed"], record["duration"]) == (95, True, 100)
    assert record["completedAt"] == "2024-05-01T10:00:00.000Z"


async def test_the_catalogues_duration_overrides_a_players(server: Running, api: httpx.AsyncClient) -> None:
    """A player that includes advertisements in its duration does not change the threshold."""
    user, video = uuid(), uuid()
    ok(await api.put(f"/videos/{video}", json={"title": "Sets", "duration": 100}))
    async with device(server, user) as player:
        await player.play(video, 0, 90, duration=130)
    record = ok(await api.get(f"/progress/{user}/{video}?detail=full"))
    assert (record["duration"], record["watchedDuration"], record["completed"]) == (100, 90, True)


async def test_analytics_of_an_unwatched_video_are_zero(api: httpx.AsyncClient) -> None:
    video = uuid()
    assert ok(await api.get(f"/analytics/videos/{video}")) == {
        "videoId": video,
        "averageWatchedDuration": 0,
        "completionRate": 0.0,
        "viewers": 0,
        "completed": 0,
        "watchingNow": 0,
        "retention": [],
        "replays": [],
    }


async def test_retention_and_replays_count_learners_second_by_second(server: Running, api: httpx.AsyncClient) -> None:
    """For each second: how many learners saw it, and how many more than once.

    A learner with two devices counts once, and a deleted record does not count.
    """
    video, anna, ben, eve = uuid(), uuid(), uuid(), uuid()
    ok(await api.put(f"/videos/{video}", json={"title": "Ten seconds", "duration": 10}))
    async with device(server, anna) as laptop, device(server, anna) as phone, device(server, ben) as other:
        await laptop.play(video, 0, 10)
        await laptop.play(video, 2, 5)
        await phone.play(video, 3, 4)
        await other.play(video, 0, 4)
        async with device(server, eve) as third:
            await third.play(video, 0, 10)
            await third.play(video, 0, 10)
        ok(await api.delete(f"/progress/{eve}/{video}"))
    assert ok(await api.get(f"/analytics/videos/{video.upper()}")) == {
        "videoId": video,
        "averageWatchedDuration": 7,
        "completionRate": 0.5,
        "viewers": 2,
        "completed": 1,
        "watchingNow": 2,
        "retention": [2, 2, 2, 2, 1, 1, 1, 1, 1, 1],
        "replays": [0, 0, 1, 1, 1, 0, 0, 0, 0, 0],
    }
    summary = ok(await api.get(f"/progress/summary/{video}"))
    assert summary == {"videoId": video, "averageWatchedDuration": 7, "completionRate": 0.5}


async def test_a_claim_counts_as_a_viewer_but_not_in_the_curve(api: httpx.AsyncClient) -> None:
    """A watchedDuration does not say which seconds were watched: totals change, retention does not."""
    video = uuid()
    await claim(api, uuid(), video, 30)
    await claim(api, uuid(), video, 0)
    analytics = ok(await api.get(f"/analytics/videos/{video}"))
    assert (analytics["viewers"], analytics["averageWatchedDuration"]) == (1, 30)
    assert (analytics["retention"], analytics["replays"], analytics["watchingNow"]) == ([], [], 0)


async def test_watching_now_counts_who_played_in_the_last_fifteen_seconds(
    server: Running, api: httpx.AsyncClient
) -> None:
    """A learner is no longer counted three heartbeat intervals after their last play. Old reports do not count."""
    video, anna, ben = uuid(), uuid(), uuid()

    async def watching() -> int:
        return int(ok(await api.get(f"/analytics/videos/{video}"))["watchingNow"])

    async with device(server, anna) as first, device(server, ben) as second:
        await first.play(video, 0, 5)
        assert await watching() == 1
        server.clock.advance(10)
        await second.play(video, 0, 5)
        assert await watching() == 2
        server.clock.advance(5)
        assert await watching() == 2
        server.clock.advance(0.001)
        assert await watching() == 1
        await first.play(video, 5, 10, age=60_000)
        assert await watching() == 1, "a play a minute ago does not count as watching now"
        await first.play(video, 10, 15)
        assert await watching() == 2
        server.clock.advance(16)
        assert await watching() == 0


async def test_a_title_is_text_not_markup(api: httpx.AsyncClient) -> None:
    """It is returned unchanged as JSON, with a type that no browser executes."""
    video, title = uuid(), '<script>alert("\'&\u2028")</script>'
    response = await api.put(
        f"/videos/{video}",
        content=json.dumps({"title": title, "duration": 1}),
        headers={"content-type": "application/json; charset=utf-8"},
    )
    assert ok(response)["title"] == title
    assert ok(await api.get(f"/videos/{video}"))["title"] == title


async def test_rewatching_never_lowers_a_total(server: Running, api: httpx.AsyncClient) -> None:
    """A learner who completed the video and starts again stays completed, with the same instant of completion."""
    user, video = uuid(), uuid()
    ok(await api.put(f"/videos/{video}", json={"title": "Twenty seconds", "duration": 20}))
    async with device(server, user) as player:
        await player.play(video, 0, 20)
        completed_at = server.clock.wall
        before = ok(await api.get(f"/progress/summary/{video}"))
        server.clock.advance(100)
        await player.play(video, 0, 3, seek=True)
    assert ok(await api.get(f"/progress/summary/{video}")) == before
    record = ok(await api.get(f"/progress/{user}/{video}?detail=full"))
    assert (record["completed"], record["completedAt"]) == (True, iso(completed_at))
    assert (record["watchedDuration"], record["playedDuration"]) == (20, 23.0)


async def test_a_new_duration_reaches_records_without_further_reports(server: Running, api: httpx.AsyncClient) -> None:
    """Earlier claims are capped by it, in the records and in the totals. Deleted records stay deleted."""
    video, users = str(uuid4()), [str(uuid4()) for _ in range(450)]
    for n, user in enumerate(users):
        claim = 172_800 if n == 0 else 45
        body = {"userId": user, "videoId": video, "watchedDuration": claim, "lastWatched": "2024-05-01T10:00:00Z"}
        ok(await api.post("/progress/update", json=body))
    ok(await api.delete(f"/progress/{users[-1]}/{video}"))
    ok(await api.put(f"/videos/{video}", json={"title": "Sets", "duration": 90}))
    async with asyncio.timeout(PATIENCE_S):
        while True:
            liar = ok(await api.get(f"/progress/{users[0]}/{video}", params={"detail": "full"}))
            totals = ok(await api.get(f"/analytics/videos/{video}"))
            if (liar["watchedDuration"], totals["completionRate"]) == (90, 1 / 449):
                break
    assert (liar["duration"], liar["completed"], liar["lastWatched"]) == (90, True, "2024-05-01T10:00:00.000Z")
    assert (totals["viewers"], totals["averageWatchedDuration"]) == (449, 45)
    assert (await api.get(f"/progress/{users[-1]}/{video}")).status_code == 404
