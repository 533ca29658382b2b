"""A connection to the store that stays open but carries nothing, as behind a firewall that has forgotten it:

`/readyz` names the silent lane, which is closed within the timeout and reconnected. Real servers, and a relay.
"""

import asyncio
import contextlib
import json
import re
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import redis.asyncio
from websockets.asyncio.client import connect

from playhead.storage.embedded.valkey import server_binary
from playhead.storage.keys import Keys
from tests.clustered import ClusterServers
from tests.device import device
from tests.faults.relay import Relay, relay
from tests.missing import program
from tests.ports import free_ports
from tests.rest import ok, rest, scraped
from tests.server.program import serve
from tests.serving import Running, serving

TIMEOUT_S = 0.5
"""The service's timeout for the store's answers."""
PATIENCE_S = 30.0
SUBSCRIBER, READER = b"SSUBSCRIBE", b"EVALSHA"
"""Commands by which the relay finds the connections of the two lanes."""
DIRECTIONS = {
    "both": {"asked": True, "answered": True},
    "towards the store": {"asked": True, "answered": False},
    "towards us": {"asked": False, "answered": True},
}
PLACES = ["valkey", "redis7", "valkey in RESP2", "redis7 in RESP2", "sentinel", "cluster"]


class Place:
    """A store, the relay for all connections of one server to it, and a way past the relay."""

    def __init__(self, url: str, past: str, between: Relay, servers: ClusterServers | None = None) -> None:
        self.url = url
        self.past = past
        self.between = between
        self.servers = servers

    def lane(self, name: str, user: str, prefix: str) -> str:
        """The name in `/readyz` of the lane with this learner's records."""
        if self.servers is None:
            return name
        primary = self.servers.primary_of(Keys(prefix).progress(user))
        for start, end, (_, port, *_), *_ in primary.ask("CLUSTER", "SLOTS"):
            if port == primary.announced:
                return f"{name} slots {start}-{end}"
        raise AssertionError("no primary has the slot")

    def neighbour(self, user: str, prefix: str) -> str:
        """Another learner whose records are at the same primary."""
        while self.lane("", found := str(uuid4()), prefix) != self.lane("", user, prefix):
            pass
        return found


@contextlib.contextmanager
def spawned(*words: str | Path) -> Any:
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait(PATIENCE_S)


async def until_it_answers(port: int) -> None:
    async with redis.asyncio.Redis(port=port) as client, asyncio.timeout(PATIENCE_S):
        while True:
            with contextlib.suppress(redis.exceptions.ConnectionError):
                await client.ping()
                return
            await asyncio.sleep(0.01)


@pytest.fixture
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    kind = request.param
    if kind == "cluster":
        servers = ClusterServers(tmp_path)
        try:
            async with relay(*(member.port for member in servers.members)) as between:
                await asyncio.to_thread(servers.form, between.ports)
                yield Place(servers.url, servers.url, between, servers)
        finally:
            servers.end()
        return
    binary = program("redis-server") if "redis7" in kind else server_binary()
    port, sentinel = free_ports(2)
    with spawned(binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", tmp_path, "--save", ""):
        await until_it_answers(port)
        async with relay(port) as between:
            past = f"redis://127.0.0.1:{port}"
            if kind == "sentinel":
                watch = tmp_path / "sentinel.conf"
                watch.write_text(
                    f"bind 127.0.0.1\nport {sentinel}\ndir {tmp_path}\n"
                    f"sentinel monitor progress 127.0.0.1 {between.port} 1\n"
                    "sentinel down-after-milliseconds progress 60000\n"
                )
                with spawned(binary, watch, "--sentinel"):
                    await until_it_answers(sentinel)
                    yield Place(f"redis+sentinel://127.0.0.1:{sentinel}/progress", past, between)
            else:
                protocol = "?protocol=2" if "RESP2" in kind else "?protocol=3"
                yield Place(f"redis://127.0.0.1:{between.port}{protocol}", past, between)


@contextlib.asynccontextmanager
async def served(place: Place, prefix: str) -> AsyncIterator[tuple[Running, Running, httpx.AsyncClient]]:
    """A server behind the relay and a client of it, and another server that bypasses the relay if possible."""
    chosen: dict[str, Any] = {"key_prefix": prefix, "store_timeout_s": TIMEOUT_S, "flush_interval_s": 0.02}
    async with (
        serving(redis_url=place.url, **chosen) as here,
        serving(redis_url=place.past, **chosen) as there,
        rest(here) as api,
    ):
        yield here, there, api


async def readiness(api: httpx.AsyncClient, holds: Callable[[int, dict[str, Any]], bool]) -> dict[str, Any]:
    """Wait until `/readyz` has this status, and return its body."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            response = await api.get("/readyz")
            body: dict[str, Any] = response.json()
            if holds(response.status_code, body):
                return body
            await asyncio.sleep(0.01)


async def greeted(server: Running, user: str) -> str:
    """The first message to a device that says hello."""
    async with connect(server.ws) as socket, asyncio.timeout(PATIENCE_S):
        await socket.send(json.dumps({"type": "hello", "device": "test", "session": uuid4().hex, "userId": user}))
        answer = json.loads(await socket.recv())
    return f"{answer['type']} {answer.get('code', '')}".strip()


@pytest.mark.parametrize("place", PLACES, indirect=True)
@pytest.mark.parametrize("directions", DIRECTIONS.values(), ids=DIRECTIONS)
async def test_a_silent_subscription_is_replaced_and_pushes_resume(
    place: Place, directions: dict[str, bool], prefix: str
) -> None:
    """The silenced connection is never repaired.

    A connected device stays, and receives what another process has stored in the meantime; a new device is welcome.
    """
    user, video = str(uuid4()), str(uuid4())
    async with served(place, prefix) as (here, there, api), device(here, user) as phone, device(there, user) as laptop:
        await laptop.play(video, 0, 5)
        assert (await phone.pushed(video))["seen"] == [[0, 5]]
        assert place.between.silence(SUBSCRIBER, **directions)
        await laptop.play(video, 5, 10)
        async with asyncio.timeout(PATIENCE_S):
            while phone.records[video]["seen"] != [[0, 10]]:
                await phone.until("progress")
        await readiness(api, lambda status, _: status == 200)
        assert await greeted(here, user) == "welcome"


@pytest.mark.parametrize("place", PLACES, indirect=True)
@pytest.mark.parametrize("directions", DIRECTIONS.values(), ids=DIRECTIONS)
async def test_readiness_names_the_silent_lane_while_learners_are_refused(
    place: Place, directions: dict[str, bool], prefix: str
) -> None:
    """Each new subscription falls silent too.

    Commands still work and are shown as working; 200 again when learners are accepted.
    """
    user = str(uuid4())
    async with served(place, prefix) as (here, _, api), device(here, user):
        lane, commands = (place.lane(name, user, prefix) for name in ("subscriptions", "commands"))
        ready = ok(await api.get("/readyz"))
        assert ready["status"] == "ready"
        assert ready["lanes"][lane] == ready["lanes"][commands] == "ready"
        place.between.silence(SUBSCRIBER, **directions, coming=True)
        body = await readiness(api, lambda status, body: status == 503 and body["lanes"][lane] != "ready")
        assert lane in body["status"]
        assert body["lanes"][commands] == "ready"
        assert "127.0.0.1" not in json.dumps(body)
        assert await greeted(here, place.neighbour(user, prefix)) == "goodbye unavailable"
        place.between.lighten()
        assert set((await readiness(api, lambda status, _: status == 200))["lanes"].values()) == {"ready"}
        assert await greeted(here, place.neighbour(user, prefix)) == "welcome"


@pytest.mark.parametrize("place", ["valkey", "sentinel", "cluster"], indirect=True)
async def test_readiness_names_the_silent_commands(place: Place, prefix: str) -> None:
    """Connections that carry scripts fall silent, whoever opens them; subscriptions continue."""
    user = str(uuid4())
    async with served(place, prefix) as (here, _, api), device(here, user) as phone:
        lane, subscriptions = (place.lane(name, user, prefix) for name in ("commands", "subscriptions"))
        place.between.silence(b"GET", coming=True)
        place.between.silence(READER, coming=True)
        place.between.silence(b"GET", coming=True)
        body = await readiness(api, lambda status, body: status == 503 and body.get("lanes", {}).get(lane) != "ready")
        assert body["lanes"][subscriptions] == "ready"
        place.between.lighten()
        assert (await readiness(api, lambda status, _: status == 200))["lanes"][lane] == "ready"
        await phone.play(str(uuid4()), 0, 5)


@pytest.mark.parametrize("place", ["valkey", "sentinel", "cluster"], indirect=True)
async def test_a_long_outage_is_logged_in_as_many_lines_as_a_short_one(
    place: Place, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """For each lane: when it was lost, and when it is back, after how long and how many failures."""
    video, counts = str(uuid4()), []
    chosen: dict[str, Any] = {
        "redis_url": place.url,
        "key_prefix": prefix,
        "store_timeout_s": TIMEOUT_S,
        "flush_interval_s": 0.02,
    }
    async with serving(**chosen) as server, rest(server) as api:
        for failures in (1, 5):
            caplog.clear()
            before = await scraped(api)
            async with device(server, str(uuid4())) as phone:
                place.between.darken()
                place.between.reset()
                await phone.beat(video, played=[[0, 5]], position=5, state="playing")
                async with asyncio.timeout(2 * PATIENCE_S):
                    while not _has_failed(failures, before, await scraped(api)):  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
            place.between.lighten()
            await readiness(api, lambda status, _: status == 200)
            ours = [each for each in caplog.records if each.name.partition(".")[0] in ("playhead", "redis")]
            counts.append(Counter(re.sub(r"(: \w+Error: | \(after ).*", "", each.getMessage()) for each in ours))
            assert set(counts[-1].values()) == {1}, caplog.messages
    assert counts[0] == counts[1], caplog.messages


def _has_failed(times: int, before: dict[str, float], now: dict[str, float]) -> bool:
    """Whether each retry loop has failed."""
    loops = [f"playhead_retries_total{{{loop}}}" for loop in ("channels", "commit-heartbeats")]
    return all(now[loop] - before[loop] >= times for loop in loops)


@pytest.mark.parametrize("workers", [1, 2])
async def test_no_outage_of_the_program_repeats_a_line(tmp_path: Path, workers: int) -> None:
    """From any logger and any worker: the store is killed and restarted, sooner and later, while players report and
    connect, and health is checked."""
    (port,) = free_ports(1)
    words = (program("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--dir", tmp_path, "--save", "")
    options = ("--redis-url", f"redis://127.0.0.1:{port}", "--workers", str(workers))
    settings = {"PLAYHEAD_FLUSH_INTERVAL_S": "0.05", "PLAYHEAD_STORE_TIMEOUT_S": str(TIMEOUT_S)}
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(contextlib.AsyncExitStack())
        store.enter_context(spawned(*words))
        await until_it_answers(port)
        running = await stack.enter_async_context(serve(free_ports(1)[0], *options, **settings))
        api = await stack.enter_async_context(rest(running.running))
        assert running.log is not None
        for seconds in (2, 8):
            said = len(running.log.text)
            devices = [await stack.enter_async_context(device(running.running, str(uuid4()))) for _ in range(8)]
            await store.aclose()
            for each in devices:
                await each.beat(str(uuid4()), played=[[0, 5]], position=5, state="playing")
            over = asyncio.get_running_loop().time() + seconds
            while asyncio.get_running_loop().time() < over:
                assert (await api.get("/readyz")).status_code == 503
                assert await greeted(running.running, str(uuid4())) == "goodbye unavailable"
            store.enter_context(spawned(*words))
            async with asyncio.timeout(PATIENCE_S):
                while not _is_over(lines := running.log.text[said:].splitlines()):  # noqa: ASYNC110 another process
                    await asyncio.sleep(0.05)
            said_times = Counter(
                re.sub(r"(: \w+Error: | \(after ).*", "", line.partition(",")[2][4:]) for line in lines
            )
            assert max(said_times.values()) <= workers, lines


def _is_over(lines: list[str]) -> bool:
    """Whether the log says that everything lost is back."""
    warnings = [line for line in lines if " WARNING " in line]
    back = [line for line in warnings if re.search(r"\(after .* failures?\)$", line)]
    return 2 * len(back) == len(warnings) > 0
