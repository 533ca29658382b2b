"""A TCP relay in front of a server: it can be cut, and can refuse WebSockets as some company proxies do."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from playhead.client import Playhead, playhead_client

PATIENCE_S = 20.0
"""Time limit for every wait; a test that reaches it has failed."""
FAST = {"backoff_s": (0.02, 0.2), "websocket_retry_s": 0.2, "poll_s": 0.05}


@dataclass
class Line:
    """What it lets through is decided for each new connection; `cut` closes the existing ones."""

    target: int
    port: int = 0
    up: bool = True
    websockets: bool = True
    upgrades: int = 0
    requests: int = 0
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Reset the connection on both sides."""
        self.up = False
        for writer in self._writers:
            writer.transport.abort()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._carry(reader, writer)
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.up:
            writer.transport.abort()
            return
        head = await reader.readuntil(b"\r\n\r\n")
        if b"upgrade: websocket" in head.lower():
            self.upgrades += 1
            if not self.websockets:
                writer.write(b"HTTP/1.1 403 No WebSockets here\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                await writer.drain()
                return
        else:
            self.requests += 1
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        self._writers.add(back)
        back.write(head)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_pump(reader, back))
                both.create_task(_pump(there, writer))
        finally:
            self._writers.discard(back)
            back.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until either side ends; then both do."""
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


@contextlib.asynccontextmanager
async def line(target: int) -> AsyncIterator[Line]:
    opened = Line(target)
    listener = await asyncio.start_server(opened.carry, "127.0.0.1", 0)
    opened.port = listener.sockets[0].getsockname()[1]
    try:
        yield opened
    finally:
        opened.cut()
        listener.close()
        await listener.wait_closed()


def client(url: str, user: str | None = None, **options: Any) -> Playhead:
    """A client that comes back fast."""
    return playhead_client(url, **{"device": "test", "user_id": user, **FAST, **options})


async def until(condition: Any) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 no event tells of it
            await asyncio.sleep(0.005)
