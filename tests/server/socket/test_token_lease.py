"""How long a connection lasts: until its token expires, or until an operator ends the session."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis.asyncio as redis
from websockets.asyncio.client import ClientConnection

from playhead.protocol.scalars import parse_instant
from playhead.server.clock import system_clock
from playhead.storage.keys import Keys
from playhead.storage.values.damage import DamageLog
from playhead.storage.write.ended_sessions import EndedSessions
from tests.conftest import StoreServer
from tests.device import PATIENCE_S, Device
from tests.ports import free_port
from tests.rest import rest
from tests.security.callers import (
    OTHER,
    USER,
    VIDEO,
    bearer,
    by_hello,
    close_code,
    code_of,
    guarded,
    learner,
    next_message,
    say_hello,
    socket,
)
from tests.security.issuer import SECRET, token
from tests.server.commands.test_workers import workers
from tests.server.program import Program, serve
from tests.serving import Running, serving

SHORT_S = 1.5
"""Validity of a token whose expiry a test waits for."""


any_store = pytest.mark.parametrize("store_server", ["valkey"], indirect=True)
"""For tests that do not depend on the store."""


def expiring(sub: str = USER, within_s: float = SHORT_S, **more: Any) -> str:
    """Return a token that is valid for so long, to the fraction of a second."""
    return token(sub, exp=time.time() + within_s, **more)


def operator() -> str:
    return token("operations", scope="progress:any")


@pytest.fixture
async def server(store_server: StoreServer, prefix: str) -> AsyncIterator[Running]:
    """A server that notifies a second before a token expires, and applies no leeway."""
    async with guarded(store_server, prefix, jwt_leeway_s=0, token_notice_s=1) as running:
        yield running


async def refusal(opened: ClientConnection) -> tuple[str, int | None]:
    """Return the code of the next error or goodbye, and the close code."""
    while (message := await next_message(opened))["type"] not in ("error", "goodbye"):
        pass
    return message["code"], await close_code(opened)


@any_store
async def test_a_token_is_sent_in_hello_or_in_the_handshake(server: Running) -> None:
    """Pages send it in hello, programs in a header as for REST; both act for the token's subject."""
    assert await by_hello(server, token(USER)) == ("welcome", None)
    async with socket(server, token=token(USER), origin=False) as opened:
        assert (await say_hello(opened))["type"] == "welcome"
    async with socket(server, token=token(USER)) as opened:
        assert (await say_hello(opened, userId=USER.upper()))["type"] == "welcome"


@any_store
async def test_a_connection_without_a_token_is_refused(server: Running) -> None:
    """4500 after a hello without one; at once where the handshake has neither an Origin nor a token."""
    assert await by_hello(server, None) == ("unauthorized", 4500)
    assert await by_hello(server, None, userId=USER) == ("unauthorized", 4500)
    async with socket(server, origin=False) as opened:
        assert await refusal(opened) == ("unauthorized", 4500)
    async with socket(server, origin=False) as opened:
        assert (await say_hello(opened, token(USER)))["code"] == "unauthorized"
        assert await close_code(opened) == 4500
    async with socket(server, token=token(USER, key="another-secret-of-32-bytes-or-more")) as opened:
        assert (await say_hello(opened, token(USER)))["code"] == "unauthorized"
        assert await close_code(opened) == 4500


@any_store
async def test_a_token_in_hello_takes_precedence_over_the_handshake(server: Running) -> None:
    """Both have to be valid."""
    async with socket(server, token=token(USER)) as opened:
        assert (await say_hello(opened, token(OTHER), userId=USER))["code"] == "forbidden"
        assert await close_code(opened) == 4503
    async with socket(server, token=token(USER)) as opened:
        assert (await say_hello(opened, "not.a.token"))["code"] == "unauthorized"
        assert await close_code(opened) == 4500


@any_store
@pytest.mark.parametrize("name", ["token", "access_token", "ACCESS_TOKEN", "id_token", "jwt", "authorization"])
async def test_a_token_in_the_url_is_refused_even_with_a_valid_one(server: Running, name: str) -> None:
    """URLs end up in logs (RFC 6750, 5.3): 401 by REST, 4500 by WebSocket."""
    made = token(USER)
    for query in (f"?{name}={made}", f"?a=b&{name}={made}", f"?{name}"):
        async with rest(server) as api:
            assert code_of(await api.get(f"/progress/{USER}{query}", headers=bearer(made))) == "unauthorized"
        async with socket(server, path=query, token=made) as opened:
            assert await refusal(opened) == ("unauthorized", 4500)


@any_store
async def test_a_hello_names_another_learner_only_with_the_scope_for_it(server: Running) -> None:
    """Otherwise 4503. A hello with a token that identifies no learner has to name one."""
    assert await by_hello(server, token(USER), userId=OTHER) == ("forbidden", 4503)
    assert await by_hello(server, token(USER, scope="analytics"), userId=OTHER) == ("forbidden", 4503)
    assert await by_hello(server, token("a service"), userId=OTHER) == ("forbidden", 4503)
    assert await by_hello(server, token("a service", scope="progress:any")) == ("bad_frame", 4501)
    assert await by_hello(server, token("a service", scope="analytics progress:any"), userId=OTHER) == ("welcome", None)


@any_store
async def test_a_connection_without_a_hello_is_closed(store_server: StoreServer, prefix: str) -> None:
    """4008 after the deadline, with or without a valid token in the handshake."""
    async with guarded(store_server, prefix, hello_timeout_s=0.1) as server:
        for made in (None, token(USER)):
            async with socket(server, token=made) as opened:
                assert await refusal(opened) == ("no_hello", 4008)


@any_store
async def test_a_connection_closes_when_its_token_expires_and_its_reports_are_stored(server: Running) -> None:
    """First `expiring` with the remaining seconds, then an error and 4005. Nothing acked is lost."""
    async with learner(server, expiring()) as player:
        await player.play(VIDEO, 0, 10)
        notice = await player.until("expiring")
        assert 0 < notice["expiresIn"] <= 1
        await player.beat(VIDEO, played=[[10, 20]], position=20)
        assert (await player.until("error"))["code"] == "token_expired"
        assert await close_code(player.socket) == 4005
    async with learner(server, token(USER)) as player:
        assert player.records[VIDEO]["seen"] == [[0, 20]]


@any_store
async def test_a_new_token_extends_the_connection(server: Running) -> None:
    """`authorized` has the validity of the new token. The expiry of the first one has no effect."""
    async with learner(server, expiring()) as player:
        notice = await player.until("expiring")
        await player.send(type="auth", token=token(USER))
        authorized = await player.until("authorized")
        assert 3_000 < authorized["expiresIn"] <= 3_600
        assert notice["expiresIn"] <= 1
        async with learner(server, expiring(OTHER, notice["expiresIn"] + 0.5), OTHER) as clock:
            await clock.until("error")  # by now the first has expired too
        await player.play(VIDEO, 0, 10)
        assert [message["type"] for message in player.inbox] == []


@any_store
async def test_a_shorter_token_shortens_the_connection(server: Running) -> None:
    """The last token that was sent counts."""
    async with learner(server, token(USER)) as player:
        await player.send(type="auth", token=expiring())
        assert (await player.until("authorized"))["expiresIn"] <= SHORT_S
        await player.until("expiring")
        assert await refusal(player.socket) == ("token_expired", 4005)


@any_store
async def test_an_invalid_new_token_changes_nothing(server: Running) -> None:
    """It is reported as an error; the connection stays open until the current token expires."""
    async with learner(server, expiring()) as player:
        for bad in (token(USER, key="another-secret-of-32-bytes-or-more"), token(USER, aud="other"), "garbled"):
            await player.send(type="auth", token=bad)
            assert (await player.until("error"))["code"] == "unauthorized"
        await player.send(type="auth", token=token(USER, exp=1))
        assert (await player.until("error"))["code"] == "token_expired"
        await player.send(type="auth")
        assert (await player.until("error"))["code"] == "invalid"
        await player.play(VIDEO, 0, 10)
        await player.until("expiring")
        assert await refusal(player.socket) == ("token_expired", 4005)


@any_store
@pytest.mark.parametrize("sub", [OTHER, "a service"])
async def test_a_new_token_with_another_subject_closes_the_connection(server: Running, sub: str) -> None:
    """4503, whatever its scopes."""
    async with learner(server, token(USER)) as player:
        await player.send(type="auth", token=token(sub, scope="progress:any analytics"))
        assert await refusal(player.socket) == ("forbidden", 4503)


@any_store
async def test_scopes_are_those_of_the_token_in_use(server: Running) -> None:
    """A service that acts for a learner has to keep the scope for it; additional scopes are accepted."""
    service = token("a service", scope="progress:any")
    async with learner(server, service) as player:
        await player.send(type="auth", token=token("a service", scope="progress:any analytics"))
        await player.until("authorized")
        await player.play(VIDEO, 0, 10)
        await player.send(type="auth", token=token("a service", scope="analytics"))
        assert await refusal(player.socket) == ("forbidden", 4503)
    async with learner(server, token(USER)) as player:
        await player.send(type="auth", token=token(USER, scope="progress:any"))
        await player.until("authorized")
        await player.play(VIDEO, 10, 20)
        await player.send(type="auth", token=token(USER))
        await player.until("authorized")


@any_store
async def test_auth_before_hello_is_an_error(server: Running) -> None:
    """The first message has to be hello."""
    async with socket(server) as opened:
        await opened.send(json.dumps({"type": "auth", "token": token(USER)}))
        assert await refusal(opened) == ("no_hello", 4008)


@any_store
async def test_a_service_without_tokens_accepts_auth_without_a_limit(store_server: StoreServer, prefix: str) -> None:
    """A player that always sends a token works with a service that requires none."""
    settings: dict[str, Any] = {"redis_url": store_server.url, "key_prefix": prefix}
    async with serving(clock=system_clock, **settings) as server, learner(server, "anything") as player:
        await player.send(type="auth", token="anything else")
        assert await player.until("authorized") == {"type": "authorized"}


async def end(server: Running, user_id: str, made: str) -> str:
    """DELETE a user's sessions."""
    async with rest(server) as api:
        return code_of(await api.delete(f"/sessions/{user_id}", headers=bearer(made)))


@contextlib.asynccontextmanager
async def pair(store: StoreServer, prefix: str) -> AsyncIterator[tuple[Running, Running]]:
    """Two servers on one store, which behave like two processes here."""
    async with guarded(store, prefix) as here, guarded(store, prefix) as there:
        yield here, there


async def assert_open(player: Device) -> None:
    await player.send(type="ping")
    await player.until("pong")


async def test_an_operator_ends_all_sessions_of_a_user_in_every_process(store_server: StoreServer, prefix: str) -> None:
    """4500; reports are stored or can be sent again. Other users' sessions and later ones stay open."""
    async with pair(store_server, prefix) as (here, there), contextlib.AsyncExitStack() as stack:

        async def joined(server: Running, made: str, user_id: str = USER) -> Device:
            return await stack.enter_async_context(learner(server, made, user_id))

        service = token("a service", scope="progress:any")
        ended = [await joined(server, made) for server in (here, there) for made in (token(USER), token(USER), service)]
        others = [await joined(server, token(OTHER), OTHER) for server in (here, there)]
        await ended[0].play(VIDEO, 0, 10)
        assert await end(here, USER.upper(), operator()) == "ok"
        for player in ended:
            assert await refusal(player.socket) == ("ended", 4500)
        for player in others:
            await assert_open(player)
        again = await joined(there, token(USER))
        assert again.records[VIDEO]["seen"] == [[0, 10]]
        assert await end(there, str(uuid4()), operator()) == "ok"
        await assert_open(again)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (token(USER), "forbidden"),
        (token(USER, scope="analytics"), "forbidden"),
        (token("progress:any"), "forbidden"),
        (token(USER, scope="progress:anyone"), "forbidden"),
        (token(USER, scope="progress:any", key="another-secret-of-32-bytes-or-more"), "unauthorized"),
    ],
    ids=["the user", "an instructor", "a misleading subject", "a longer scope", "a forger"],
)
async def test_no_other_caller_ends_sessions(store_server: StoreServer, prefix: str, made: str, expected: str) -> None:
    """Not even the learner their own, because it requires the scope."""
    async with guarded(store_server, prefix) as server, learner(server, token(USER)) as player:
        assert await end(server, USER, made) == expected
        await assert_open(player)


async def test_sessions_ended_during_a_broken_subscription_close_after_it(
    store_server: StoreServer, prefix: str
) -> None:
    """The ending is not published to a process whose subscription is broken, so it reads the endings once it is
    subscribed again. A later break does not end sessions that began afterwards.
    """
    keys = Keys(prefix)
    async with guarded(store_server, prefix) as server, redis.Redis.from_url(store_server.url) as store:

        async def unpublished(commands: list[tuple[Any, ...]]) -> list[Any]:
            """Do everything that an ending does, except publish it."""
            return [await store.execute_command(*command) for command in commands if command[0] != "SPUBLISH"]  # type: ignore[no-untyped-call] # redis-py has no types here

        async def cut() -> None:
            """Cut every subscription, and wait until they are back."""
            assert await store.execute_command("CLIENT", "KILL", "TYPE", "pubsub") >= 1  # type: ignore[no-untyped-call] # redis-py has no types here
            async with asyncio.timeout(PATIENCE_S):
                while not dict(await store.pubsub_shardnumsub(keys.ended))[keys.ended.encode()]:  # noqa: ASYNC110 the store has no event
                    await asyncio.sleep(0.01)

        async with learner(server, token(USER)) as player, learner(server, token(OTHER), OTHER) as other:
            await EndedSessions(unpublished, keys, DamageLog()).add(USER, player_time(player) + 1)
            await assert_open(player)
            await cut()
            assert await refusal(player.socket) == ("ended", 4500)
            await assert_open(other)
            async with asyncio.timeout(PATIENCE_S):
                while (await greet(server))["serverTime"] <= player.welcome["serverTime"]:  # noqa: ASYNC110 a clock has no event
                    await asyncio.sleep(0.005)
            async with learner(server, token(USER)) as again:
                await cut()
                await again.play(VIDEO, 0, 10)
                await assert_open(again)


def player_time(player: Device) -> int:
    """Return when the player was welcomed, ms since 1970."""
    return parse_instant(player.welcome["serverTime"])


async def greet(server: Running) -> dict[str, Any]:
    async with socket(server) as opened:
        return await say_hello(opened, token(str(uuid4())))


@pytest.fixture
async def program(tmp_path: Path) -> AsyncIterator[Program]:
    """Two workers and the embedded store."""
    options = ("--workers", "2", "--data-dir", str(tmp_path / "data"), "--flush-interval-s", "0.05")
    async with serve(free_port(), *options, PLAYHEAD_JWT_SECRET=SECRET) as running:
        yield running


async def test_an_operator_ends_all_sessions_of_a_user_in_all_workers(program: Program) -> None:
    """The workers are real processes behind one port."""
    server = program.running
    async with contextlib.AsyncExitStack() as stack:
        ended: list[Device] = []
        while len(ended) < 8 or len(workers(program)) < 2:
            assert len(ended) < 31, "one worker accepts all connections"
            ended.append(await stack.enter_async_context(learner(server, token(USER))))
        other = await stack.enter_async_context(learner(server, token(OTHER), OTHER))
        assert await end(server, USER, token(USER)) == "forbidden"
        assert await end(server, USER, operator()) == "ok"
        for player in ended:
            assert await refusal(player.socket) == ("ended", 4500)
        await assert_open(other)
        again = await stack.enter_async_context(learner(server, token(USER)))
        await again.play(VIDEO, 0, 10)
