"""Limits on connections and rates: whoever exceeds one gets an error and a retry delay, and nobody else is affected."""

import asyncio
import json
import resource
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from typing import Any
from uuid import uuid4

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from playhead.server.clock import system_clock
from tests.conftest import StoreServer
from tests.device import JSON, PATIENCE_S, device
from tests.rest import ok, refused, rest
from tests.serving import Running, serving

V = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
DEVICES = 2_000


async def goodbye(socket: ClientConnection) -> tuple[dict[str, Any], int | None]:
    """Return the goodbye that ends a connection, and the close code."""
    messages: list[dict[str, Any]] = []
    async with asyncio.timeout(PATIENCE_S):
        try:
            while True:
                messages.append(json.loads(await socket.recv()))
        except ConnectionClosed:
            assert messages[-1]["type"] == "goodbye", messages
            return messages[-1], socket.close_code


def hello(user_id: str) -> str:
    return json.dumps({"type": "hello", "device": "test", "session": uuid4().hex, "userId": user_id})


async def send(socket: ClientConnection, text: str) -> None:
    """Send text. The server may have closed already, with messages still to be read."""
    with suppress(ConnectionClosed):
        await socket.send(text)


def connected(server: Running, **headers: str) -> connect:
    return connect(server.ws, subprotocols=[Subprotocol(JSON)], additional_headers=headers)


@pytest.mark.parametrize(
    ("setting", "problem", "code", "own_user"),
    [
        ("max_connections", "busy", 4001, False),
        ("max_connections_per_address", "rate", 4003, False),
        ("max_connections_per_user", "rate", 4003, True),
    ],
)
async def test_a_connection_beyond_a_limit_is_refused_until_another_leaves(
    store_server: StoreServer, prefix: str, setting: str, problem: str, code: int, own_user: bool
) -> None:
    """The goodbye has a retry delay. Health checks, REST, connected devices and other users are not affected."""
    user = str(uuid4())
    store: dict[str, Any] = {"redis_url": store_server.url, "key_prefix": prefix}
    async with (
        serving(**store | {setting: 2}) as server,
        rest(server) as api,
        device(server, user) as first,
    ):
        leaving = AsyncExitStack()
        await leaving.enter_async_context(device(server, user))
        async with connected(server) as third:
            await send(third, hello(user))
            message, closed = await goodbye(third)
            assert (message["code"], closed) == (problem, code)
            assert message["retryAfter"] > 0
        assert (await api.get("/livez")).status_code == (await api.get("/readyz")).status_code == 200
        ok(await api.get(f"/progress/{user}"))
        assert (await first.play(V, 0, 1))["rejected"] == []
        if own_user:
            async with device(server, str(uuid4())) as other:
                assert (await other.play(V, 0, 1))["rejected"] == []
        await leaving.aclose()
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    async with device(server, user) as late:
                        assert (await late.play(V, 1, 2))["rejected"] == []
                        break
                except (AssertionError, ConnectionClosed):
                    await asyncio.sleep(0.02)


PROXY = "127.0.0.1"


@pytest.mark.parametrize(
    ("trusted", "forwarded", "same"),
    [
        ((), ("203.0.113.1", "203.0.113.2"), True),
        ((PROXY,), ("203.0.113.1", "203.0.113.2"), False),
        ((PROXY,), ("203.0.113.1", "203.0.113.1"), True),
        ((PROXY,), ("198.51.100.7, 203.0.113.1", "192.0.2.9, 203.0.113.1"), True),
        ((PROXY, "10.0.0.0/8"), ("203.0.113.1, 10.0.0.5", "203.0.113.2, 10.0.0.5"), False),
        ((PROXY,), ("2001:db8::1", "2001:db8::2"), True),
        ((PROXY,), ("2001:db8::1", "2001:db8:0:1::1"), False),
    ],
    ids=[
        "no-proxy-is-trusted",
        "a-proxy-is-trusted",
        "one-client-behind-a-proxy",
        "entries-of-the-client-are-ignored",
        "a-chain-of-proxies",
        "one-ipv6-network",
        "two-ipv6-networks",
    ],
)
async def test_which_address_counts(
    store_server: StoreServer, prefix: str, trusted: tuple[str, ...], forwarded: tuple[str, str], same: bool
) -> None:
    """X-Forwarded-For counts only from a trusted proxy, by its last entry that is not itself a proxy."""
    store: dict[str, Any] = {"redis_url": store_server.url, "key_prefix": prefix}
    async with (
        serving(**store, max_connections_per_address=1, trusted_proxies=trusted) as server,
        AsyncExitStack() as stack,
    ):
        answers = []
        for address in forwarded:
            socket = await stack.enter_async_context(connected(server, **{"X-Forwarded-For": address}))
            await send(socket, hello(str(uuid4())))
            answers.append(json.loads(await socket.recv())["type"])
        assert answers == ["welcome", "goodbye" if same else "welcome"]


async def test_frames_beyond_the_rate_close_only_that_connection(store_server: StoreServer, prefix: str) -> None:
    """4003 with a retry delay; reports accepted before are stored."""
    store: dict[str, Any] = {"redis_url": store_server.url, "key_prefix": prefix}
    user = str(uuid4())
    async with (
        serving(**store, frames_burst=50) as server,
        rest(server) as api,
        device(server, str(uuid4())) as bystander,
    ):
        async with device(server, user) as eager:
            for _ in range(49):
                await eager.beat(V, played=[[0, 1]], position=1, state="playing")
            for _ in range(5):
                await eager.send(type="ping")
            message, code = await goodbye(eager.socket)
            assert (message["code"], code) == ("rate", 4003)
            assert message["retryAfter"] > 0
        assert (await bystander.play(V, 0, 1))["rejected"] == []
        async with asyncio.timeout(PATIENCE_S):
            while (await api.get(f"/progress/{user}/{V}")).status_code != 200:  # noqa: ASYNC110 no event tells
                await asyncio.sleep(0.02)


async def test_more_videos_than_one_flush_may_have(store_server: StoreServer, prefix: str) -> None:
    """One connection cannot fill the batch with any number of records."""
    store: dict[str, Any] = {"redis_url": store_server.url, "key_prefix": prefix}
    async with (
        serving(**store, max_pending_videos=3, flush_interval_s=30) as server,
        device(server, str(uuid4())) as eager,
    ):
        for _ in range(4):
            await eager.beat(str(uuid4()), played=[[0, 1]], position=1, state="playing")
        message, code = await goodbye(eager.socket)
        assert (message["code"], code) == ("rate", 4003)


async def test_requests_beyond_the_rate_are_429(store_server: StoreServer, prefix: str) -> None:
    """They have a retry delay. Writing or reading many records costs more; health checks are never refused."""
    user = str(uuid4())
    videos = [
        {"videoId": str(uuid4()), "watchedDuration": 1, "lastWatched": "2024-05-01T10:00:00Z"} for _ in range(1_000)
    ]
    store: dict[str, Any] = {"redis_url": store_server.url, "key_prefix": prefix}
    async with serving(**store, address_requests_burst=30) as server, rest(server) as api:
        ok(await api.post("/progress/sync", json={"userId": user, "progressData": videos}))
        one = f"/progress/{user}/{videos[0]['videoId']}"
        codes = [(await api.get(one)).status_code for _ in range(6)]
        assert codes == [200] * 6, "of 30 the sync used 1 + 1,000/50, and its answer a little more than 1,000/500"
        answer = await api.get(one)
        refused(answer, "rate")
        assert int(answer.headers["retry-after"]) >= 1
        for _ in range(50):
            assert (await api.get("/livez")).status_code == (await api.get("/readyz")).status_code == 200
        server.clock.advance(1)
        ok(await api.get(f"/progress/{user}"))


@pytest.fixture
def many_files() -> Iterator[None]:
    """Allow enough open files for the sockets of both sides."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], min(before[1], 4 * DEVICES + 500)), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_a_reconnect_storm_of_two_thousand_devices_is_paced(
    store_server: StoreServer, prefix: str, many_files: None
) -> None:
    """All send hello at once, as after a restart. Each refused one is given a slot, in which it is accepted.

    Health checks return 200 throughout, and a learner who was connected before is not affected.
    """
    store: dict[str, Any] = {"redis_url": store_server.url, "key_prefix": prefix}
    handshakes = asyncio.Semaphore(100)
    together = asyncio.Barrier(DEVICES)
    refusals: list[float] = []

    async def member(server: Running) -> int:
        """Return how often it was refused before it was welcomed."""
        user = str(uuid4())
        for attempt in range(20):
            async with AsyncExitStack() as stack:
                async with handshakes:
                    socket = await stack.enter_async_context(connected(server))
                if attempt == 0:
                    await together.wait()
                await socket.send(hello(user))
                message = json.loads(await socket.recv())
            if message["type"] == "welcome":
                return attempt
            assert (message["type"], message["code"]) == ("goodbye", "busy")
            refusals.append(message["retryAfter"])
            await asyncio.sleep(message["retryAfter"])
        raise AssertionError("never let in")

    async with (
        serving(
            system_clock,
            **store,
            hellos_per_s=500,
            hellos_burst=100,
            max_connections_per_address=DEVICES + 1,
            hello_timeout_s=60,  # wait until the last handshake is done
        ) as server,
        rest(server) as api,
        device(server, str(uuid4())) as bystander,
    ):
        storm = asyncio.gather(*(member(server) for _ in range(DEVICES)))
        checks = 0
        while not storm.done():
            assert (await api.get("/livez")).status_code == (await api.get("/readyz")).status_code == 200
            assert (await bystander.play(V, checks % 600, checks % 600 + 1))["rejected"] == []
            checks += 1
        attempts = await storm
        assert checks > 2
        assert len(refusals) >= 100, "enough of them connected at once"
        assert len(set(refusals)) > 100, "the slots differ"
        assert min(refusals) >= 1
        assert sum(attempts) <= 1.1 * DEVICES, "a slot admits its owner, except the few that connect far too late"
