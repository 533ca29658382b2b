"""Refusals before a conversation starts: no error is logged, and one line says what would admit the peer."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from playhead.protocol.errors import PeerError, Problem
from playhead.server.limits.admission import Admission
from playhead.server.security.gate import Gate
from playhead.server.transport.refusals import PERIOD_S, Refusals
from tests.conftest import StoreServer
from tests.device import JSON, PATIENCE_S, device
from tests.rest import rest
from tests.security.attacker import JSON as CODEC
from tests.security.attacker import Attacker, attack, head, status, upgrade
from tests.security.callers import USER, guarded
from tests.security.issuer import token
from tests.serving import Running, serving

pytestmark = pytest.mark.parametrize(
    "store_server", ["valkey"], indirect=True
)  # nothing here depends on the store's version

EVIL = "Origin: https://evil.example"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    return caplog


def warnings(log: pytest.LogCaptureFixture) -> list[str]:
    """The warnings in the log, all of which are ours."""
    records = [record for record in log.records if record.levelno >= logging.WARNING]
    assert [record.getMessage() for record in records if record.name != "playhead.server.transport.refusals"] == []
    return [record.getMessage() for record in records]


@contextlib.asynccontextmanager
async def served(store: StoreServer, prefix: str, direct: bool = True, **more: Any) -> AsyncIterator[Running]:
    settings = {"keep_alive_s": 0.1, "write_timeout_s": 0.5, "allowed_origins": "https://academy.example", **more}
    async with serving(redis_url=store.url, key_prefix=prefix, direct=direct, **settings) as server:
        yield server


REFUSED = {
    "a foreign origin": (upgrade(EVIL), 403, ("https://evil.example", "allowed_origins")),
    "an app's origin": (upgrade("Origin: capacitor://localhost"), 403, ("capacitor://localhost", "allowed_origins")),
    "no origin": (upgrade("Origin: null"), 403, ("origin null", "allowed_origins")),
    "our own page by https": (upgrade("Origin: https://localhost"), 403, ("https://localhost", "trusted_proxies")),
    "a malformed origin": (upgrade("Origin: k3yboard cat"), 403, ("malformed",)),
    "an origin with a path": (upgrade("Origin: https://evil.example/k3yboard"), 403, ("origin (malformed)",)),
    "an endless origin": (upgrade(f"Origin: https://{'evil.' * 1_000}example"), 403, ("https://evil.", "…")),
    "two origins": (upgrade(EVIL, EVIL), 403, ("several Host or Origin headers",)),
    "a foreign host": (
        upgrade().replace(b"Host: localhost", b"Host: rebound.example:8000"),
        403,
        ("host rebound.example:8000", "http://rebound.example:8000 to allowed_origins"),
    ),
    "a malformed host": (upgrade().replace(b"Host: localhost", b"Host: k3y board"), 403, ("host (malformed)",)),
    "a foreign origin by REST": (head("GET", "/progress/x", EVIL, "Connection: close"), 403, ("https://evil.example",)),
    "a token in the URL": (
        head("GET", "/livez?access_token=k3yboard", "Connection: close"),
        401,
        ("token in its URL", "Authorization: Bearer"),
    ),
    "another path": (upgrade(target="/api/ws/k3yboard"), 404, ("/ws",)),
    "an old version": (upgrade().replace(b"Version: 13", b"Version: 8"), 426, ("/ws", "Sec-WebSocket-Version: 13")),
    "no handshake": (head("GET", "/ws", "Connection: close"), 426, ("/ws", "proxy", "Upgrade and Connection")),
    "no subprotocol of ours": (upgrade(codec="k3yboard"), 101, ("playhead.v1.json, playhead.v1.msgpack",)),
}


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize(("data", "code", "words"), REFUSED.values(), ids=REFUSED)
async def test_a_refusal_is_one_line_and_no_error(
    store_server: StoreServer,
    prefix: str,
    log: pytest.LogCaptureFixture,
    data: bytes,
    code: int,
    words: tuple[str, ...],
    direct: bool,
) -> None:
    """It names what was refused and the setting, and nothing else that a peer sent."""
    async with served(store_server, prefix, direct) as server:
        answers = await asyncio.gather(*(attack(server.port, data) for _ in range(20)))
    assert {status(answer) for answer in answers} == {code}
    (line,) = warnings(log)
    for word in words:
        assert word in line
    assert "k3yboard" not in line
    assert line.isprintable()
    assert len(line) < 400


async def test_every_kind_has_a_line_of_its_own(
    store_server: StoreServer, prefix: str, log: pytest.LogCaptureFixture
) -> None:
    """So that a flood of one kind neither hides another nor fills the log."""
    async with served(store_server, prefix) as server:
        for _ in range(3):
            await asyncio.gather(*(attack(server.port, data) for data, *_ in REFUSED.values()))
    lines = warnings(log)
    assert len(lines) == len({line.partition(":")[0][:20] for line in lines}) == 6


def test_a_later_line_has_the_number_of_suppressed_ones(
    store_server: StoreServer, log: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    refusals = Refusals(lambda: now)
    for _ in range(5):
        refusals.add("origin", "Refused %s", "a")
    refusals.add("host", "Refused %s", "b")
    now = PERIOD_S
    refusals.add("origin", "Refused %s", "c")
    now = 2 * PERIOD_S
    refusals.add("origin", "Refused %s", "d")
    assert warnings(log) == [
        "Refused a",
        "Refused b",
        "Refused c (4 more like this since the last such line)",
        "Refused d",
    ]


@pytest.mark.parametrize("limit", ["max_connections", "max_connections_per_address", "max_connections_per_user"])
async def test_one_connection_too_many_is_a_line_with_the_limit(
    store_server: StoreServer, prefix: str, log: pytest.LogCaptureFixture, limit: str
) -> None:
    """It is told to reconnect each time; the log has one line."""
    async with served(store_server, prefix, True, **{limit: 1}) as server, device(server, USER):
        for _ in range(3):
            async with connect(server.ws, subprotocols=[Subprotocol(JSON)], proxy=None) as socket:
                await socket.send(json.dumps({"type": "hello", "device": "tv", "session": "s", "userId": USER}))
                assert json.loads(await socket.recv())["type"] == "goodbye"
    (line,) = warnings(log)
    assert limit in line


async def test_a_reset_connection_is_a_line_with_the_limits(
    store_server: StoreServer, prefix: str, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If authenticated connections and newcomers use all slots; here without the 2,000 spare ones."""
    monkeypatch.setattr("playhead.server.transport.config.SPARE_CONNECTIONS", 0)
    async with (
        served(store_server, prefix, max_connections=1, max_newcomers=1) as server,
        device(server, USER) as player,
    ):
        crowd = await asyncio.gather(*(Attacker.connect(server.port) for _ in range(10)))
        await asyncio.gather(*(attacker.closed() for attacker in crowd[:5]))
        for attacker in crowd:
            attacker.close()
        await player.play(str(uuid4()), 0, 1)
    (line,) = warnings(log)
    assert "max_connections" in line
    assert "max_newcomers" in line


# Peers that disconnect, and a server that ends


@pytest.mark.parametrize("direct", [True, False])
async def test_a_peer_that_disconnects_before_the_response(
    store_server: StoreServer, prefix: str, log: pytest.LogCaptureFixture, direct: bool
) -> None:
    """During a handshake, an accepted one and a refused one."""
    async with served(store_server, prefix, direct) as server:
        for data in (upgrade(), upgrade(EVIL), upgrade(codec=CODEC)) * 10:
            attacker = await Attacker.connect(server.port)
            await attacker.send(data)
            attacker.reset()
        async with rest(server) as api:
            assert (await api.get("/livez")).status_code == 200
    assert [line for line in warnings(log) if "evil" not in line] == []


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("line", ["Origin: http://localhost", EVIL])
async def test_a_server_that_ends_during_a_handshake(
    store_server: StoreServer,
    prefix: str,
    log: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    direct: bool,
    line: str,
) -> None:
    """Before the handshake is accepted or refused."""
    come, go, original = asyncio.Event(), asyncio.Event(), Gate.__call__

    async def held(self: Gate, scope: Any, *args: Any) -> None:
        if scope["type"] == "websocket":
            come.set()
            await go.wait()
        await original(self, scope, *args)

    monkeypatch.setattr(Gate, "__call__", held)

    async def until_closed(attacker: Attacker) -> None:
        await attacker.closed()
        go.set()

    async with served(store_server, prefix, direct) as server:
        attacker = await Attacker.connect(server.port)
        await attacker.send(upgrade(line))
        async with asyncio.timeout(PATIENCE_S):
            await come.wait()
        closing = asyncio.create_task(until_closed(attacker))
    await closing
    attacker.close()
    assert [line for line in warnings(log) if "evil" not in line] == []


@pytest.mark.parametrize("direct", [True, False])
async def test_a_draining_process_refuses_without_an_error(
    store_server: StoreServer, prefix: str, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, direct: bool
) -> None:
    """Nothing is logged, since nothing is wrong; the peer is told to reconnect."""

    def accept(*_: Any) -> None:
        raise PeerError(Problem.RESTARTING, "this process is about to end")

    monkeypatch.setattr(Admission, "accept", accept)
    async with served(store_server, prefix, direct) as server:
        for _ in range(3):
            async with connect(server.ws, subprotocols=[Subprotocol(JSON)], proxy=None) as socket:
                assert json.loads(await socket.recv())["type"] == "goodbye"
                with contextlib.suppress(ConnectionClosed):
                    await socket.recv()
                assert socket.close_code == 4001
    assert warnings(log) == []


# A token without an Origin


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("hello", [{"token": token(USER)}, {}], ids=["a token in hello", "none"])
async def test_a_native_player_is_told_where_its_token_belongs(
    store_server: StoreServer, prefix: str, log: pytest.LogCaptureFixture, hello: dict[str, str], direct: bool
) -> None:
    """A peer that sends no Origin is not a page. The error arrives before the close, and the log says the same."""
    async with (
        guarded(store_server, prefix, direct=direct) as server,
        connect(server.ws, subprotocols=[Subprotocol(JSON)], proxy=None) as socket,
    ):
        with contextlib.suppress(ConnectionClosed):
            await socket.send(json.dumps({"type": "hello", "device": "tv", "session": "s", **hello}))
        error = json.loads(await socket.recv())
        assert (error["type"], error["code"]) == ("error", "unauthorized")
        assert "Authorization: Bearer" in error["detail"]
        assert "Origin" in error["detail"]
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert socket.close_code == 4500
    (line,) = warnings(log)
    assert "Authorization: Bearer" in line


async def test_a_native_player_with_its_token_in_the_handshake_is_admitted(
    store_server: StoreServer, prefix: str
) -> None:
    """As the error says; its hello then needs no token."""
    bearer = {"Authorization": f"Bearer {token(USER)}"}
    async with (
        guarded(store_server, prefix) as server,
        connect(server.ws, subprotocols=[Subprotocol(JSON)], additional_headers=bearer, proxy=None) as socket,
    ):
        await socket.send(json.dumps({"type": "hello", "device": "tv", "session": uuid4().hex}))
        assert json.loads(await socket.recv())["type"] == "welcome"
