"""Reading the records of a learner with thousands of videos: every way returns all of them, in bounded parts."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from playhead.protocol.messages import PAGE
from playhead.protocol.record import Report
from playhead.server.rest.record_pages import WHOLE_BYTES
from playhead.storage.read.changes import Changes
from playhead.storage.store import Store, StoreUnavailable, open_store
from playhead.storage.write.pending import Batch, Delta
from tests.conftest import StoreServer
from tests.device import JSON, Device, device
from tests.rest import iso, ok, rest
from tests.security.attacker import head
from tests.serving import START_MS, Running, serving
from tests.storage.conftest import PATIENCE_S

pytestmark = pytest.mark.asyncio(loop_scope="module")

MANY = 1_500
USER = str(uuid4())
FULL_USER = str(uuid4())
"""So many that the response in full detail is larger than what is built before the first byte."""


def video(n: int) -> str:
    return f"7c9e6679-7425-40de-944b-{n:012d}"


def at(n: int) -> int:
    return START_MS - 10_000_000 + n * 7_919 % 10_007


def comb(n: int) -> list[int]:
    return [second for k in range(n) for second in (2 * k, 2 * k + 1)]


async def fill(store: Store, user: str, count: int, seen: list[int]) -> None:
    """Store a number of records of a learner, each last watched at another instant."""
    for start in range(0, count, 300):
        batch = Batch()
        for n in range(start, min(count, start + 300)):
            report = Report(at(n), at(n), "page", 1, 1, seen, [], 5_000, 5_000, at(n), False, 1 + n % 977)
            batch.deltas[user, video(n)] = Delta([report])
        await store.commit(batch, START_MS, lambda user_id: False)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(store_server: StoreServer) -> AsyncIterator[Running]:
    prefix = f"t{uuid4().hex}"
    store = open_store(store_server.url, worker="filling", key_prefix=prefix)
    await fill(store, USER, MANY, [])
    await fill(store, FULL_USER, MANY, comb(150))
    await store.close()
    async with serving(redis_url=store_server.url, key_prefix=prefix) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(server: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with rest(server) as client:
        yield client


NEWEST_FIRST = sorted(range(MANY), key=lambda n: (-at(n), video(n)))


async def test_the_documented_response_is_identical_to_the_byte(api: httpx.AsyncClient) -> None:
    """It is one JSON document with a Content-Length, newest record first."""
    items = [{"videoId": video(n), "watchedDuration": 1 + n % 977, "lastWatched": iso(at(n))} for n in NEWEST_FIRST]
    response = await api.get(f"/progress/{USER}")
    assert response.content == json.dumps({"userId": USER, "progressData": items}, separators=(",", ":")).encode()
    assert response.headers["content-length"] == str(len(response.content))
    assert (response.headers["content-type"], response.headers["cache-control"]) == ("application/json", "no-store")


async def test_a_long_response_is_chunked_and_complete(api: httpx.AsyncClient) -> None:
    """In full detail: every record, as GET of that record returns it, and the revision for `since`."""
    response = await api.get(f"/progress/{FULL_USER}?detail=full")
    assert len(response.content) > WHOLE_BYTES
    assert response.headers["transfer-encoding"] == "chunked"
    body = ok(response)
    assert list(body) == ["userId", "progressData", "rev", "epoch"]
    assert [record["videoId"] for record in body["progressData"]] == [video(n) for n in NEWEST_FIRST]
    assert body["rev"] == MANY
    one = ok(await api.get(f"/progress/{FULL_USER}/{video(3)}?detail=full"))
    assert body["progressData"][NEWEST_FIRST.index(3)] | {"userId": FULL_USER} == one


async def test_http_1_0_is_answered_without_chunks(server: Running) -> None:
    """HTTP/1.0 has no chunked encoding (RFC 9112, 7.1)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head("GET", f"/progress/{FULL_USER}?detail=full").replace(b"HTTP/1.1", b"HTTP/1.0"))
    async with asyncio.timeout(PATIENCE_S):
        lines, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert b"transfer-encoding" not in lines.lower()
    assert len(json.loads(body)["progressData"]) == MANY


async def test_head_of_a_long_response_has_no_body(api: httpx.AsyncClient) -> None:
    for user in (USER, FULL_USER):
        response = await api.head(f"/progress/{user}?detail=full")
        assert (response.status_code, response.content) == (200, b"")


async def test_since_returns_all_newer_records_however_many(api: httpx.AsyncClient) -> None:
    for since in (0, MANY // 2, MANY - 1, MANY):
        body = ok(await api.get(f"/progress/{USER}?since={since}"))
        assert sorted(record["rev"] for record in body["progressData"]) == list(range(since + 1, MANY + 1))


async def test_engagement_covers_all_records(api: httpx.AsyncClient) -> None:
    watched = {video(n): 1 + n % 977 for n in range(MANY)}
    most = sorted(range(MANY), key=lambda n: (-(1 + n % 977), -at(n), video(n)))[:7]
    body = ok(await api.get(f"/progress/engagement/{USER}?limit=7"))
    assert body["totalWatchedDuration"] == sum(watched.values())
    assert [each["videoId"] for each in body["mostWatchedVideos"]] == [video(n) for n in most]


async def test_a_sync_returns_all_records_and_the_outcome_of_each_item(api: httpx.AsyncClient) -> None:
    items = [{"videoId": video(n), "watchedDuration": 1, "lastWatched": iso(at(n) - 5_000)} for n in range(250, 0, -1)]
    body = ok(await api.post("/progress/sync?detail=full", json={"userId": USER, "progressData": items}))
    assert [(each["index"], each["videoId"]) for each in body["outcomes"]] == [
        (index, video(250 - index)) for index in range(250)
    ]
    assert {each["outcome"] for each in body["outcomes"]} == {"stored"}
    assert len(body["progressData"]) == MANY


async def test_hello_and_sync_send_all_records_in_frames_with_their_revisions(server: Running) -> None:
    """Records arrive by rising revision, and no frame covers a revision that a later one brings.

    So a device that is cut off can ask for the rest.
    """
    async with connect(server.ws, subprotocols=[Subprotocol(JSON)]) as socket:
        player = Device(socket, FULL_USER, uuid4().hex, JSON)
        for frames in (await player.hello(), await synced(player)):
            pages = [frame for frame in frames if frame["type"] == "progress"]
            assert len(pages) > 2
            assert all(len(page["records"]) <= PAGE for page in pages)
            revisions: set[int] = set()
            for page in pages:
                revisions |= {record["rev"] for record in page["records"]}
                assert set(range(1, page["rev"] + 1)) <= revisions
            assert revisions == set(range(1, MANY + 1))
            assert frames[-1] == {"type": "synced", "rev": MANY}


async def synced(player: Device) -> list[dict[str, Any]]:
    await player.send(type="sync", since=0)
    seen = [await player.receive()]
    while seen[-1]["type"] != "synced":
        seen.append(await player.receive())
    return seen


async def test_plays_during_a_read_are_not_lost(server: Running, api: httpx.AsyncClient) -> None:
    """The revision in the response is one from which `since` returns everything that the response does not show."""
    user = str(uuid4())
    store = open_store(str(server.settings.redis_url), worker="filling", key_prefix=server.settings.key_prefix)
    await fill(store, user, MANY, [0, 5])
    await store.close()
    async with device(server, user) as player:
        reading = asyncio.create_task(api.get(f"/progress/{user}?detail=full"))
        for n in range(20):
            await player.play(video(n * 70), 100 + n, 101 + n)
        body = ok(await reading)
    shown = {record["videoId"]: record for record in body["progressData"]}
    assert len(shown) == MANY
    later = ok(await api.get(f"/progress/{user}?since={body['rev']}&epoch={body['epoch']}"))
    shown |= {record["videoId"]: record for record in later["progressData"]}
    assert shown == {r["videoId"]: r for r in ok(await api.get(f"/progress/{user}?detail=full"))["progressData"]}


async def test_a_response_whose_rest_cannot_be_read_is_cut_off(
    store_server: StoreServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its status is already sent, so the client must notice that the body is incomplete. Nothing is logged."""
    fetched = 0

    async def away(self: Changes, videos: Any) -> Any:
        nonlocal fetched
        fetched += 1
        if fetched > 40:
            raise StoreUnavailable("away")
        return await fetch(self, videos)

    prefix = f"t{uuid4().hex}"
    store = open_store(store_server.url, worker="filling", key_prefix=prefix)
    await fill(store, FULL_USER, MANY, comb(600))
    await store.close()
    fetch = Changes._decode
    monkeypatch.setattr(Changes, "_decode", away)
    async with serving(redis_url=store_server.url, key_prefix=prefix) as server, rest(server) as api:
        with pytest.raises(httpx.RemoteProtocolError):
            await api.get(f"/progress/{FULL_USER}?detail=full")
    assert fetched > 40
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
