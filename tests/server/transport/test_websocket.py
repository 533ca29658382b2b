"""The WebSocket protocol's own limits: on frames of any kind, on fragments, and on what comes before the answer."""

import asyncio
import json
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Opcode

from tests.conftest import StoreServer
from tests.device import JSON, PATIENCE_S
from tests.serving import Running, serving

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: playhead.v1.json\r\n\r\n"
)
HELLO = json.dumps(
    {"type": "hello", "device": "tv", "session": "page", "userId": "3fa85f64-5717-4562-b3fc-2c963f66afa6"}
)


def masked(payload: bytes, opcode: int = Opcode.TEXT, fin: bool = True) -> bytes:
    """A client's frame, with a mask of zeros."""
    head = bytes([0x80 * fin | opcode])
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
    return head + size + bytes(4) + payload


def socket(server: Running) -> Any:
    return connect(server.ws, subprotocols=[JSON], proxy=None)  # type: ignore[list-item]  # a NewType of str


async def close_code(opened: ClientConnection) -> int:
    """The code of the close, after all messages."""
    async with asyncio.timeout(PATIENCE_S):
        try:
            while True:
                await opened.recv()
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd is not None else 1006


@pytest.mark.parametrize("kind", ["ping", "pong", "fragments"])
async def test_frames_that_are_no_messages_are_limited_too(store_server: StoreServer, prefix: str, kind: str) -> None:
    """Four of any kind for each message that may come: then the connection is closed, and nothing more is read."""
    store: dict[str, Any] = {"redis_url": store_server.url, "key_prefix": prefix}
    async with serving(**store, frames_burst=5, frames_per_s=0.001) as server, socket(server) as opened:
        frames = {
            "ping": masked(b"", Opcode.PING),
            "pong": masked(b"", Opcode.PONG),
            "fragments": masked(b"", Opcode.TEXT, fin=False) + masked(b"", Opcode.CONT, fin=False) * 30,
        }[kind]
        opened.transport.write(frames * (1 if kind == "fragments" else 30))
        assert await close_code(opened) == 4003


async def test_a_message_of_many_fragments_is_one_message(server: Running) -> None:
    async with socket(server) as opened:
        async with asyncio.timeout(PATIENCE_S):
            await opened.send(iter(HELLO))
            assert json.loads(await opened.recv())["type"] == "welcome"
            await opened.ping()
            await opened.send('{"type":"ping"}')
            answers = [json.loads(await opened.recv())["type"] for _ in range(2)]
        assert answers == ["synced", "pong"]


async def test_frames_that_come_with_the_handshake_are_read_after_it(server: Running) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(HANDSHAKE + masked(HELLO.encode()))
        async with asyncio.timeout(PATIENCE_S):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
            assert b'"type":"welcome"' in await reader.readuntil(b"}")
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(("payload", "code"), [(b"\xff", 1007), (b"x" * 20_000, 1009)], ids=["not UTF-8", "too large"])
async def test_a_message_that_cannot_be_read_closes_with_the_standards_code(
    server: Running, payload: bytes, code: int
) -> None:
    async with socket(server) as opened:
        opened.transport.write(masked(payload))
        assert await close_code(opened) == code
