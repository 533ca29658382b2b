"""Health checks while a real store is stopped, killed and restarted under a server with open sockets."""

import asyncio
import contextlib
import json
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import redis.asyncio
from websockets.asyncio.client import connect

from tests.device import PATIENCE_S, Device, device
from tests.missing import program
from tests.replicated import replicated
from tests.rest import ok, refused, rest
from tests.serving import Running, serving


class PrivateRedis:
    """A redis-server for one test, which keeps its data when it is killed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{directory / 'redis.sock'}"

    def start(self) -> None:
        options = {"port": 0, "unixsocket": "redis.sock", "save": "", "appendonly": "yes", "appendfsync": "always"}
        arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        self._process = subprocess.Popen(
            [program("redis-server"), *arguments], cwd=self._directory, stdout=subprocess.DEVNULL
        )

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(PATIENCE_S)

    def stop(self) -> None:
        """Pause the process: it accepts connections but does not answer."""
        self.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.signal(signal.SIGCONT)


BREAKS: dict[str, tuple[Callable[[PrivateRedis], None], Callable[[PrivateRedis], None]]] = {
    "killed and started again": (PrivateRedis.kill, PrivateRedis.start),
    "stopped and continued": (PrivateRedis.stop, PrivateRedis.go_on),
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PrivateRedis]:
    private = PrivateRedis(tmp_path)
    private.start()
    yield private
    with contextlib.suppress(ProcessLookupError):
        private.kill()


@contextlib.asynccontextmanager
async def served(store: PrivateRedis) -> AsyncIterator[tuple[Running, httpx.AsyncClient]]:
    """A server on the store, started once the store answers, and a client."""
    async with redis.asyncio.Redis.from_url(store.url) as client, asyncio.timeout(PATIENCE_S):
        while True:
            with contextlib.suppress(redis.exceptions.ConnectionError):
                await client.ping()
                break
            await asyncio.sleep(0.01)
    async with serving(redis_url=store.url, store_timeout_s=0.3, flush_interval_s=0.02) as server, rest(server) as api:
        yield server, api


async def readiness(api: httpx.AsyncClient, status: int) -> dict[str, Any]:
    """Wait until `/readyz` has this status, and return its body."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            response = await api.get("/readyz")
            assert response.status_code in (200, 503)
            assert response.headers["content-type"] == "application/json"
            if response.status_code == status:
                body: dict[str, Any] = response.json()
                return body
            await asyncio.sleep(0.01)


async def test_a_healthy_server_is_alive_and_ready(store: PrivateRedis) -> None:
    async with served(store) as (_, api):
        assert ok(await api.get("/livez")) == {"status": "alive"}
        assert ok(await api.get("/readyz"))["status"] == "ready"


@pytest.mark.parametrize("how", BREAKS)
async def test_an_outage_of_the_store_is_reported_and_loses_no_heartbeat(store: PrivateRedis, how: str) -> None:
    """The process is alive but not ready, sockets stay open, and nothing is acked that is not stored.

    When the store is back, all heartbeats are stored and acked in order, without a reconnect.
    """
    fail, recover = BREAKS[how]
    user, video, other = str(uuid4()), str(uuid4()), str(uuid4())
    async with served(store) as (server, api), device(server, user) as player:
        await player.play(video, 0, 5)
        fail(store)
        for n in range(1, 21):
            server.clock.advance(5)
            await player.beat(video, played=[[5 * n, 5 * n + 5]], position=5 * n + 5, state="playing")
        await player.beat(other, played=[[0, 7]], position=7, state="playing")
        assert (await readiness(api, 503))["status"].startswith("the store does not")
        assert ok(await api.get("/livez")) == {"status": "alive"}
        response = await api.get(f"/progress/{user}/{video}")
        refused(response, "unavailable")
        assert int(response.headers["retry-after"]) > 0
        refused(await api.get(f"/progress/summary/{video}"), "unavailable")
        refused(await api.put(f"/videos/{video}", json={"title": "Sets", "duration": 90}), "unavailable")
        body = {"userId": user, "videoId": video, "watchedDuration": 300, "lastWatched": "2024-05-01T10:00:00Z"}
        waiting = asyncio.create_task(api.post("/progress/update", json=body))
        await player.send(type="ping")
        await player.until("pong")
        assert player.inbox == [], "nothing is acked while nothing is stored"
        assert not waiting.done()

        recover(store)
        ack = await player.acked()
        assert (ack["seq"], ack["rejected"]) == (22, [])
        assert ok(await waiting)["watchedDuration"] == 300
        assert (await readiness(api, 200))["status"] == "ready"
        record = ok(await api.get(f"/progress/{user}/{video}?detail=full"))
        assert (record["seen"], record["again"], record["playedDuration"]) == ([[0, 105]], [], 105.0)
        assert ok(await api.get(f"/progress/{user}/{other}"))["watchedDuration"] == 7
        analytics = ok(await api.get(f"/analytics/videos/{video}"))
        assert (analytics["viewers"], analytics["retention"]) == (1, [1] * 105)


async def test_a_store_that_refuses_writes_is_reported(store: PrivateRedis) -> None:
    """The store is full: reads are served, heartbeats wait, and `/readyz` answers 503."""
    user, video = str(uuid4()), str(uuid4())
    async with (
        served(store) as (server, api),
        device(server, user) as player,
        redis.asyncio.Redis.from_url(store.url) as admin,
    ):
        await player.play(video, 0, 5)
        await admin.config_set("maxmemory", 1)
        server.clock.advance(5)
        await player.beat(video, played=[[5, 10]], position=10, state="playing")
        assert (await readiness(api, 503))["status"] == "the store does not accept records"
        assert ok(await api.get(f"/progress/{user}/{video}"))["watchedDuration"] == 5
        assert player.inbox == [], "nothing is acked while nothing is stored"
        await admin.config_set("maxmemory", 0)
        assert (await player.acked())["seq"] == 2
        assert (await readiness(api, 200))["status"] == "ready"


@pytest.mark.parametrize("how", BREAKS)
async def test_a_device_that_connects_during_an_outage_is_asked_to_retry(store: PrivateRedis, how: str) -> None:
    """The goodbye has a retry delay and a code that means "retry". After the outage the device is welcome."""
    fail, recover = BREAKS[how]
    user, video = str(uuid4()), str(uuid4())
    hello = {"type": "hello", "device": "test", "session": "s", "userId": user}
    async with served(store) as (server, api):
        fail(store)
        await readiness(api, 503)
        async with connect(server.ws) as socket:
            await socket.send(json.dumps(hello))
            goodbye = json.loads(await socket.recv())
            assert (goodbye["type"], goodbye["code"]) == ("goodbye", "unavailable")
            assert goodbye["retryAfter"] > 0
            await socket.wait_closed()
            assert socket.close_code == 4001
        recover(store)
        async with asyncio.timeout(PATIENCE_S):
            while True:  # retry, as a player does, until the hub has its subscriptions again
                async with connect(server.ws) as socket:
                    await socket.send(json.dumps(hello))
                    if json.loads(await socket.recv())["type"] == "welcome":
                        break
        async with device(server, user) as player:
            assert (await player.play(video, 0, 5))["rejected"] == []


# Replicas


async def held_back(api: httpx.AsyncClient, player: Device) -> None:
    """Nothing is acked, no client is disconnected, and `/readyz` says why."""
    assert re.search(r"nothing is acked: .*\b0 of 1 replicas", (await readiness(api, 503))["status"])
    await player.send(type="ping")
    await player.until("pong")
    assert "ack" not in {message["type"] for message in player.inbox}


@pytest.mark.parametrize("kind", ["valkey", "redis7"])
async def test_acks_wait_for_the_replica_and_readiness_says_why(kind: str, tmp_path: Path) -> None:
    """There is no replica at first, then one that is stopped and continued.

    Heartbeats are accepted throughout, and acked when the replica has them. If the store is too old to wait for disks,
    readiness reports what the level relies on instead.
    """
    user, video = str(uuid4()), str(uuid4())
    with replicated(kind, tmp_path) as nodes:
        settings: dict[str, Any] = {"redis_url": nodes.url, "durability": "replicas:1", "store_timeout_s": 0.5}
        async with serving(**settings) as server, rest(server) as api, device(server, user) as player:
            await player.beat(video, played=[[0, 5]], position=5, state="playing")
            await held_back(api, player)
            nodes.follow()
            assert (await player.acked())["rejected"] == []
            ready = await readiness(api, 200)
            if kind == "valkey":
                assert "notes" not in ready
            else:
                (note,) = ready["notes"]
                assert note.endswith("too old for WAITAOF")
                assert "memory of replicas" in note
            nodes.stop_replica()
            server.clock.advance(5)
            await player.beat(video, played=[[5, 10]], position=10, state="playing")
            await held_back(api, player)
            nodes.continue_replica()
            assert (await player.acked())["seq"] == 2
            await readiness(api, 200)
            assert ok(await api.get(f"/progress/{user}/{video}?detail=full"))["seen"] == [[0, 10]]
