"""The fast path of frames has the same conversation as ASGI, however the bytes are split."""

import asyncio
import base64
import json
import random
import struct
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from playhead.server.transport.fast_path import DirectWebSocket
from tests.conftest import StoreServer
from tests.device import JSON, MSGPACK, PATIENCE_S, device
from tests.rest import ok, rest
from tests.serving import Running, serving

V = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
TEXT, PING, CONTINUATION, FIN = 0x1, 0x9, 0x0, 0x80


@pytest.fixture(params=[True, False], ids=["direct", "asgi"])
async def server(request: pytest.FixtureRequest, store_server: StoreServer, prefix: str) -> AsyncIterator[Running]:
    async with serving(redis_url=store_server.url, key_prefix=prefix, direct=request.param) as running:
        yield running


def frame(payload: bytes, kind: int = FIN | TEXT) -> bytes:
    """A frame of a client, masked."""
    size = len(payload)
    length = bytes((0x80 | size,)) if size < 126 else bytes((0x80 | 126,)) + struct.pack("!H", size)
    mask = b"\x01\x02\x03\x04"
    return bytes((kind,)) + length + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(payload))


def encoded(**message: Any) -> bytes:
    return frame(json.dumps(message).encode())


async def conversation(server: Running, user: str, chunks: list[bytes], last: str) -> list[dict[str, Any]]:
    """Send hello and, after its answer, each chunk; returns all messages up to one of type `last`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    key = base64.b64encode(bytes(16)).decode()
    lines = [
        "GET /ws HTTP/1.1",
        f"Host: localhost:{server.port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key}",
        f"Sec-WebSocket-Protocol: {JSON}",
        "\r\n",
    ]
    writer.write("\r\n".join(lines).encode())
    received: list[dict[str, Any]] = []
    try:
        async with asyncio.timeout(PATIENCE_S):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(encoded(type="hello", device="raw", session="page", userId=user))
            while not received or received[-1]["type"] != "synced":
                received += await messages(reader)
            for chunk in chunks:
                writer.write(chunk)
                await writer.drain()
                await asyncio.sleep(0)
            while received[-1]["type"] != last:
                received += await messages(reader)
    finally:
        writer.close()
    return received


async def messages(reader: asyncio.StreamReader) -> list[dict[str, Any]]:
    """The message of the next frame, if it has one."""
    kind, size = await reader.readexactly(2)
    if size == 126:
        (size,) = struct.unpack("!H", await reader.readexactly(2))
    payload = await reader.readexactly(size)
    return [json.loads(payload)] if kind == FIN | TEXT else []


def beats() -> list[bytes]:
    """Twenty heartbeats with frames between them that bypass the fast path, and a ping at the end."""
    frames = []
    for seq in range(1, 21):
        text = json.dumps({"type": "heartbeat", "seq": seq, "videoId": V, "played": [[seq, seq + 1]], "position": seq})
        if seq % 5 == 0:
            half = len(text) // 2
            frames += [frame(text[:half].encode(), TEXT), frame(b"?", FIN | PING)]
            frames.append(frame(text[half:].encode(), FIN | CONTINUATION))
        else:
            frames.append(frame(text.encode()))
        if seq % 7 == 0:
            frames.append(encoded(type="sync", since=0))
    return [*frames, encoded(type="ping")]


@pytest.mark.parametrize("cut", ["whole", "at once", "byte by byte", "anywhere"])
async def test_the_conversation_is_the_same_however_the_bytes_are_split(server: Running, cut: str) -> None:
    """Each heartbeat is taken once and in order, also around messages that take time; no answer is early."""
    user, frames = str(uuid4()), beats()
    whole = b"".join(frames)
    chunks = {
        "whole": frames,
        "at once": [whole],
        "byte by byte": [whole[i : i + 1] for i in range(len(whole))],
        "anywhere": [],
    }[cut]
    dice, at = random.Random(7), 0
    while not chunks or (cut == "anywhere" and at < len(whole)):
        size = dice.randint(1, 200)
        chunks.append(whole[at : at + size])
        at += size
    received = await conversation(server, user, chunks, "pong")
    assert [m["type"] for m in received].count("synced") == 3
    assert not [m for m in received if m["type"] in ("error", "goodbye")]
    async with rest(server) as api, asyncio.timeout(PATIENCE_S):
        record: dict[str, Any] = {}
        while record.get("seen") != [[1, 21]]:
            answer = await api.get(f"/progress/{user}/{V}", params={"detail": "full"})
            record = answer.json() if answer.status_code == 200 else {}
        assert (record["playedDuration"], record.get("again", [])) == (20, [])


@pytest.mark.parametrize("codec", [JSON, MSGPACK])
async def test_devices_see_each_other_with_and_without_the_fast_path(server: Running, codec: str) -> None:
    """Heartbeats, acks, pushes, rejections, pings and pages."""
    user = str(uuid4())
    async with (
        device(server, user, codec=codec) as one,
        device(server, user, codec=codec) as other,
        rest(server) as api,
    ):
        assert (await one.play(V, 0, 5))["rejected"] == []
        assert (await other.pushed(V))["seen"] == [[0, 5]]
        await one.beat(V, played=[[9, 3]])
        assert [r["seq"] for r in (await one.acked())["rejected"]] == [2]
        items = [{"videoId": str(uuid4()), "watchedDuration": 9, "lastWatched": "2024-05-01"} for _ in range(900)]
        ok(await api.post("/progress/sync", json={"userId": user, "progressData": items}))
        async with asyncio.timeout(PATIENCE_S):
            while len(other.records) < 901:
                await other.receive()
        await other.send(type="ping")
        assert (await other.until("pong"))["type"] == "pong"


async def test_a_device_that_is_up_to_date_is_welcomed_in_one_write(
    store_server: StoreServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write is a system call, the largest single cost of a device that reconnects."""
    writes: list[list[str]] = []
    write = DirectWebSocket.write

    def counted(self: DirectWebSocket, *sent: str | bytes) -> bool:
        writes.append([json.loads(message)["type"] for message in sent])
        return write(self, *sent)

    monkeypatch.setattr(DirectWebSocket, "write", counted)
    user = str(uuid4())
    async with serving(redis_url=store_server.url, key_prefix=prefix) as server:
        async with device(server, user) as new:
            await new.play(V, 0, 5)
        async with device(server, user):
            pass
    assert writes == [["welcome", "synced"], ["ack"], ["welcome"], ["progress"], ["synced"]]
