"""A learner's device on a real WebSocket: it sends hello, numbers its heartbeats, and waits for acks and pushes."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import msgpack
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.serving import Running

PATIENCE_S = 10.0
"""Bound on every wait; a test that reaches it has failed."""
JSON, MSGPACK = "playhead.v1.json", "playhead.v1.msgpack"


class Device:
    """One connection. `inbox` holds the messages that no test waited for; `records` those of progress messages."""

    def __init__(self, socket: ClientConnection, user_id: str, session: str, codec: str) -> None:
        self.socket = socket
        self.user_id = user_id
        self.session = session
        self.seq = 0
        self.inbox: list[dict[str, Any]] = []
        self.records: dict[str, dict[str, Any]] = {}
        self.welcome: dict[str, Any] = {}
        self.greeted: list[dict[str, Any]] = []
        """All messages from `welcome` to `synced`."""
        self.rev = 0
        self._codec = codec

    async def send(self, **message: Any) -> None:
        await self.socket.send(json.dumps(message) if self._codec == JSON else msgpack.packb(message))

    async def receive(self) -> dict[str, Any]:
        """Wait for the next message of any type; its records are kept in `records`."""
        async with asyncio.timeout(PATIENCE_S):
            frame = await self.socket.recv()
        message: dict[str, Any] = json.loads(frame) if isinstance(frame, str) else msgpack.unpackb(frame)
        if message["type"] == "progress":
            self.rev = message["rev"]
            for record in message["records"]:
                self.records[record["videoId"]] = record
        return message

    async def until(self, kind: str) -> dict[str, Any]:
        """Wait for the next message of a type; others go to the inbox."""
        while True:
            message = await self.receive()
            if message["type"] == kind:
                return message
            self.inbox.append(message)

    async def hello(self, **more: Any) -> list[dict[str, Any]]:
        """Send hello, and return the answers up to and including `synced`."""
        await self.send(type="hello", device="test", session=self.session, userId=self.user_id, **more)
        answers = [await self.receive()]
        assert answers[0]["type"] == "welcome", answers[0]
        self.welcome = answers[0]
        while answers[-1]["type"] != "synced":
            answers.append(await self.receive())
        self.greeted = answers
        self.rev = answers[-1]["rev"]
        return answers

    async def beat(self, video_id: str, **fields: Any) -> int:
        """Send a heartbeat with the next seq (or `seq`) without waiting for its ack. Returns its seq."""
        self.seq = fields.pop("seq", self.seq + 1)
        await self.send(type="heartbeat", seq=self.seq, videoId=video_id, **fields)
        return self.seq

    async def acked(self, seq: int | None = None, session: str | None = None) -> dict[str, Any]:
        """Wait until `seq` (by default the last one sent) is acked.

        Returns that ack, with the rejections and caps of the acks before it.
        """
        seq, session = seq or self.seq, session or self.session
        rejected: list[Any] = []
        capped: list[int] = []
        while True:
            ack = await self.until("ack")
            if ack["session"] != session:
                self.inbox.append(ack)
                continue
            rejected += ack.get("rejected", [])
            capped += ack.get("capped", [])
            if ack["seq"] >= seq:
                return {**ack, "rejected": rejected, "capped": capped}

    async def play(self, video_id: str, start: float, end: float, **fields: Any) -> dict[str, Any]:
        """Send a heartbeat with one play, and wait for its ack."""
        await self.beat(video_id, played=[[start, end]], position=end, state="playing", **fields)
        return await self.acked()

    async def pushed(self, video_id: str) -> dict[str, Any]:
        """Wait for the next pushed record of a video."""
        while True:
            message = await self.until("progress")
            for record in message["records"]:
                if record["videoId"] == video_id:
                    return dict(record)


@contextlib.asynccontextmanager
async def device(
    server: Running, user_id: str, session: str | None = None, codec: str = JSON, **hello: Any
) -> AsyncIterator[Device]:
    """Connect a device, and synchronise it."""
    async with connect(server.ws, subprotocols=[Subprotocol(codec)]) as socket:
        opened = Device(socket, user_id, session or uuid4().hex, codec)
        await opened.hello(**hello)
        yield opened
