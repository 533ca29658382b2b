"""Delta sync: a device receives exactly what it lacks, whatever it knew and however late its own reports arrive."""

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from websockets.asyncio.client import connect

from playhead.protocol.messages import PAGE
from playhead.protocol.scalars import format_instant
from playhead.storage.read.changes import PAGE_RECORDS
from tests.device import JSON, Device, device
from tests.rest import ok, rest
from tests.serving import START_MS, Running

pytestmark = pytest.mark.stores("valkey", "redis7")
MANY = 3_000


@contextlib.asynccontextmanager
async def connected(server: Running, user: str) -> AsyncIterator[Device]:
    """A device that has not said hello."""
    async with connect(server.ws) as socket:
        yield Device(socket, user, uuid4().hex, JSON)


def progress(frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The progress frames of a greeting, which is welcome, progress frames, synced."""
    assert [frame["type"] for frame in (frames[0], frames[-1])] == ["welcome", "synced"]
    assert {frame["type"] for frame in frames[1:-1]} <= {"progress"}
    return frames[1:-1]


def by_video(frames: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {record["videoId"]: record for frame in frames for record in frame["records"]}


class History:
    """A learner of whom a device knew everything up to revision 3.

    After that `moved` went on, `gone` was deleted, `new` was begun, and only `same` stayed the same.
    """

    def __init__(self) -> None:
        self.user = str(uuid4())
        self.same, self.moved, self.gone, self.new = (str(uuid4()) for _ in range(4))
        self.epoch = ""
        self.rev = 6

    async def happen(self, server: Running, http: httpx.AsyncClient) -> None:
        async with device(server, self.user) as laptop:
            self.epoch = laptop.welcome["epoch"]
            for video in (self.same, self.moved, self.gone):
                await laptop.play(video, 0, 10)
            await laptop.play(self.moved, 10, 20)
            ok(await http.delete(f"/progress/{self.user}/{self.gone}"))
            await laptop.play(self.new, 0, 10)


@pytest.fixture
async def history(server: Running) -> History:
    history = History()
    async with rest(server) as http:
        await history.happen(server, http)
    return history


KNOWN = [
    ("nothing", {}, True, {"same", "moved", "gone", "new"}),
    ("zero", {"since": 0}, True, {"same", "moved", "gone", "new"}),
    ("some", {"since": 3}, True, {"moved", "gone", "new"}),
    ("some, no epoch", {"since": 3}, False, {"moved", "gone", "new"}),
    ("all but the last", {"since": 5}, True, {"new"}),
    ("all", {"since": 6}, True, set()),
    ("another epoch", {"since": 6, "epoch": "another"}, False, {"same", "moved", "gone", "new"}),
    ("the future", {"since": 7}, True, {"same", "moved", "gone", "new"}),
]


@pytest.mark.parametrize(
    ("known", "with_epoch", "names"), [row[1:] for row in KNOWN], ids=[row[0].replace(" ", "-") for row in KNOWN]
)
async def test_hello_returns_what_the_device_is_missing(
    server: Running, history: History, known: dict[str, Any], with_epoch: bool, names: set[str]
) -> None:
    """Exactly what changed after `since`, including deletions; everything if `since` belongs to another epoch or is in
    the future. REST returns the same."""
    if with_epoch:
        known = {**known, "epoch": history.epoch}
    async with connected(server, history.user) as phone, rest(server) as http:
        frames = await phone.hello(**known)
        pages = progress(frames)
        brought = by_video(pages)
        delta = ok(await http.get(f"/progress/{history.user}", params={"since": 0, **known}))
    assert set(brought) == {getattr(history, name) for name in names}
    assert (frames[0]["epoch"], frames[0]["rev"], frames[-1]["rev"]) == (history.epoch, history.rev, history.rev)
    assert [page["rev"] for page in pages] == [history.rev] * bool(names)
    assert {record["videoId"]: record for record in delta["progressData"]} == brought
    assert (delta["rev"], delta["epoch"]) == (history.rev, history.epoch)
    for name in names:
        record = brought[getattr(history, name)]
        assert set(record) == {"videoId", "deletedAt", "rev"} if name == "gone" else "seen" in record


@pytest.mark.parametrize(
    ("since", "names"),
    [(0, {"same", "moved", "gone", "new"}), (3, {"moved", "gone", "new"}), (6, set()), (99, {"same", "moved"})],
)
async def test_a_sync_message_returns_the_same_on_an_open_connection(
    server: Running, history: History, since: int, names: set[str]
) -> None:
    """At any time after the hello, as often as requested, by the same rule. Pushes continue."""
    async with device(server, history.user, since=6, epoch=history.epoch) as phone:
        for _ in range(2):
            phone.records.clear()
            await phone.send(type="sync", since=since)
            assert (await phone.until("synced"))["rev"] == history.rev
            assert set(phone.records) >= {getattr(history, name) for name in names}
            if since <= history.rev:
                assert set(phone.records) == {getattr(history, name) for name in names}
        phone.inbox.clear()
        async with device(server, history.user) as laptop:
            await laptop.play(history.same, 50, 60)
        assert (await phone.pushed(history.same))["seen"] == [[0, 10], [50, 60]]
        assert phone.inbox == []


async def post_many(server: Running, user: str, count: int) -> list[str]:
    """Post records of `count` videos, as a device that was used offline for years."""
    videos = [str(uuid4()) for _ in range(count)]
    at = format_instant(START_MS - 1_000)
    async with rest(server) as http:
        for start in range(0, count, 1_000):
            items = [{"videoId": v, "watchedDuration": 7, "lastWatched": at} for v in videos[start : start + 1_000]]
            ok(await http.post("/progress/sync", json={"userId": user, "progressData": items}))
    return videos


async def test_thousands_of_records_arrive_in_pages_that_can_be_resumed(server: Running) -> None:
    """At most 500 records in a frame, by rising revision.

    A device that is cut off after any page sends the `rev` of that page when it reconnects, and receives the rest once.
    """
    user = str(uuid4())
    videos = await post_many(server, user, MANY)
    async with connected(server, user) as phone:
        frames = await phone.hello()
    pages = progress(frames)
    assert [len(page["records"]) for page in pages] == [PAGE_RECORDS] * (MANY // PAGE_RECORDS)
    assert PAGE_RECORDS <= PAGE == 500
    revs = [record["rev"] for page in pages for record in page["records"]]
    assert revs == list(range(1, MANY + 1))
    assert [page["rev"] for page in pages] == [page["records"][-1]["rev"] for page in pages]
    assert frames[0]["rev"] == frames[-1]["rev"] == MANY
    assert set(by_video(pages)) == set(videos)
    async with connected(server, user) as back:
        rest_of_it = progress(await back.hello(since=pages[1]["rev"], epoch=frames[0]["epoch"]))
    assert rest_of_it == pages[2:]


@pytest.mark.parametrize("again", [False, True], ids=["hello", "sync"])
async def test_more_than_the_outgoing_queue_holds_still_arrives(server: Running, again: bool) -> None:
    """However many records a learner has, a device that reads receives them all; the bound is for slow readers."""
    user = str(uuid4())
    await post_many(server, user, 8_000)
    async with connected(server, user) as phone:
        frames = await phone.hello()
        assert sum(len(page["records"]) for page in progress(frames)) == 8_000
        if again:
            phone.records.clear()
            await phone.send(type="sync", since=0)
            await phone.until("synced")
            assert len(phone.records) == 8_000


async def test_records_of_many_intervals_arrive_in_smaller_pages(server: Running) -> None:
    """A page is also bounded by its size, because records of learners who seek a lot are much larger than others."""
    user = str(uuid4())
    plays = [[2 * i, 2 * i + 1] for i in range(512)]
    async with rest(server) as http:
        for _ in range(2):
            beats = [{"seq": seq, "videoId": str(uuid4()), "played": plays, "span": 1e8} for seq in range(1, 101)]
            body = {"userId": user, "session": uuid4().hex, "heartbeats": beats}
            ok(await http.post("/progress/realtime", json=body))
    async with connected(server, user) as phone:
        pages = progress(await phone.hello())
    assert all(len(json.dumps(page)) < server.settings.max_queue_bytes / 2 for page in pages)
    assert len(by_video(pages)) == sum(len(page["records"]) for page in pages) == 200
    assert all(record["seen"] == plays for record in by_video(pages).values())


def outbox(now: int) -> list[dict[str, Any]]:
    """The heartbeats of three evenings offline: each a session, days ago, in intervals of 5 s."""
    return [
        {
            "session": f"evening-{evening}",
            "seq": seq,
            "played": [[start + 5 * (seq - 1), start + 5 * seq]],
            "position": start + 5 * seq,
            "state": "playing",
            "age": now - (START_MS - (3 - evening) * 86_400_000 + 5_000 * seq),
            "duration": 3_600,
        }
        for evening, start in enumerate((0, 40, 300))
        for seq in range(1, 13)
    ]


MOVED_ON: list[dict[str, Any]] = [
    {"seq": 1, "played": [[50, 60]], "position": 60, "state": "playing", "age": 100_000, "duration": 3_600},
    {"seq": 2, "played": [[60, 90]], "position": 90, "state": "playing", "age": 70_000, "duration": 3_600},
    {"seq": 3, "played": [[1_000, 1_020]], "position": 1_020, "seek": True, "age": 20_000, "duration": 3_600},
]


@pytest.mark.parametrize("way", ["websocket", "rest"])
async def test_it_does_not_matter_which_device_connects_first(server: Running, way: str) -> None:
    """A device with an outbox of several old sessions, and one that moved on since: whichever connects first, or sends
    everything twice, the record is the same, and it is correct."""
    now = server.clock.wall
    early, late = outbox(now), MOVED_ON
    records = []
    for order in ((early, late), (late, early), (early, late, early), (late, early, late)):
        user, video = str(uuid4()), str(uuid4())
        async with rest(server) as http:
            for heartbeats in order:
                session = "outbox" if heartbeats is early else "laptop"
                if way == "rest":
                    numbered = [{"videoId": video, **beat} for beat in heartbeats]
                    body = {"userId": user, "session": session, "heartbeats": numbered}
                    acks = ok(await http.post("/progress/realtime", json=body))["acks"]
                else:
                    async with device(server, user, session) as player:
                        for beat in heartbeats:
                            await player.beat(video, **beat)
                        names = {beat.get("session", session): beat["seq"] for beat in heartbeats}
                        acks = [await player.acked(seq, name) for name, seq in names.items()]
                assert not any(ack.get("rejected") or ack.get("capped") for ack in acks)
            record = ok(await http.get(f"/progress/{user}/{video}?detail=full"))
        for own in ("userId", "videoId", "rev"):
            del record[own]
        records.append(record)
    assert records == [records[0]] * len(records)
    assert records[0]["seen"] == [[0, 100], [300, 360], [1_000, 1_020]]
    assert records[0]["again"] == [[40, 90]]
    assert records[0]["playedDuration"] == 3 * 60 + 60
    assert records[0]["position"] == 1_020
    assert records[0]["lastWatched"] == format_instant(now - 20_000)


async def test_heartbeats_may_follow_hello_without_waiting(server: Running) -> None:
    """A player that reconnects sends its outbox right behind the hello: everything is accepted and acked after the
    welcome."""
    user, video = str(uuid4()), str(uuid4())
    async with connected(server, user) as player, rest(server) as http:
        await player.send(type="hello", device="test", session=player.session, userId=user, since=0)
        for at in range(0, 50, 5):
            await player.beat(video, played=[[at, at + 5]], position=at + 5, age=(50 - at) * 1_000)
        kinds = [(await player.receive())["type"] for _ in range(2)]
        await player.acked(10)
        record = ok(await http.get(f"/progress/{user}/{video}?detail=full"))
    assert kinds == ["welcome", "synced"]
    assert (record["seen"], record["playedDuration"], record["position"]) == ([[0, 50]], 50, 50)
