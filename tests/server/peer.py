"""A client that sends handwritten requests: any bytes, split anywhere, with the answers read one by one."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from tests.device import PATIENCE_S
from tests.serving import Running

Answer = tuple[int, bytes]
"""Status and body."""


class Peer:
    """A connection for handwritten requests."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, *segments: bytes, reads: list[int] | None = None) -> None:
        """Send pieces; with `reads` given, the server reads each piece before the next is sent."""
        for segment in segments:
            before = sum(reads or ())
            self.writer.write(segment)
            await self.writer.drain()
            async with asyncio.timeout(PATIENCE_S):
                while reads is not None and sum(reads) < before + len(segment):  # noqa: ASYNC110 each read is seen
                    await asyncio.sleep(0)

    async def answer(self, method: str = "GET") -> Answer:
        async with asyncio.timeout(PATIENCE_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
            _, found, length = head.partition(b"content-length: ")
            expected = int(length.split(b"\r\n")[0]) if found and method != "HEAD" else 0
            return int(head[9:12]), await self.reader.readexactly(expected)

    async def rest(self) -> bytes:
        """Everything until the server closes."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.read()

    async def message(self, kind: str) -> dict[str, Any]:
        """The next WebSocket message of a type; all messages in these tests are shorter than 64 KiB."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                _, length = await self.reader.readexactly(2)
                if length == 126:
                    length = int.from_bytes(await self.reader.readexactly(2), "big")
                message = json.loads(await self.reader.readexactly(length))
                if message["type"] == kind:
                    return dict(message)


@contextlib.asynccontextmanager
async def peer(server: Running) -> AsyncIterator[Peer]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        yield Peer(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def head(method: str, target: str, *lines: str) -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()


def request(method: str, target: str, *lines: str, body: bytes = b"", framing: str = "length") -> tuple[bytes, bytes]:
    """A request's head and the bytes after it."""
    if not body:
        return head(method, target, *lines), b""
    typed = "Content-Type: application/json"
    if framing == "length":
        return head(method, target, *lines, typed, f"Content-Length: {len(body)}"), body
    cut = len(body) // 2
    chunks = [b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:cut], body[cut:])]
    return head(method, target, typed, "Transfer-Encoding: chunked", *lines), b"".join([*chunks, b"0\r\n\r\n"])
