"""Sends many HTTP requests over a few kept connections, as fast as they are answered: to measure CPU, not latency."""

import asyncio
from collections.abc import Iterator, Sequence

CONNECTIONS = 16


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


def post(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


async def ask_all(port: int, requests: Sequence[bytes], connections: int = CONNECTIONS) -> None:
    """Send each request once. Raises ValueError if a response is not 200."""
    left = iter(requests)
    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(_ask(port, left))


async def _ask(port: int, left: Iterator[bytes]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for request in left:
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        body = await reader.readexactly(int(head.split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0]))
        if not head.startswith(b"http/1.1 200"):
            raise ValueError(f"{head[:100]!r} {body[:200]!r}")
    writer.close()
