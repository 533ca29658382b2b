"""Neither a caller nor a crowd of strangers locks others out, by repeated hellos or by silent connections."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from websockets.asyncio.client import ClientConnection

from playhead.server.limits.rates import LONGEST_WAIT_S
from playhead.server.transport import config as transport
from tests.conftest import StoreServer
from tests.device import JSON, PATIENCE_S, Device, device
from tests.nginx import nginx
from tests.rest import ok, rest
from tests.security.attacker import Attacker, frame, head, upgrade
from tests.security.callers import bearer, guarded, learner, next_message, say_hello, socket
from tests.security.issuer import token
from tests.serving import Running, serving

V = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
QUOTA = 5
"""The limit on newcomers, scaled down."""
CROWD = 40
PROXY = "127.0.0.1"
SCHOOL, ELSEWHERE = "203.0.113.1", "198.51.100.7"


@asynccontextmanager
async def open_or_guarded(store: StoreServer, prefix: str, auth: bool, **settings: Any) -> AsyncIterator[Running]:
    """A server whose clock stands still, with or without tokens."""
    async with AsyncExitStack() as stack:
        if auth:
            yield await stack.enter_async_context(guarded(store, prefix, **settings))
        else:
            yield await stack.enter_async_context(serving(redis_url=store.url, key_prefix=prefix, **settings))


async def hello(server: Running, user_id: str, auth: bool) -> dict[str, Any]:
    """The response to the hello of a connection, which is then closed."""
    async with socket(server) as opened:
        return await say_hello(opened, token(user_id) if auth else None, userId=user_id)


@pytest.mark.parametrize("auth", [True, False], ids=["tokens", "no-tokens"])
async def test_a_learner_who_repeats_hello_does_not_delay_others(
    store_server: StoreServer, prefix: str, auth: bool
) -> None:
    """They are asked to wait for a bounded time. Learners at the same address say hello and are welcome."""
    eager = str(uuid4())
    few: dict[str, Any] = {"hellos_per_s": 0.1, "hellos_burst": 20, "user_hellos_per_s": 0.1, "user_hellos_burst": 5}
    async with open_or_guarded(store_server, prefix, auth, **few) as server:
        answers = [await hello(server, eager, auth) for _ in range(60)]
        assert [answer["type"] for answer in answers[:5]] == ["welcome"] * 5
        assert {(answer["type"], answer["code"]) for answer in answers[5:]} == {("goodbye", "rate")}
        assert all(0 < answer["retryAfter"] <= LONGEST_WAIT_S for answer in answers[5:])
        for _ in range(10):
            assert (await hello(server, str(uuid4()), auth))["type"] == "welcome"


async def test_a_learner_over_the_connection_limit_takes_no_slot(store_server: StoreServer, prefix: str) -> None:
    eager = str(uuid4())
    few: dict[str, Any] = {"hellos_per_s": 0.1, "hellos_burst": 20, "max_connections_per_user": 1}
    async with serving(redis_url=store_server.url, key_prefix=prefix, **few) as server, device(server, eager):
        for _ in range(50):
            assert (await hello(server, eager, False))["code"] == "rate"
        for _ in range(10):
            assert (await hello(server, str(uuid4()), False))["type"] == "welcome"


async def test_a_waiting_client_keeps_its_slot_and_is_then_admitted(store_server: StoreServer, prefix: str) -> None:
    """Arriving early costs others nothing. Arriving in time is enough, whoever else has arrived since."""
    few: dict[str, Any] = {"hellos_per_s": 0.5, "hellos_burst": 1, "user_hellos_burst": 1_000}
    patient, eager, late = (str(uuid4()) for _ in range(3))
    async with serving(redis_url=store_server.url, key_prefix=prefix, **few) as server:
        assert (await hello(server, str(uuid4()), False))["type"] == "welcome"
        (first_wait_s,) = {(await hello(server, eager, False))["retryAfter"] for _ in range(30)}
        wait_s = (await hello(server, patient, False))["retryAfter"]
        assert wait_s == pytest.approx(first_wait_s + 2), "the next slot after one, not after thirty"
        server.clock.advance(wait_s)
        assert (await hello(server, str(uuid4()), False))["type"] == "welcome"
        assert (await hello(server, late, False))["code"] == "busy"
        assert (await hello(server, patient, False))["type"] == "welcome"


# Silent connections


async def gone(opened: ClientConnection) -> dict[str, Any]:
    """The goodbye of a connection that had to give way."""
    said = await next_message(opened)
    async with asyncio.timeout(PATIENCE_S):
        await opened.wait_closed()
    assert (said["type"], said["code"], opened.close_code) == ("goodbye", "busy", 4001)
    assert 0 < said["retryAfter"] <= LONGEST_WAIT_S
    return said


@pytest.mark.parametrize("trusted", [(), (PROXY,)], ids=["direct", "behind-a-proxy"])
@pytest.mark.parametrize("quota", ["max_newcomers", "max_newcomers_per_address"])
async def test_silent_sockets_of_strangers_lock_out_no_learner(
    store_server: StoreServer, prefix: str, quota: str, trusted: tuple[str, ...]
) -> None:
    """The oldest are closed, the newest stay.

    Learners at the same address can connect, and stay connected when strangers arrive.
    """
    users = [str(uuid4()) for _ in range(3 * QUOTA)]
    settings = {quota: QUOTA, "hello_timeout_s": 120, "trusted_proxies": trusted}
    at: dict[str, Any] = {"X-Forwarded-For": SCHOOL} if trusted else {}
    async with guarded(store_server, prefix, **settings) as server, AsyncExitStack() as stack:
        strangers = [await stack.enter_async_context(socket(server, **at)) for _ in range(CROWD)]
        players = []
        for user in users:
            opened = await stack.enter_async_context(socket(server, **at))
            player = Device(opened, user, uuid4().hex, JSON)
            await player.hello(token=token(user))
            players.append(player)
        for stranger in strangers[: CROWD - QUOTA]:
            await gone(stranger)
        more = [await stack.enter_async_context(socket(server, **at)) for _ in range(QUOTA)]
        for stranger in strangers[CROWD - QUOTA :]:
            await gone(stranger)
        for player in players:
            assert (await player.play(V, 0, 1))["rejected"] == []
        for opened in more:
            await (await opened.ping())


@pytest.mark.parametrize("store_server", ["valkey"], indirect=True)
async def test_silent_sockets_behind_nginx_lock_out_no_learner(
    store_server: StoreServer, prefix: str, tmp_path: Path
) -> None:
    """All connections come from nginx, and all from one address."""
    settings = {"max_newcomers_per_address": QUOTA, "hello_timeout_s": 120, "trusted_proxies": (PROXY,)}
    async with (
        guarded(store_server, prefix, **settings) as server,
        nginx(tmp_path, server.port) as port,
        AsyncExitStack() as stack,
    ):
        proxied, users = Running(port, server.settings), [str(uuid4()) for _ in range(2 * QUOTA)]
        strangers = [await stack.enter_async_context(socket(proxied)) for _ in range(CROWD)]
        players = [await stack.enter_async_context(learner(proxied, token(user), user)) for user in users]
        for stranger in strangers[: CROWD - QUOTA]:
            await gone(stranger)
        for player in players:
            assert (await player.play(V, 0, 1))["rejected"] == []


async def test_strangers_at_one_address_do_not_affect_another(store_server: StoreServer, prefix: str) -> None:
    settings = {"max_newcomers_per_address": QUOTA, "hello_timeout_s": 120, "trusted_proxies": (PROXY,)}
    school: dict[str, Any] = {"X-Forwarded-For": SCHOOL}
    elsewhere: dict[str, Any] = {"X-Forwarded-For": ELSEWHERE}
    async with guarded(store_server, prefix, **settings) as server, AsyncExitStack() as stack:
        quiet = await stack.enter_async_context(socket(server, **elsewhere))
        for _ in range(CROWD):
            await stack.enter_async_context(socket(server, **school))
        user = str(uuid4())
        player = Device(quiet, user, uuid4().hex, JSON)
        await player.hello(token=token(user))


async def test_a_refused_hello_does_not_authenticate_a_connection(store_server: StoreServer, prefix: str) -> None:
    """Only a valid hello removes a socket from the newcomers' quota, so forged tokens take no place of a learner."""
    async with guarded(store_server, prefix, max_connections_per_address=1) as server:
        for _ in range(CROWD):
            async with socket(server) as opened:
                assert (await say_hello(opened, "made.up.token"))["code"] == "unauthorized"
        user = str(uuid4())
        async with learner(server, token(user), user) as player:
            assert (await player.play(V, 0, 1))["rejected"] == []


# The same for TCP connections


@pytest.fixture
def scarce(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that permits as many TCP connections of newcomers as WebSockets of newcomers, and two more."""
    monkeypatch.setattr(transport, "SPARE_CONNECTIONS", 2)


NOTHING_COMES: dict[str, tuple[bytes, ...]] = {
    "nothing": (),
    "half-a-head": (b"GET /livez HTTP/1.1\r\nHost: loc",),
    "an-idle-connection": (head("GET", "/livez"),),
    "half-a-body": (head("POST", "/progress/realtime", "Content-Type: text/plain", "Content-Length: 1000") + b"{",),
    "a-body-that-nobody-reads": (
        head("POST", "/progress/sync", "Content-Type: application/json", "Content-Length: 1000000") + b"{",
    ),
    "no-hello": (upgrade(),),
    "a-refused-hello": (upgrade(), frame(0x1, b'{"type":"hello","device":"d","session":"s","token":"made.up.token"}')),
}


@pytest.mark.parametrize("sent", NOTHING_COMES.values(), ids=NOTHING_COMES)
async def test_silent_connections_lock_out_no_learner(
    store_server: StoreServer, prefix: str, scarce: None, sent: tuple[bytes, ...]
) -> None:
    """The oldest are closed. A learner's socket and requests go on, and new ones are accepted."""
    user = str(uuid4())
    patient: dict[str, Any] = dict.fromkeys(("head_timeout_s", "body_timeout_s", "hello_timeout_s"), 100)
    async with (
        guarded(store_server, prefix, max_newcomers=QUOTA, **patient) as server,
        learner(server, token(user), user) as player,
        rest(server) as api,
    ):
        ok(await api.get(f"/progress/{user}", headers=bearer(token(user))))
        crowd = []
        for _ in range(CROWD):
            attacker = await Attacker.connect(server.port)
            for data in sent:
                await attacker.send(data)
                await asyncio.sleep(0)
            crowd.append(attacker)
        for attacker in crowd[: CROWD - QUOTA - 2]:
            await attacker.closed()
        assert (await player.play(V, 0, 1))["rejected"] == []
        ok(await api.get(f"/progress/{user}", headers=bearer(token(user))))
        async with learner(server, token(other := str(uuid4())), other) as late:
            assert (await late.play(V, 0, 1))["rejected"] == []
        for attacker in crowd:
            attacker.close()


async def test_a_request_with_a_valid_token_is_answered_despite_many_strangers(
    store_server: StoreServer, prefix: str, scarce: None
) -> None:
    """Its connection does not count as a newcomer while the body arrives and the store is awaited, but does again
    afterwards."""
    user = str(uuid4())
    body = json.dumps({"userId": user, "progressData": []}).encode()
    lines = (
        f"Authorization: Bearer {token(user)}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Expect: 100-continue",
    )
    async with guarded(store_server, prefix, max_newcomers_per_address=QUOTA, head_timeout_s=100) as server:
        uploading = await Attacker.connect(server.port)
        await uploading.send(head("POST", "/progress/sync", *lines) + body[:1])
        await uploading.until(b"100 Continue")  # now the connection is authenticated
        crowd = [await Attacker.connect(server.port) for _ in range(CROWD)]
        await crowd[0].closed()
        await uploading.send(body[1:])
        answer = await uploading.until(b"progressData")
        assert b"HTTP/1.1 200" in answer
        crowd += [await Attacker.connect(server.port) for _ in range(CROWD)]
        assert await uploading.closed() == answer
        for attacker in (uploading, *crowd):
            attacker.close()
