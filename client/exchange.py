"""One HTTP request on asyncio streams: cancellable, bounded in time and size, without threads or dependencies.

The standard library has no asyncio HTTP client, and its blocking one in a thread outlives a cancellation. So the
request is written here, on a connection of its own, and `http.client` parses the complete answer.
"""

import asyncio
import http.client
import io
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

MAX_ANSWER_BYTES = 64 * 1_048_576
TIMEOUT_S = 30.0
"""Time limit for the whole exchange: longer than the service waits for its store."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes


class _Received:
    """Received bytes, as a socket for `http.client` to read from."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, *_: Any) -> io.BytesIO:
        return io.BytesIO(self._data)


async def exchange(
    method: str, url: str, headers: dict[str, str], body: bytes = b"", tls: ssl.SSLContext | None = None
) -> Answer:
    """Send a request and read its answer; redirects are not followed.

    Args:
        url: http or https, absolute and quoted.

    Raises:
        OSError: there is no answer, or it is incomplete or too large; TimeoutError is one of them.
    """
    where = urlsplit(url)
    secure = where.scheme == "https"
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection(
                where.hostname,
                where.port or (443 if secure else 80),
                ssl=(tls or ssl.create_default_context()) if secure else None,
                limit=1_048_576,
            )
            try:
                target = where.path + (f"?{where.query}" if where.query else "")
                lines = [f"{method} {target or '/'} HTTP/1.1", f"Host: {where.netloc}", "Connection: close"]
                lines += [f"{name}: {value}" for name, value in headers.items()]
                lines += [f"Content-Length: {len(body)}", "", ""]
                writer.write("\r\n".join(lines).encode("ascii") + body)
                return _parsed(method, await _read(reader))
            finally:
                writer.transport.abort()
    except http.client.HTTPException as error:
        raise OSError(f"not an HTTP answer: {type(error).__name__}") from None


async def _read(reader: asyncio.StreamReader) -> bytes:
    """Read until the server closes the connection, as the request asks it to."""
    data = bytearray()
    while chunk := await reader.read(65_536):
        data += chunk
        if len(data) > MAX_ANSWER_BYTES:
            raise OSError(f"the answer has more than {MAX_ANSWER_BYTES} bytes")
    return bytes(data)


def _parsed(method: str, data: bytes) -> Answer:
    response = http.client.HTTPResponse(_Received(data), method=method)  # type: ignore[arg-type]
    response.begin()
    return Answer(response.status, response.headers, response.read())
