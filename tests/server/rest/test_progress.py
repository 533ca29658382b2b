"""The eight documented endpoints on a real socket: the documented bodies and what they promise."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio

from tests.conftest import StoreServer
from tests.device import device
from tests.rest import iso, ok, refused, rest
from tests.serving import Running, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

U, V = "0f8fad5b-d9cb-469f-a165-70867728950e", "7c9e6679-7425-40de-944b-e07fc1f90ae7"


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


def item(video: str, watched: int, at: str = "2024-05-01T10:00:00.000Z") -> dict[str, Any]:
    return {"videoId": video, "watchedDuration": watched, "lastWatched": at}


def update(user: str, video: str, watched: int, at: str = "2024-05-01T10:00:00.000Z") -> dict[str, Any]:
    return {"userId": user, **item(video, watched, at)}


# 1. POST /progress/update


async def test_update_returns_the_documented_record(api: httpx.AsyncClient) -> None:
    """The response has the four documented fields, and the stored record equals it."""
    user, video = uuid(), uuid()
    assert ok(await api.post("/progress/update", json=update(user, video, 120))) == update(user, video, 120)
    assert ok(await api.get(f"/progress/{user}/{video}")) == update(user, video, 120)


async def test_updates_join_by_the_largest_claim_and_the_latest_instant(api: httpx.AsyncClient) -> None:
    """An older or smaller report changes nothing, in whichever order they arrive.

    Each response is the merged record.
    """
    user, video = uuid(), uuid()
    early, late = "2024-05-01T10:00:00.000Z", "2024-05-02T10:00:00.000Z"
    expected = [
        (update(user, video, 120, late), update(user, video, 120, late)),
        (update(user, video, 60, early), update(user, video, 120, late)),
        (update(user, video, 300, early), update(user, video, 300, late)),
        (update(user, video, 300, early), update(user, video, 300, late)),
    ]
    for body, merged in expected:
        assert ok(await api.post("/progress/update", json=body)) == merged


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("2024-05-01T10:00:00.000Z", "2024-05-01T10:00:00.000Z"),
        ("2024-05-01T10:00:00Z", "2024-05-01T10:00:00.000Z"),
        ("2024-05-01t10:00:00z", "2024-05-01T10:00:00.000Z"),
        ("2024-05-01T10:00:00", "2024-05-01T10:00:00.000Z"),
        ("2024-05-01 10:00", "2024-05-01T10:00:00.000Z"),
        ("2024-05-01", "2024-05-01T00:00:00.000Z"),
        ("2024-05-01T10:00:00.123456Z", "2024-05-01T10:00:00.123Z"),
        ("2024-05-01T10:00:00.5Z", "2024-05-01T10:00:00.500Z"),
        ("2024-05-01T10:00:00+02:00", "2024-05-01T08:00:00.000Z"),
        ("2024-05-01T23:30:00-05:30", "2024-05-02T05:00:00.000Z"),
        ("2024-02-29T23:59:59.999+00:00", "2024-02-29T23:59:59.999Z"),
    ],
)
async def test_last_watched_is_accepted_as_iso_8601_and_returned_in_utc(
    api: httpx.AsyncClient, given: str, taken: str
) -> None:
    """Without an offset it is UTC, and a date alone is its midnight. It is returned in UTC with milliseconds."""
    answer = ok(await api.post("/progress/update", json=update(uuid(), uuid(), 1, given)))
    assert answer["lastWatched"] == taken


@pytest.mark.parametrize("future", ["2099-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
async def test_a_future_last_watched_is_clamped_to_the_time_of_receipt(
    server: Running, api: httpx.AsyncClient, future: str
) -> None:
    """So a clock that is ahead does not win later merges."""
    answer = ok(await api.post("/progress/update", json=update(uuid(), uuid(), 1, future)))
    assert answer["lastWatched"] == iso(server.clock.wall)


async def test_ids_are_case_insensitive_and_returned_in_lower_case(api: httpx.AsyncClient) -> None:
    """Upper and lower case name the same learner and video, in bodies and paths."""
    user, video = uuid(), uuid()
    answer = ok(await api.post("/progress/update", json=update(user.upper(), video.upper(), 7)))
    assert answer == update(user, video, 7)
    assert ok(await api.get(f"/progress/{user.upper()}/{video.upper()}")) == answer
    assert ok(await api.get(f"/progress/{user.upper()}"))["userId"] == user
    assert ok(await api.get(f"/progress/engagement/{user.upper()}"))["userId"] == user
    assert ok(await api.get(f"/progress/summary/{video.upper()}"))["videoId"] == video
    assert ok(await api.delete(f"/progress/{user.upper()}/{video.upper()}"))
    refused(await api.get(f"/progress/{user}/{video}"), "not_found")


async def test_any_uuid_version_and_unknown_fields_are_accepted(api: httpx.AsyncClient) -> None:
    """The nil UUID is a valid id. Fields of a later version of the contract are ignored."""
    user, nil = uuid(), "00000000-0000-0000-0000-000000000000"
    answer = ok(await api.post("/progress/update", json={**update(user, nil, 172_800), "later": {"version": [1]}}))
    assert answer == update(user, nil, 172_800)


# 2. GET /progress/{userId}/{videoId}


async def test_get_one_is_404_until_there_is_progress(api: httpx.AsyncClient) -> None:
    """A missing record is not a body of zeros; a record of 0 s is a record."""
    user, video = uuid(), uuid()
    refused(await api.get(f"/progress/{user}/{video}"), "not_found")
    ok(await api.post("/progress/update", json=update(user, video, 0)))
    assert ok(await api.get(f"/progress/{user}/{video}")) == update(user, video, 0)
    refused(await api.get(f"/progress/{user}/{uuid()}"), "not_found")
    refused(await api.get(f"/progress/{uuid()}/{video}"), "not_found")


async def test_detail_full_adds_the_rest_of_the_record(server: Running, api: httpx.AsyncClient) -> None:
    """The fields beyond the documented ones are returned only with detail=full."""
    user, video = uuid(), uuid()
    async with device(server, user) as player:
        await player.play(video, 0, 12.4, duration=90)
        await player.play(video, 5, 10, seek=True)
    short = {"userId": user, "videoId": video, "watchedDuration": 12, "lastWatched": iso(server.clock.wall)}
    full = {
        **short,
        "playedDuration": 17.4,
        "position": 12.4,
        "resume": 12.4,
        "duration": 90.0,
        "completed": False,
        "seen": [[0, 12]],
        "again": [[5, 10]],
        "rev": 2,
    }
    assert ok(await api.get(f"/progress/{user}/{video}")) == short
    assert ok(await api.get(f"/progress/{user}/{video}?detail=full")) == full
    # The clock stands still, so the two positions have the same time, and the larger wins.
    listed = ok(await api.get(f"/progress/{user}?detail=full"))["progressData"]
    assert listed == [{name: value for name, value in full.items() if name != "userId"}]
    answer = ok(await api.post("/progress/update?detail=full", json=update(user, video, 90)))
    assert answer == {
        **full,
        "watchedDuration": 90,
        "completed": True,
        "completedAt": iso(server.clock.wall),
        "rev": 3,
    }
    again = ok(await api.post("/progress/realtime?detail=full", json=update(user, video, 90)))
    assert again == answer


# 3. POST /progress/sync


async def test_sync_returns_all_records_of_the_user_after_the_merge(api: httpx.AsyncClient) -> None:
    """The records of other devices are returned together with the ones just sent, newest first."""
    user, old, new, other = uuid(), uuid(), uuid(), uuid()
    ok(await api.post("/progress/update", json=update(user, old, 500, "2024-01-01T00:00:00.000Z")))
    body = {
        "userId": user,
        "progressData": [
            item(old, 400, "2024-01-02T00:00:00.000Z"),
            item(new, 10, "2024-01-04T00:00:00.000Z"),
            item(other, 20, "2024-01-03T00:00:00.000Z"),
        ],
    }
    merged = {
        "userId": user,
        "progressData": [
            item(new, 10, "2024-01-04T00:00:00.000Z"),
            item(other, 20, "2024-01-03T00:00:00.000Z"),
            item(old, 500, "2024-01-02T00:00:00.000Z"),
        ],
    }
    assert ok(await api.post("/progress/sync", json=body)) == merged
    assert ok(await api.get(f"/progress/{user}")) == merged
    assert ok(await api.post("/progress/sync", json=body)) == merged, "repeating a sync changes nothing"


async def test_sync_of_an_empty_list_returns_the_stored_records(api: httpx.AsyncClient) -> None:
    """An empty list is valid: a new device sends it to get the records."""
    user, video = uuid(), uuid()
    empty = {"userId": user, "progressData": []}
    assert ok(await api.post("/progress/sync", json=empty)) == empty
    ok(await api.post("/progress/update", json=update(user, video, 5)))
    assert ok(await api.post("/progress/sync", json=empty)) == {"userId": user, "progressData": [item(video, 5)]}


async def test_sync_accepts_a_thousand_items(api: httpx.AsyncClient) -> None:
    """The documented maximum; all are stored before the response."""
    user = uuid()
    items = [item(uuid(), n, iso(1_700_000_000_000 + n)) for n in range(1_000)]
    answer = ok(await api.post("/progress/sync", json={"userId": user, "progressData": items}))
    assert answer == {"userId": user, "progressData": items[::-1]}
    assert ok(await api.get(f"/progress/{user}")) == answer


async def test_sync_joins_items_of_one_video(api: httpx.AsyncClient) -> None:
    """Items for the same video in one body join as if they were sent one by one."""
    user, video = uuid(), uuid()
    early, late = "2024-05-01T10:00:00.000Z", "2024-05-02T10:00:00.000Z"
    items = [item(video, n, early) for n in range(20)] + [item(video.upper(), 3, late)]
    answer = ok(await api.post("/progress/sync", json={"userId": user, "progressData": items}))
    assert answer == {"userId": user, "progressData": [item(video, 19, late)]}


async def test_sync_in_full_detail_returns_the_revision_for_the_next_delta(api: httpx.AsyncClient) -> None:
    """With detail=full the response has `rev` and `epoch`, so that a device can continue with `since`."""
    user, video = uuid(), uuid()
    answer = ok(await api.post("/progress/sync?detail=full", json={"userId": user, "progressData": [item(video, 5)]}))
    assert (answer["rev"], answer["progressData"][0]["rev"]) == (1, 1)
    url = f"/progress/{user}?since={answer['rev']}&epoch={answer['epoch']}"
    assert ok(await api.get(url)) == {"userId": user, "progressData": [], "rev": 1, "epoch": answer["epoch"]}


async def test_sync_in_full_detail_returns_the_outcome_of_each_item(server: Running, api: httpx.AsyncClient) -> None:
    """Each outcome has the index and the video: stored, capped or deleted.

    Without detail=full there are no outcomes.
    """
    user, kept, gone, short, afresh = (uuid() for _ in range(5))
    ok(await api.put(f"/videos/{short}", json={"title": "short", "duration": 30}))
    before = [item(video, 10) for video in (kept, gone, afresh)]
    ok(await api.post("/progress/sync", json={"userId": user, "progressData": before}))
    for video in (gone, afresh):
        ok(await api.delete(f"/progress/{user}/{video}"))
    server.clock.advance(1)
    items = [
        item(gone, 600),
        item(kept, 5),
        item(short, 31),
        item(afresh, 20, iso(server.clock.wall)),
        item(gone, 700),
        item(afresh, 20, "1970-01-01T00:00:00Z"),
        item(kept, 50),
        item(short, 30),
    ]
    expected = ["deleted", "stored", "capped", "stored", "deleted", "deleted", "stored", "stored"]
    body = {"userId": user, "progressData": items}
    answer = ok(await api.post("/progress/sync?detail=full", json=body))
    assert answer["outcomes"] == [
        {"index": n, "videoId": each["videoId"], "outcome": outcome}
        for n, (each, outcome) in enumerate(zip(items, expected, strict=True))
    ]
    watched = {each["videoId"]: each.get("watchedDuration") for each in answer["progressData"]}
    assert watched == {kept: 50, short: 30, afresh: 20}
    again = ok(await api.post("/progress/sync?detail=full", json=body))
    assert again == answer
    assert set(ok(await api.post("/progress/sync", json=body))) == {"userId", "progressData"}
    assert "outcomes" not in ok(await api.get(f"/progress/{user}?detail=full"))
    assert ok(await api.post("/progress/sync?detail=full", json={"userId": user, "progressData": []}))["outcomes"] == []


@pytest.mark.parametrize("never", ["1970-01-01T00:00:00Z", "1969-12-31T23:00:00-01:00", "0001-01-01T00:00:00"])
async def test_sync_accepts_what_clients_send_for_never(server: Running, api: httpx.AsyncClient, never: str) -> None:
    """It is stored as the earliest instant, so any other time wins. Updates and the WebSocket do the same."""
    user, fresh, known, beaten = (uuid() for _ in range(4))
    ok(await api.post("/progress/update", json=update(user, known, 5)))
    items = [item(fresh, 7, never), item(known, 9, never)]
    answer = ok(await api.post("/progress/sync", json={"userId": user, "progressData": items}))
    assert answer["progressData"] == [item(known, 9), item(fresh, 7, "1970-01-01T00:00:00.001Z")]
    assert ok(await api.post("/progress/update", json=update(user, known, 11, never))) == update(user, known, 11)
    async with device(server, user) as player:
        assert (await player.play(beaten, 0, 5, lastWatched=never))["rejected"] == []
    assert ok(await api.get(f"/progress/{user}/{beaten}"))["lastWatched"] == "1970-01-01T00:00:00.001Z"


# 4. GET /progress/{userId}


async def test_get_all_is_200_and_empty_for_a_learner_without_records(api: httpx.AsyncClient) -> None:
    user = uuid()
    assert ok(await api.get(f"/progress/{user}")) == {"userId": user, "progressData": []}


async def test_get_all_since_a_revision_returns_the_changes_and_deletions(
    server: Running, api: httpx.AsyncClient
) -> None:
    """A delta has the records that changed after `since`, and deleted ones as tombstones, but none that stayed the
    same."""
    user, kept, changed, gone = uuid(), uuid(), uuid(), uuid()
    for video in (kept, changed, gone):
        ok(await api.post("/progress/update", json=update(user, video, 1)))
    first = ok(await api.get(f"/progress/{user}?detail=full"))
    assert (first["rev"], len(first["progressData"])) == (3, 3)
    ok(await api.post("/progress/update", json=update(user, changed, 2)))
    ok(await api.delete(f"/progress/{user}/{gone}"))

    delta = ok(await api.get(f"/progress/{user}?since=3&epoch={first['epoch']}"))
    assert (delta["userId"], delta["rev"], delta["epoch"]) == (user, 5, first["epoch"])
    records = {record["videoId"]: record for record in delta["progressData"]}
    assert set(records) == {changed, gone}
    assert records[changed]["watchedDuration"] == 2
    assert records[gone] == {"videoId": gone, "deletedAt": iso(server.clock.wall), "rev": 5}

    for since in (f"since=5&epoch={first['epoch']}", "since=5"):
        assert ok(await api.get(f"/progress/{user}?{since}"))["progressData"] == []
    visible = ok(await api.get(f"/progress/{user}?detail=full"))
    assert {record["videoId"] for record in visible["progressData"]} == {kept, changed}


@pytest.mark.parametrize("query", ["since=2&epoch=another", "since=0&epoch=another", "since=99", "since=0"])
async def test_another_epoch_or_a_future_revision_returns_everything(api: httpx.AsyncClient, query: str) -> None:
    """The client has read another store, or more than this one holds, so it starts over."""
    user, videos = uuid(), [uuid(), uuid()]
    for video in videos:
        ok(await api.post("/progress/update", json=update(user, video, 1)))
    answer = ok(await api.get(f"/progress/{user}?{query}"))
    assert {record["videoId"] for record in answer["progressData"]} == set(videos)
    assert answer["rev"] == 2
    assert answer["epoch"] not in ("", "another")


# 5. DELETE /progress/{userId}/{videoId}


async def test_delete_returns_the_documented_message_once(server: Running, api: httpx.AsyncClient) -> None:
    """200 if there was progress, 404 if there was none or it is already deleted."""
    user, video = uuid(), uuid()
    refused(await api.delete(f"/progress/{user}/{video}"), "not_found")
    ok(await api.post("/progress/update", json=update(user, video, 5)))
    assert ok(await api.delete(f"/progress/{user}/{video}")) == {"message": "Progress deleted successfully"}
    refused(await api.get(f"/progress/{user}/{video}"), "not_found")
    server.clock.advance(0.001)  # a deletion with the same instant is a retry, because the response may have been lost
    refused(await api.delete(f"/progress/{user}/{video}"), "not_found")
    assert ok(await api.get(f"/progress/{user}"))["progressData"] == []


async def test_what_happened_before_a_delete_stays_deleted(server: Running, api: httpx.AsyncClient) -> None:
    """Late reports of earlier watching are 409 by update and realtime, and missing from a sync.

    Later watching starts a new record.
    """
    user, video, other = uuid(), uuid(), uuid()
    ok(await api.post("/progress/update", json=update(user, video, 500)))
    ok(await api.delete(f"/progress/{user}/{video}"))
    deleted_at = server.clock.wall
    for late in ("2024-05-01T10:00:00Z", iso(deleted_at)):
        refused(await api.post("/progress/update", json=update(user, video, 600, late)), "deleted")
        refused(await api.post("/progress/realtime", json=update(user, video, 600, late)), "deleted")
    body = {"userId": user, "progressData": [item(video, 600), item(other, 1)]}
    assert ok(await api.post("/progress/sync", json=body)) == {"userId": user, "progressData": [item(other, 1)]}
    refused(await api.get(f"/progress/{user}/{video}"), "not_found")

    server.clock.advance(1)
    fresh = update(user, video, 3, iso(deleted_at + 1))
    assert ok(await api.post("/progress/update", json=fresh)) == fresh, "the deleted 500 s do not count"


async def test_delete_applies_to_a_record_in_the_running_batch(store_server: StoreServer, prefix: str) -> None:
    """A heartbeat that waits for its flush counts as progress: the deletion returns 200, and the heartbeat is acked as
    stored."""
    user, video = uuid(), uuid()
    async with (
        serving(redis_url=store_server.url, key_prefix=prefix, flush_interval_s=60.0) as slow,
        rest(slow) as client,
        device(slow, user) as player,
    ):
        await player.beat(video, played=[[0, 30]], position=30, state="playing")
        await player.send(type="ping")
        await player.until("pong")
        refused(await client.get(f"/progress/{user}/{video}"), "not_found")
        assert ok(await client.delete(f"/progress/{user}/{video}")) == {"message": "Progress deleted successfully"}
        assert (await player.acked())["rejected"] == []
        refused(await client.get(f"/progress/{user}/{video}"), "not_found")


# 6. GET /progress/summary/{videoId}


async def test_summary_of_an_unwatched_video_is_zero(api: httpx.AsyncClient) -> None:
    video = uuid()
    expected = {"videoId": video, "averageWatchedDuration": 0, "completionRate": 0.0}
    response = await api.get(f"/progress/summary/{video}")
    assert ok(response) == expected
    assert '"averageWatchedDuration":0,' in response.text, "an integer"
    assert '"completionRate":0.0' in response.text, "a float"


@pytest.mark.parametrize(
    ("watched", "average"),
    [
        ([10], 10),
        ([10, 11], 11),  # 10.5 is rounded half up
        ([11, 12], 12),  # 11.5 is rounded half up, not to even
        ([10, 10, 11], 10),
        ([10, 11, 11], 11),
        ([0, 10], 10),  # 0 s does not make a viewer
        ([0], 0),
        ([1, 172_800], 86_401),
    ],
)
async def test_summary_averages_over_viewers(api: httpx.AsyncClient, watched: list[int], average: int) -> None:
    """The mean is rounded half up. A viewer has watched at least 1 s."""
    video = uuid()
    for seconds in watched:
        ok(await api.post("/progress/update", json=update(uuid(), video, seconds)))
    answer = ok(await api.get(f"/progress/summary/{video}"))
    assert answer == {"videoId": video, "averageWatchedDuration": average, "completionRate": 0.0}
    assert isinstance(answer["averageWatchedDuration"], int)


async def test_completion_rate_is_the_share_of_viewers_who_completed(api: httpx.AsyncClient) -> None:
    """By the catalogue's duration and the threshold of 0.9, inclusive. A deleted record does not count."""
    video, users = uuid(), [uuid() for _ in range(4)]
    ok(await api.put(f"/videos/{video}", json={"title": "A hundred seconds", "duration": 100}))
    for user, seconds in zip(users, (89, 90, 100, 500), strict=True):
        ok(await api.post("/progress/update", json=update(user, video, seconds)))
    ok(await api.post("/progress/update", json=update(uuid(), video, 0)))
    answer = ok(await api.get(f"/progress/summary/{video}"))
    assert answer == {"videoId": video, "averageWatchedDuration": 95, "completionRate": 0.75}  # (89+90+100+100)/4
    ok(await api.delete(f"/progress/{users[3]}/{video}"))
    ok(await api.delete(f"/progress/{users[2]}/{video}"))
    answer = ok(await api.get(f"/progress/summary/{video}"))
    assert answer == {"videoId": video, "averageWatchedDuration": 90, "completionRate": 0.5}  # 89.5, half up


# 7. GET /progress/engagement/{userId}


async def test_engagement_of_a_learner_without_records_is_zero(api: httpx.AsyncClient) -> None:
    user = uuid()
    expected = {"userId": user, "totalWatchedDuration": 0, "mostWatchedVideos": []}
    assert ok(await api.get(f"/progress/engagement/{user}")) == expected


async def test_engagement_sums_all_records_and_lists_the_ten_most_watched(api: httpx.AsyncClient) -> None:
    """Ordered by watchedDuration, then by the later lastWatched. The list has ten entries or `limit`."""
    user, videos = uuid(), [uuid() for _ in range(14)]
    seconds = [5, 50, 30, 30, 30, 9, 8, 7, 6, 4, 3, 2, 1, 0]
    days = [1, 1, 2, 9, 5, *[1] * 9]
    items = [
        item(video, watched, f"2024-01-{day:02}T00:00:00Z")
        for video, watched, day in zip(videos, seconds, days, strict=True)
    ]
    ok(await api.post("/progress/sync", json={"userId": user, "progressData": items}))
    order = [1, 3, 4, 2, 5, 6, 7, 8, 0, 9, 10, 11, 12]  # without the video that was opened but not watched
    ranked = [{"videoId": videos[n], "watchedDuration": seconds[n]} for n in order]
    for query, count in (("", 10), ("?limit=1", 1), ("?limit=3", 3), ("?limit=100", 13)):
        answer = ok(await api.get(f"/progress/engagement/{user}{query}"))
        assert answer == {"userId": user, "totalWatchedDuration": 185, "mostWatchedVideos": ranked[:count]}
    ok(await api.delete(f"/progress/{user}/{videos[1]}"))
    answer = ok(await api.get(f"/progress/engagement/{user}?limit=1"))
    assert answer == {"userId": user, "totalWatchedDuration": 135, "mostWatchedVideos": ranked[1:2]}


# 8. POST /progress/realtime


async def test_realtime_accepts_the_documented_body(api: httpx.AsyncClient) -> None:
    """It returns the merged record, as update does, and only once it is stored."""
    user, video = uuid(), uuid()
    assert ok(await api.post("/progress/realtime", json=update(user, video, 20))) == update(user, video, 20)
    assert ok(await api.get(f"/progress/{user}/{video}")) == update(user, video, 20)
    assert ok(await api.post("/progress/realtime", json=update(user, video, 5))) == update(user, video, 20)


async def test_realtime_waits_for_the_running_batch(store_server: StoreServer, prefix: str) -> None:
    """While the batch waits there is no response and nothing to read; its flush brings both."""
    user, video = uuid(), uuid()
    async with serving(redis_url=store_server.url, key_prefix=prefix, flush_interval_s=60.0) as slow, rest(slow) as one:
        waiting = asyncio.create_task(one.post("/progress/realtime", json=update(user, video, 20)))
        beacon = {"userId": user, "session": "s", "heartbeats": [{"seq": 4, "videoId": video, "watchedDuration": 9}]}
        envelope = asyncio.create_task(one.post("/progress/realtime", json=beacon))
        async with rest(slow) as other:
            for _ in range(20):
                refused(await other.get(f"/progress/{user}/{video}"), "not_found")
            assert not waiting.done()
            assert not envelope.done()
            # Deleting another record flushes the batch; nothing else does within the minute.
            refused(await other.delete(f"/progress/{user}/{uuid()}"), "not_found")
            assert ok(await waiting)["watchedDuration"] == 20
            assert ok(await envelope) == {"acks": [{"type": "ack", "session": "s", "seq": 4}]}
            assert ok(await other.get(f"/progress/{user}/{video}"))["watchedDuration"] == 20


@pytest.mark.parametrize("media_type", ["application/json", "text/plain", "text/plain;charset=UTF-8"])
async def test_realtime_accepts_an_envelope_of_heartbeats(
    server: Running, api: httpx.AsyncClient, media_type: str
) -> None:
    """The heartbeats are those of the WebSocket, as JSON in either media type.

    There is an ack for each session, and invalid heartbeats are rejected by seq.
    """
    user, video = uuid(), uuid()
    body = {
        "userId": user,
        "session": "tab",
        "heartbeats": [
            {"seq": 1, "videoId": video, "played": [[0, 10]], "position": 10, "state": "playing"},
            {"type": "heartbeat", "seq": 2, "videoId": video, "played": [[10, 20]], "position": 20, "duration": 90},
            {"seq": 3, "videoId": video, "position": -1},
            {"seq": 7, "videoId": video, "session": "outbox", "played": [[50, 60]], "age": 3_600_000},
            {"seq": 4, "videoId": video, "played": [[5, 4]]},
        ],
    }
    response = await api.post("/progress/realtime", content=json.dumps(body), headers={"content-type": media_type})
    acks = {ack["session"]: ack for ack in ok(response)["acks"]}
    assert set(acks) == {"tab", "outbox"}
    assert acks["outbox"] == {"type": "ack", "session": "outbox", "seq": 7}
    assert acks["tab"]["seq"] == 4
    assert [(r["seq"], r["code"]) for r in acks["tab"]["rejected"]] == [(3, "invalid"), (4, "invalid")]
    record = ok(await api.get(f"/progress/{user}/{video}?detail=full"))
    assert record["seen"] == [[0, 20], [50, 60]]
    assert (record["playedDuration"], record["position"], record["duration"]) == (30.0, 20.0, 90.0)
    assert record["lastWatched"] == iso(server.clock.wall)


async def test_an_envelope_reports_what_was_capped(api: httpx.AsyncClient) -> None:
    """A session cannot play five minutes in its first report; the excess is cut off and reported."""
    user, video = uuid(), uuid()
    body = {"userId": user, "session": "s", "heartbeats": [{"seq": 1, "videoId": video, "played": [[0, 300]]}]}
    assert ok(await api.post("/progress/realtime", json=body)) == {
        "acks": [{"type": "ack", "session": "s", "seq": 1, "capped": [1]}]
    }
    assert ok(await api.get(f"/progress/{user}/{video}"))["watchedDuration"] == 242  # 4 × 60 s + 2 s


async def test_a_heartbeat_sent_by_socket_and_by_beacon_counts_once(server: Running, api: httpx.AsyncClient) -> None:
    """An unload beacon repeats heartbeats that were not acked: the same session and seq are the same play."""
    user, video = uuid(), uuid()
    beats: list[dict[str, Any]] = [
        {"seq": n + 1, "videoId": video, "played": [[n * 5, n * 5 + 5]], "position": n * 5 + 5} for n in range(4)
    ]
    async with device(server, user, session="page") as player:
        for beat in beats[:2]:
            await player.beat(beat["videoId"], **{k: v for k, v in beat.items() if k != "videoId"})
        await player.acked(2)
    beacon = {"userId": user, "session": "page", "heartbeats": beats}
    for _ in range(2):
        assert ok(await api.post("/progress/realtime", json=beacon))["acks"][0]["seq"] == 4
    record = ok(await api.get(f"/progress/{user}/{video}?detail=full"))
    assert (record["seen"], record["again"], record["playedDuration"]) == ([[0, 20]], [], 20.0)


async def test_an_envelope_reaches_the_users_other_device(server: Running, api: httpx.AsyncClient) -> None:
    """A change that arrives by REST is pushed like one that arrives by WebSocket."""
    user, video = uuid(), uuid()
    async with device(server, user) as other:
        body = {"userId": user, "session": "s", "heartbeats": [{"seq": 1, "videoId": video, "played": [[0, 9]]}]}
        ok(await api.post("/progress/realtime", json=body))
        assert (await other.pushed(video))["seen"] == [[0, 9]]
        ok(await api.post("/progress/update", json=update(user, video, 50)))
        assert (await other.pushed(video))["watchedDuration"] == 50


async def test_an_envelope_after_a_delete_is_acked_with_its_rejections(server: Running, api: httpx.AsyncClient) -> None:
    """Plays before the deletion stay deleted. The player is notified, so that it drops them."""
    user, video = uuid(), uuid()
    ok(await api.post("/progress/update", json=update(user, video, 5)))
    ok(await api.delete(f"/progress/{user}/{video}"))
    server.clock.advance(10)
    heartbeats = [
        {"seq": 1, "videoId": video, "played": [[0, 9]], "age": 10_000},
        {"seq": 2, "videoId": video, "played": [[9, 14]], "age": 5_000},
    ]
    answer = ok(await api.post("/progress/realtime", json={"userId": user, "session": "s", "heartbeats": heartbeats}))
    assert [(r["seq"], r["code"]) for r in answer["acks"][0]["rejected"]] == [(1, "deleted")]
    assert ok(await api.get(f"/progress/{user}/{video}?detail=full"))["seen"] == [[9, 14]]


# Methods and paths


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/progress/update", {"POST"}),
        ("/progress/sync", {"POST"}),
        ("/progress/realtime", {"POST"}),
        (f"/progress/{U}", {"GET", "HEAD"}),
        (f"/progress/{U}/{V}", {"GET", "HEAD", "DELETE"}),
        (f"/progress/summary/{V}", {"GET", "HEAD"}),
        (f"/progress/engagement/{U}", {"GET", "HEAD"}),
        (f"/videos/{V}", {"GET", "HEAD", "PUT"}),
        (f"/analytics/videos/{V}", {"GET", "HEAD"}),
        ("/livez", {"GET", "HEAD"}),
        ("/readyz", {"GET", "HEAD"}),
        ("/", {"GET", "HEAD"}),
    ],
)
async def test_a_wrong_method_is_405_with_the_allowed_ones(
    api: httpx.AsyncClient, path: str, allowed: set[str]
) -> None:
    """RFC 9110, 15.5.6: Allow lists every method of the path."""
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} - allowed:
        response = await api.request(method, path, json={})
        refused(response, "method")
        assert set(response.headers["allow"].split(", ")) == allowed


@pytest.mark.parametrize(
    "path",
    [
        "/nope",
        "/progress",
        "/progress/",
        "/progress/update/",
        "/progress/update/more",
        "/progress/summary",
        "/progress/summary/",
        "/progress/engagement",
        f"/progress/{U}/",
        f"/progress/{U}/{V}/",
        f"/progress/{U}/{V}/more",
        f"/progress/summary/{V}/more",
        f"/progress/{U}%2F{V}/more",
        "//progress/update",
        "/videos",
        "/analytics",
        "/PROGRESS/UPDATE",
        "/..%2f..%2fetc/passwd",
    ],
)
async def test_an_unknown_path_is_404(api: httpx.AsyncClient, path: str) -> None:
    """With any method. A path with a trailing slash is another path, and is not redirected."""
    for method in ("GET", "POST", "DELETE"):
        refused(await api.request(method, path), "not_found")


async def test_head_returns_the_headers_of_get(api: httpx.AsyncClient) -> None:
    user, video = uuid(), uuid()
    ok(await api.post("/progress/update", json=update(user, video, 5)))
    response = await api.head(f"/progress/{user}/{video}")
    assert (response.status_code, response.content) == (200, b"")
