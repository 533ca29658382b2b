"""Servers that are killed, stores that are unavailable, WebSockets that are blocked: nothing is lost or doubled."""

import asyncio
import os
import signal
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from redis.asyncio import Redis

from playhead.server.clock import system_clock
from playhead.storage.embedded.valkey import EmbeddedValkey
from playhead.storage.keys import Keys
from tests.client.line import PATIENCE_S, Line, client, line, until
from tests.client.test_playhead import stored
from tests.conftest import StoreServer
from tests.ports import free_port
from tests.server.program import serve
from tests.serving import Running, serving


async def test_the_server_is_killed_and_restarted_while_watching(tmp_path: Path) -> None:
    """After two kill -9, the record has exactly the reported seconds, each as often as it was played."""
    user, video, port = str(uuid4()), str(uuid4()), free_port()
    stop = asyncio.Event()
    watched: list[tuple[int, int]] = []

    async def watch() -> None:
        """Report stretches of 5 s as fast as possible, every tenth of them twice, dated as in real time."""
        while not stop.is_set() or len(watched) < 60:
            start = 5 * (len(watched) - len(watched) // 10)
            age_s = max(0.0, 5.0 * (2_000 - len(watched)))
            watched.append((start, start + 5))
            p.report(video, [(start, start + 5)], start + 5, age_s=age_s)
            await asyncio.sleep(0.002 if len(watched) < 1_500 else 0.02)

    with EmbeddedValkey(tmp_path, fsync=False) as valkey:
        options = ("--redis-url", valkey.url, "--flush-interval-s", "0.02")
        async with client(f"http://127.0.0.1:{port}", user, close_timeout_s=PATIENCE_S) as p:
            playing = asyncio.create_task(watch())
            for _ in range(2):
                async with serve(port, *options) as program:
                    before = len(watched)
                    await until(lambda before=before: p.state == "online" and len(watched) > before + 20)
                    await program.stop(signal.SIGKILL)
                    await until(lambda: p.state != "online")
            async with serve(port, *options) as program:
                stop.set()
                await playing
                async with asyncio.timeout(PATIENCE_S):
                    await p.flush()
                assert not p.rejected
                record = await stored(program.running, user, video)
    end = max(end for _, end in watched)
    twice = [list(play) for index, play in enumerate(watched) if watched.index(play) != index]
    assert record == {"seen": [[0, end]], "again": twice, "playedDuration": 5.0 * len(watched), "position": float(end)}


async def test_the_store_is_unavailable_for_a_while(tmp_path: Path) -> None:
    """`watch` waits until the store has the report, and the report counts once."""
    user, video = str(uuid4()), str(uuid4())
    with EmbeddedValkey(tmp_path, fsync=False) as valkey:
        async with serving(system_clock, redis_url=valkey.url, store_timeout_s=0.2) as server:
            async with client(server.http, user) as p:
                await p.watch(video, [(0, 5)], 5)
                os.kill(valkey.pid, signal.SIGSTOP)
                try:
                    watching = asyncio.create_task(p.watch(video, [(5, 10)], 10))
                    done, _ = await asyncio.wait({watching}, timeout=0.6)
                    assert not done
                    assert p.pending
                finally:
                    os.kill(valkey.pid, signal.SIGCONT)
                async with asyncio.timeout(PATIENCE_S):
                    await watching
                    await p.watch(video, [(10, 15)], 15)
            record = await stored(server, user, video)
    assert record == {"seen": [[0, 15]], "again": [], "playedDuration": 15.0, "position": 15.0}


async def test_a_connection_that_breaks_again_and_again(server: Running, wire: Line) -> None:
    """The connection is cut at many moments, and acks with it; nothing is lost or doubled."""
    user, video = str(uuid4()), str(uuid4())
    async with client(wire.http, user, transports=("ws",), close_timeout_s=PATIENCE_S) as p:
        for index in range(40):
            p.report(video, [(5 * index, 5 * index + 5)], 5 * index + 5, age_s=5 * (40 - index))
            if index % 8 == 3:
                await until(lambda: p.state == "online")
                await asyncio.sleep(0.01 * (index % 5))
                wire.cut()
                wire.up = True
            await asyncio.sleep(0.005)
        await p.flush()
    assert await stored(server, user, video) == {
        "seen": [[0, 200]],
        "again": [],
        "playedDuration": 200.0,
        "position": 200.0,
    }


async def test_without_websockets_the_client_uses_http_and_returns_when_it_can(server: Running, wire: Line) -> None:
    """If the upgrade is refused, reports are stored by POST and changes polled; when the WebSocket works again, it
    is used. The session stays the same, and nothing is doubled."""
    user, video, other = (str(uuid4()) for _ in range(3))
    wire.websockets = False
    async with client(wire.http, user) as p, client(server.http, user) as tv:
        await p.watch(video, [(0, 5)], 5)
        assert p.state == "http"
        changes = p.changes()
        await tv.watch(other, [(0, 7)], 7)
        async with asyncio.timeout(PATIENCE_S):
            while (heard := await anext(changes)).video_id != other:
                pass
        assert heard.seen == [(0, 7)]
        await p.watch(video, [(5, 10)], 10)
        await p.refresh()
        assert p.record(video).seen == [(0, 10)]  # type: ignore[union-attr]
        wire.websockets = True
        await until(lambda: p.state == "online")
        requests = wire.requests
        await p.watch(video, [(10, 15)], 15)
        assert wire.requests == requests
    record = await stored(server, user, video)
    assert record == {"seen": [[0, 15]], "again": [], "playedDuration": 15.0, "position": 15.0}


@pytest.mark.parametrize("websockets", [True, False])
async def test_records_that_the_store_has_lost_are_forgotten(server: Running, wire: Line, websockets: bool) -> None:
    """A process that committed to a store notices when it goes back in time. Without such a process, the client sees an
    older revision with the same epoch."""
    user, video, other = (str(uuid4()) for _ in range(3))
    wire.websockets = websockets
    key = Keys(server.settings.key_prefix).progress(user)
    async with Redis.from_url(str(server.settings.redis_url)) as redis, client(wire.http, user) as p:
        await p.watch(video, [(0, 5)], 5)
        older = await redis.dump(key)
        await p.watch(video, [(5, 10)], 10)
        await p.watch(other, [(0, 5)], 5)
        await p.refresh()
        assert p.record(video).seen == [(0, 10)]  # type: ignore[union-attr]
        wire.cut()
        assert older is not None
        await redis.restore(key, 0, older, replace=True)
        wire.up = True
        await p.refresh()
        assert p.record(video).seen == [(0, 5)]  # type: ignore[union-attr]
        assert p.record(other) is None
        async with client(server.http, user) as tv:
            await tv.watch(video, [(20, 25)], 25)
        await p.refresh()
        assert p.record(video).seen == [(0, 5), (20, 25)]  # type: ignore[union-attr]


async def test_successful_requests_are_not_counted_as_retries(server: Running, wire: Line) -> None:
    """HTTP polls in rounds; only failed rounds are counted."""
    async with client(wire.http, str(uuid4()), transports=("http",)) as p:
        await until(lambda: wire.requests > 20)
        assert p.retries == 0
        wire.cut()
        await until(lambda: p.retries > 2)
        wire.up = True
        await until(lambda: p.state == "http")
        counted, requests = p.retries, wire.requests
        await until(lambda: wire.requests > requests + 20)
        assert p.retries == counted


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"])
async def test_each_retried_request_is_counted(answer: bytes) -> None:
    asked = 0

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await reader.readuntil(b"\r\n\r\n")
        asked += 1
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as listener:
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        async with client(url, str(uuid4()), transports=("http",)) as p:
            await until(lambda: asked > 4)
            assert p.retries in (asked - 1, asked)


async def test_the_client_slows_down_for_a_server_with_low_limits(store_server: StoreServer, prefix: str) -> None:
    """After 4003 with a time to reconnect, the client sends more slowly, until everything is stored."""
    user = str(uuid4())
    limits = {"frames_burst": 40, "frames_per_s": 50}
    settings = {"clock": system_clock, "redis_url": store_server.url, "key_prefix": prefix, **limits}
    async with (
        serving(**settings) as server,  # type: ignore[arg-type]
        line(server.port) as wire,
        client(wire.http, user, transports=("ws",)) as p,
    ):
        for number in range(60):
            p.report(UUID(int=number), [(0, 5)], 5, span_s=60)
        async with asyncio.timeout(PATIENCE_S):
            await p.flush()
        assert wire.upgrades > 1
        assert len(await p.rest.get_all()) == 60
