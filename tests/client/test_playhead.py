"""The client on a real server: it stores reports, receives changes of other devices, and closes cleanly."""

import asyncio
import time
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from playhead.client import NotStored, OutboxFull, Rejected
from tests.client.line import PATIENCE_S, Line, client, until
from tests.rest import iso, ok, rest
from tests.serving import Running

NOWHERE = "http://127.0.0.1:1"
"""An address without a server."""
CODECS = pytest.mark.parametrize("codec", ["json", "msgpack"])


async def stored(server: Running, user: str, video: str) -> dict[str, Any]:
    """The relevant fields of the record, over plain REST."""
    async with rest(server) as http:
        record = ok(await http.get(f"/progress/{user}/{video}?detail=full"))
    return {name: record[name] for name in ("seen", "again", "playedDuration", "position")}


@CODECS
async def test_a_report_is_stored_when_watch_returns(server: Running, codec: str) -> None:
    """With both subprotocols; the client's record equals that of REST, in seconds and ms since 1970."""
    user, video = str(uuid4()), uuid4()
    async with client(server.http, user, codec=codec) as p:
        receipt = await p.watch(video, played=[(0, 5)], position=5, duration=100)
        assert not receipt.capped
        await p.watch(video, played=[(3, 5), (50, 60)], position=60, seek=True)
        assert await stored(server, user, str(video)) == {
            "seen": [[0, 5], [50, 60]],
            "again": [[3, 5]],
            "playedDuration": 17.0,
            "position": 60.0,
        }
        assert p.state == "online"
        assert p.pending == ()
        await p.refresh()
        record = p.record(video)
        assert record is not None
        assert (record.seen, record.again) == ([(0, 5), (50, 60)], [(3, 5)])
        assert (record.position, record.resume, record.duration, record.watched_duration) == (60, 60, 100, 15)
        assert record.last_watched is not None
        assert abs(record.last_watched - time.time() * 1_000) < PATIENCE_S * 1_000
        assert p.record(uuid4()) is None


@CODECS
async def test_two_clients_of_one_user_see_each_others_changes(server: Running, codec: str) -> None:
    """Each receives the changes of the other, deletions included, and none of its own."""
    user, one, other = str(uuid4()), str(uuid4()), str(uuid4())
    async with client(server.http, user, codec=codec) as laptop, client(server.ws, user, codec=codec) as tv:
        await asyncio.gather(laptop.refresh(), tv.refresh())
        on_laptop, on_tv = laptop.changes(), tv.changes()
        async with asyncio.timeout(PATIENCE_S):
            await laptop.watch(one, played=[(0, 5)], position=5)
            heard = await anext(on_tv)
            assert (heard.video_id, heard.seen, heard.position) == (one, [(0, 5)], 5)
            await tv.watch(other, played=[(0, 7)], position=7)
            heard = await anext(on_laptop)  # not its own first
            assert (heard.video_id, heard.seen) == (other, [(0, 7)])
            await tv.rest.delete(one)
            while (heard := await anext(on_laptop)).video_id != one:
                pass
            assert heard.deleted_at is not None
            assert heard.position is None
            assert laptop.record(one) is None
            assert laptop.record(other) is not None


async def test_a_refresh_includes_own_reports_that_a_push_of_another_device_skipped(server: Running) -> None:
    """Own reports are not pushed back, and the push of a later change by another device must not hide them for good."""
    user, one, other = str(uuid4()), str(uuid4()), str(uuid4())
    async with client(server.http, user) as laptop, client(server.http, user) as tv:
        await asyncio.gather(laptop.refresh(), tv.refresh())
        heard = laptop.changes()
        async with asyncio.timeout(PATIENCE_S):
            await laptop.watch(one, played=[(0, 5)], position=5)
            await tv.watch(other, played=[(0, 7)], position=7)
            assert (await anext(heard)).video_id == other
            await laptop.refresh()
        record = laptop.record(one)
        assert record is not None
        assert record.seen == [(0, 5)]


async def test_changes_during_a_lost_connection_arrive_after_it(server: Running, wire: Line) -> None:
    """All changes after the known revision arrive, each video once, however often it changed."""
    user, old, new = (str(uuid4()) for _ in range(3))
    async with client(server.http, user) as tv, client(wire.http, user, transports=("ws",)) as laptop:
        await tv.watch(old, played=[(0, 5)], position=5)
        await laptop.refresh()
        changes = laptop.changes()
        wire.cut()
        await until(lambda: laptop.state != "online")
        for start in (0, 5, 10):
            await tv.watch(new, played=[(start, start + 5)], position=start + 5)
        wire.up = True
        async with asyncio.timeout(PATIENCE_S):
            heard = await anext(changes)
        assert (heard.video_id, heard.seen) == (new, [(0, 15)])
        await laptop.refresh()
        assert not changes._waiting
        assert laptop.record(old) is not None


async def test_a_thousand_reports_offline_become_a_few_heartbeats(server: Running, wire: Line) -> None:
    """More than an hour without a connection gives a few entries, and every second as often as it was played."""
    user, video = str(uuid4()), str(uuid4())
    wire.cut()
    async with client(wire.http, user, close_timeout_s=PATIENCE_S) as p:
        for index in range(1_000):
            start = 5 * (index % 990)  # the last ten are played twice
            p.report(video, [(start, start + 5)], start + 5, age_s=5.0 * (999 - index), seek=index == 990)
        assert len(p.pending) == 1
        wire.up = True
        async with asyncio.timeout(PATIENCE_S):
            await p.flush()
        assert not p.rejected
    assert await stored(server, user, video) == {
        "seen": [[0, 4950]],
        "again": [[0, 50]],
        "playedDuration": 5000.0,
        "position": 50.0,
    }


async def test_a_report_that_will_never_be_stored(server: Running) -> None:
    """`watch` raises Rejected with the code; `rejected` lists a `report` without a waiter. Others are stored."""
    user, video = str(uuid4()), str(uuid4())
    async with client(server.http, user) as p:
        await p.watch(video, played=[(0, 9)], position=9)
        await p.rest.delete(video)
        with pytest.raises(Rejected) as refusal:
            await p.watch(video, played=[(200, 210)], position=210, age_s=60)
        assert (refusal.value.code, refusal.value.video_id) == ("deleted", video)
        p.report(video, played=[(300, 310)], age_s=60)
        await p.flush()
        assert [each.code for each in p.rejected] == ["deleted"]
        await p.watch(video, played=[(0, 5)], position=5)
    assert (await stored(server, user, video))["seen"] == [[0, 5]]


async def test_a_bad_report_is_refused_at_once() -> None:
    """It raises ValueError before anything is queued."""
    bad: list[dict[str, object]] = [
        {"video_id": "not a video"},
        {"played": [(5, 0)]},
        {"played": [(0, float("nan"))]},
        {"position": -1},
        {"state": "asleep"},
        {"age_s": -1},
        {"span_s": 200_000},
    ]
    async with client(NOWHERE, str(uuid4())) as p:
        for fields in bad:
            with pytest.raises(ValueError):  # noqa: PT011 whatever it says
                p.report(**{"video_id": uuid4(), **fields})  # type: ignore[arg-type]
        assert p.pending == ()


async def test_a_full_outbox_raises() -> None:
    """Nothing is dropped silently: reports that cannot be kept are refused."""
    async with client(NOWHERE, str(uuid4()), max_pending=2, close_timeout_s=0) as p:
        videos = [uuid4() for _ in range(3)]
        p.report(videos[0], [(0, 5)])
        p.report(videos[1], [(0, 5)])
        with pytest.raises(OutboxFull):
            p.report(videos[2], [(0, 5)])
        p.report(videos[0], [(5, 10)])
        assert [entry.beat.played for entry in p.pending] == [((0, 10),), ((0, 5),)]
        with pytest.raises(NotStored) as lost:
            await p.aclose()
        assert lost.value.count == 2


async def test_closing_stores_waiting_reports(server: Running) -> None:
    """The end of `async with` flushes."""
    user, video = str(uuid4()), str(uuid4())
    async with client(server.http, user) as p:
        p.report(video, [(0, 5)], 5)
    assert (await stored(server, user, video))["seen"] == [[0, 5]]
    with pytest.raises(NotStored):
        p.report(video, [(5, 10)], 10)


@pytest.mark.parametrize("kept", [True, False], ids=["with-a-file", "in-memory"])
async def test_closing_without_a_connection_is_bounded_and_loses_nothing_silently(tmp_path: Path, kept: bool) -> None:
    """It takes at most `close_timeout_s`. Lost reports are an error, also in a waiting `watch`; kept ones are not."""
    options = {"outbox_path": tmp_path / "outbox"} if kept else {}
    p = client(NOWHERE, str(uuid4()), close_timeout_s=0.05, **options)
    await p.__aenter__()
    watching = asyncio.create_task(p.watch(uuid4(), [(0, 5)], 5))
    await until(lambda: p.pending)
    if kept:
        await p.aclose()
    else:
        with pytest.raises(NotStored):
            await p.aclose()
    with pytest.raises(NotStored):
        await watching
    assert len(p.pending) == 1
    await p.aclose()  # twice is once


async def test_a_cancelled_watch_stays_queued_and_a_cancelled_client_ends(
    server: Running, wire: Line, tmp_path: Path
) -> None:
    """A cancelled wait does not withdraw the report; a cancelled block ends, and the file keeps what was not stored."""
    user, video = str(uuid4()), str(uuid4())
    wire.cut()
    inside = asyncio.Event()

    async def block() -> None:
        async with client(wire.http, user, close_timeout_s=0.05, outbox_path=tmp_path / "outbox") as p:
            waiting = asyncio.create_task(p.watch(video, [(0, 5)], 5))
            await until(lambda: p.pending)
            waiting.cancel()
            await asyncio.wait({waiting})
            inside.set()
            await p.watch(video, [(5, 10)], 10)

    task = asyncio.create_task(block())
    await inside.wait()
    task.cancel()
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.wait({task})
    assert task.cancelled()
    async with client(server.http, user, outbox_path=tmp_path / "outbox") as p:
        await p.flush()
    assert (await stored(server, user, video))["seen"] == [[0, 10]]


async def test_a_report_is_dated_when_it_happened(server: Running) -> None:
    """With `age_s`, a report from an hour ago is dated so, whatever the machine's clock shows."""
    user, video = str(uuid4()), str(uuid4())
    async with client(server.http, user) as p:
        await p.watch(video, [(0, 5)], 5, age_s=3_600)
        record = await p.rest.get(video)
    assert record.last_watched is not None
    assert abs(time.time() * 1_000 - 3_600_000 - record.last_watched) < PATIENCE_S * 1_000, iso(record.last_watched)


async def test_pacing_stays_below_the_servers_limits(server: Running, wire: Line) -> None:
    """More heartbeats than may be sent at once are sent over one connection, within its rate."""
    user = str(uuid4())
    began = time.monotonic()
    async with client(wire.http, user, close_timeout_s=PATIENCE_S) as p:
        for number in range(130):
            p.report(UUID(int=number), [(0, 5)], 5, span_s=60)
        await p.flush()
    assert wire.upgrades == 1
    assert 100 + 15 * (time.monotonic() - began) + 1 >= 130
    async with rest(server) as http:
        assert len(ok(await http.get(f"/progress/{user}"))["progressData"]) == 130
