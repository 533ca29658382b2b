"""A learner at the limit on videos gets an error of its own on each endpoint; existing records continue."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.conftest import StoreServer
from tests.device import device
from tests.rest import ok, refused, rest
from tests.serving import Running, serving

LIMIT = 5
NAMED = "max_videos_per_user"


def uuid() -> str:
    return str(uuid4())


def item(video: str, watched: int = 9) -> dict[str, Any]:
    return {"videoId": video, "watchedDuration": watched, "lastWatched": "2024-05-01T10:00:00.000Z"}


def update(user: str, video: str, watched: int = 9) -> dict[str, Any]:
    return {"userId": user, **item(video, watched)}


@pytest.fixture
async def server(store_server: StoreServer, prefix: str) -> AsyncIterator[Running]:
    async with serving(redis_url=store_server.url, key_prefix=prefix, max_videos_per_user=LIMIT) as running:
        yield running


@pytest.fixture
async def api(server: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with rest(server) as client:
        yield client


async def with_videos(api: httpx.AsyncClient, count: int) -> tuple[str, list[str]]:
    """A learner with this many videos, and the videos."""
    user, videos = uuid(), [uuid() for _ in range(count)]
    ok(await api.post("/progress/sync", json={"userId": user, "progressData": list(map(item, videos))}))
    return user, videos


async def videos_of(api: httpx.AsyncClient, user: str) -> set[str]:
    return {each["videoId"] for each in ok(await api.get(f"/progress/{user}"))["progressData"]}


async def test_rest_answers_with_a_problem_of_its_own(api: httpx.AsyncClient) -> None:
    """The same for update and realtime: the problem names the setting and its value, and nothing is stored."""
    user, videos = await with_videos(api, LIMIT)
    for path in ("/progress/update", "/progress/realtime"):
        problem = refused(await api.post(path, json=update(user, uuid())), "too_many_videos")
        assert NAMED in problem["detail"]
        assert str(LIMIT) in problem["detail"]
        ok(await api.post(path, json=update(user, videos[0], 20)))
    assert await videos_of(api, user) == set(videos)


async def test_a_heartbeat_is_rejected_and_the_connection_stays_open(server: Running, api: httpx.AsyncClient) -> None:
    user, videos = await with_videos(api, LIMIT)
    async with device(server, user) as player:
        (rejection,) = (await player.play(uuid(), 0, 5))["rejected"]
        assert (rejection["seq"], rejection["code"]) == (1, "too_many_videos")
        assert NAMED in rejection["detail"]
        assert (await player.play(videos[0], 0, 5))["rejected"] == []


async def test_an_envelope_is_accepted_except_for_new_videos(api: httpx.AsyncClient) -> None:
    user, videos = await with_videos(api, LIMIT)
    beats = [
        {"seq": seq, "videoId": video, "played": [[0, 5]], "state": "playing"}
        for seq, video in enumerate((uuid(), videos[0], uuid()), 1)
    ]
    body = {"userId": user, "session": "page", "heartbeats": beats}
    (ack,) = ok(await api.post("/progress/realtime", json=body))["acks"]
    assert [(each["seq"], each["code"]) for each in ack["rejected"]] == [
        (1, "too_many_videos"),
        (3, "too_many_videos"),
    ]
    assert all(NAMED in each["detail"] for each in ack["rejected"])
    assert await videos_of(api, user) == set(videos)


async def test_a_sync_that_would_exceed_the_limit_stores_nothing(api: httpx.AsyncClient) -> None:
    """Not even its items for existing videos; sent without the new ones it is stored."""
    user, videos = await with_videos(api, LIMIT - 1)
    known, new = item(videos[0], 500), [item(uuid()), item(uuid())]
    problem = refused(
        await api.post("/progress/sync", json={"userId": user, "progressData": [known, *new]}), "too_many_videos"
    )
    assert NAMED in problem["detail"]
    assert await videos_of(api, user) == set(videos)
    assert ok(await api.get(f"/progress/{user}/{videos[0]}"))["watchedDuration"] == 9
    body = ok(await api.post("/progress/sync", json={"userId": user, "progressData": [known, new[0]]}))
    assert len(body["progressData"]) == LIMIT


async def test_a_deletion_does_not_free_a_place(api: httpx.AsyncClient) -> None:
    user, videos = await with_videos(api, LIMIT)
    assert (await api.delete(f"/progress/{user}/{videos[0]}")).status_code == 200
    refused(await api.post("/progress/update", json=update(user, uuid())), "too_many_videos")


async def test_long_syncs_near_the_limit_are_atomic(store_server: StoreServer, prefix: str) -> None:
    """They are longer than one script call would be otherwise, and begin with few records."""
    store: dict[str, Any] = {"redis_url": store_server.url, "key_prefix": prefix}
    async with serving(**store, max_videos_per_user=600) as server, rest(server) as api:
        user, videos = await with_videos(api, 400)
        too_many = [item(uuid()) for _ in range(201)]
        body = {"userId": user, "progressData": too_many}
        refused(await api.post("/progress/sync", json=body), "too_many_videos")
        assert await videos_of(api, user) == set(videos)


async def test_syncs_by_several_processes_race_for_the_last_places(store_server: StoreServer, prefix: str) -> None:
    """A sync that gets 200 is stored completely, a refused one not at all."""
    store: dict[str, Any] = {"redis_url": store_server.url, "key_prefix": prefix, "max_videos_per_user": 10}
    async with serving(**store) as one, serving(**store) as two, rest(one) as here, rest(two) as there:
        user, _ = await with_videos(here, 3)
        syncs = [[uuid() for _ in range(3)] for _ in range(12)]
        answers = await asyncio.gather(
            *(
                (here, there)[n % 2].post(
                    "/progress/sync", json={"userId": user, "progressData": list(map(item, videos))}
                )
                for n, videos in enumerate(syncs)
            )
        )
        stored = await videos_of(here, user)
        for videos, answer in zip(syncs, answers, strict=True):
            if answer.status_code == 200:
                assert set(videos) <= stored
            else:
                refused(answer, "too_many_videos")
                assert not set(videos) & stored
        assert [answer.status_code for answer in answers].count(200) == 2
        assert len(stored) == 9
