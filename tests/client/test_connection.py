"""Conversations with a scripted server: close codes, goodbyes, and messages that no real server can be made to send."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as scripted
from websockets.typing import Subprotocol

from playhead.client import Forbidden, Refused, Terminal, Unauthorized
from tests.client.line import PATIENCE_S, client, until


@asynccontextmanager
async def script(answer: Callable[[ServerConnection, int], Any]) -> AsyncIterator[tuple[str, list[float]]]:
    """A server that sends to its n-th connection what no real one can be made to send; the times of the connections."""
    came: list[float] = []

    async def handle(socket: ServerConnection) -> None:
        came.append(asyncio.get_running_loop().time())
        await answer(socket, len(came))

    async with scripted(handle, "127.0.0.1", 0, subprotocols=[Subprotocol("playhead.v1.json")]) as listener:
        (bound,) = listener.sockets
        yield f"http://127.0.0.1:{bound.getsockname()[1]}", came


def welcome() -> str:
    said = {"type": "welcome", "serverTime": "2026-11-23T10:00:00.000Z", "epoch": "e", "rev": 0}
    return json.dumps({**said, "heartbeatInterval": 5.0, "flushInterval": 1.0, "maxFrame": 16384})


@pytest.mark.parametrize(
    ("code", "error"),
    [(4500, Unauthorized), (4501, Refused), (4502, Refused), (4503, Forbidden), (4999, Refused), (3500, Refused)],
)
async def test_a_terminal_code_ends_the_client_with_its_error(code: int, error: type[Terminal]) -> None:
    """x500-x999: the client does not reconnect, every call raises the typed error, and unstored reports are kept."""

    async def answer(socket: ServerConnection, _: int) -> None:
        await socket.recv()
        await socket.close(code, "said so")

    async with script(answer) as (url, came):
        async with client(url, str(uuid4())) as p:
            changes = p.changes()
            with pytest.raises(error) as ended:
                await p.watch(uuid4(), [(0, 5)], 5)
            assert ended.value.code == code
            with pytest.raises(error):
                await anext(changes)
            with pytest.raises(error):
                await p.flush()
            with pytest.raises(error):
                p.report(uuid4(), [(0, 5)], 5)
            assert p.state == "ended"
            assert "said so" in p.trouble
            assert len(p.pending) == 1
        assert len(came) == 1


async def test_a_terminal_error_that_no_call_raised_is_raised_on_exit() -> None:
    """Code that only reports and never waits gets the error when the block ends."""

    async def answer(socket: ServerConnection, _: int) -> None:
        await socket.close(4503, "no")

    async with script(answer) as (url, _):
        p = client(url, str(uuid4()))
        with pytest.raises(Forbidden):
            async with p:
                await until(lambda: p.state == "ended")


@pytest.mark.parametrize("code", [1001, 1006, 1009, 1011, 1012, 4001, 4002, 4003, 4008])
async def test_the_client_reconnects_after_other_codes(code: int) -> None:
    """The next conversation sends what the first one lost, with the same seq."""
    heard: list[Any] = []

    async def answer(socket: ServerConnection, number: int) -> None:
        await socket.recv()
        await socket.send(welcome())
        heard.append(json.loads(await socket.recv()))
        if number == 1:
            await socket.close(code) if code != 1006 else socket.transport.abort()
            return
        await socket.send(json.dumps({"type": "ack", "session": p.session, "seq": heard[-1]["seq"]}))
        await socket.wait_closed()

    async with script(answer) as (url, came), client(url, str(uuid4()), transports=("ws",)) as p:
        async with asyncio.timeout(PATIENCE_S):
            await p.watch(uuid4(), [(0, 5)], 5)
        assert p.retries == 1
    assert len(came) == 2
    first, second = ({**each, "age": 0} for each in heard)
    assert first == second
    assert first["seq"] == 1


async def test_goodbye_is_honoured() -> None:
    """The client reconnects after `retryAfter` at the earliest, however short its own backoff is."""

    async def answer(socket: ServerConnection, number: int) -> None:
        await socket.recv()
        if number == 1:
            await socket.send(json.dumps({"type": "goodbye", "code": "busy", "retryAfter": 0.5}))
            await socket.close(4001, "busy")
            return
        await socket.send(welcome())
        await socket.wait_closed()

    async with script(answer) as (url, came), client(url, str(uuid4()), backoff_s=(0.0, 0.0)) as p:
        await until(lambda: p.state == "offline")
        assert p.trouble == "busy"
        await until(lambda: p.state == "online")
        assert came[1] - came[0] >= 0.5


async def test_unknown_and_unreadable_messages() -> None:
    """A message of an unknown type is ignored; an unreadable one ends the conversation but not the client."""

    async def answer(socket: ServerConnection, number: int) -> None:
        await socket.recv()
        await socket.send(json.dumps({"type": "news"}))
        await socket.send(welcome() if number > 1 else "{")
        await socket.send(json.dumps({"type": "news"}))
        await socket.send(json.dumps({"type": "synced", "rev": 0}))
        await socket.wait_closed()

    async with script(answer) as (url, came), client(url, str(uuid4())) as p:
        async with asyncio.timeout(PATIENCE_S):
            await p.refresh()
        assert len(came) == 2
