"""Responses over real sockets: to HEAD, to an expected 100 Continue, to pipelined requests, and to what is refused."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest

from tests.conftest import StoreServer
from tests.device import PATIENCE_S
from tests.serving import Running, serving

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.fixture
async def server(store_server: StoreServer, prefix: str) -> AsyncIterator[Running]:
    async with serving(redis_url=store_server.url, key_prefix=prefix) as running:
        yield running


async def talk(server: Running, *steps: tuple[bytes, bytes]) -> None:
    """Send each step and read up to the bytes that it awaits, on one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    async with asyncio.timeout(PATIENCE_S):
        for sent, awaited in steps:
            writer.write(sent)
            await reader.readuntil(awaited)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        last = await reader.read()
    writer.close()
    assert last.startswith(b"HTTP/1.1 200 OK\r\n"), "earlier responses left no bytes behind"
    assert last.count(b"HTTP/1.1 ") == 1


def request(method: bytes, path: bytes, *lines: bytes) -> bytes:
    return b"\r\n".join([method + b" " + path + b" HTTP/1.1", b"Host: localhost", *lines, b"", b""])


async def test_a_head_request_gets_a_response_without_a_body(server: Running) -> None:
    await talk(server, (request(b"HEAD", b"/livez"), b"\r\n\r\n"), (request(b"HEAD", b"/livez"), b"\r\n\r\n"))


async def test_an_expected_continue_is_sent_before_the_body(server: Running) -> None:
    lines = b"Content-Type: application/json", b"Content-Length: 2", b"Expect: 100-continue"
    await talk(server, (request(b"POST", b"/progress/update", *lines), CONTINUE), (b"{}", b'"errors"'), (b"", b"]}"))


async def test_pipelined_responses_are_complete_and_in_order(server: Running) -> None:
    asked = request(b"GET", b"/livez") + request(b"GET", b"/nothing") + request(b"GET", b"/livez")
    await talk(server, (asked, b" 200 "), (b"", b" 404 "), (b"", b" 200 "), (b"", b"\r\n\r\n"), (b"", b"}"))


UPGRADE = (
    b"Upgrade: websocket",
    b"Connection: Upgrade",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Protocol: playhead.v1.json",
)


async def answer(server: Running, *sent: bytes) -> bytes:
    """Everything that the server answers until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    async with asyncio.timeout(PATIENCE_S):
        for part in sent:
            writer.write(part)
            await writer.drain()
        received = await reader.read()
    writer.close()
    return received


def problem(received: bytes) -> str:
    """The problem code of the last response."""
    _, _, body = received.rpartition(b"\r\n\r\n")
    return str(json.loads(body)["type"]).rpartition(":")[2]


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (request(b"GET", b"/livez", b"X-Long: " + b"x" * 33_000), "headers_too_large"),
        (b"GET /livez HTTP/1.1\r\nX-Endless: " + b"x" * 33_000, "headers_too_large"),
        (request(b"GET", b"/livez?" + b"x" * 33_000), "headers_too_large"),
        (request(b"GET", b"/ws", *UPGRADE, *(b"X-%d: 1" % number for number in range(200))), "headers_too_large"),
        (request(b"CONNECT", b"example.org:443"), "not_http"),
        (b"this is not HTTP\r\n\r\n", "not_http"),
    ],
    ids=["a header", "a head without end", "a URL", "a handshake's headers", "CONNECT", "another protocol"],
)
async def test_what_is_refused_before_the_app_names_its_problem(server: Running, sent: bytes, code: str) -> None:
    received = await answer(server, sent)
    assert received.count(b"HTTP/1.1 4") == 1
    assert problem(received) == code


async def test_a_head_must_arrive_in_time(store_server: StoreServer, prefix: str) -> None:
    async with serving(redis_url=store_server.url, key_prefix=prefix, head_timeout_s=0.2) as server:
        assert problem(await answer(server, b"GET /livez HTTP/1.1\r\nHost: loc")) == "timeout"
        assert await answer(server) == b"", "a connection without a request is closed without a response"


async def test_a_chunked_body_is_bounded_with_its_framing(server: Running) -> None:
    """Chunks of one byte take many times their content: the whole message is limited, whatever its content."""
    head = request(b"POST", b"/progress/update", b"Content-Type: application/json", b"Transfer-Encoding: chunked")
    length = server.settings.max_head_bytes + 4 * server.settings.max_body_bytes
    received = await answer(server, head, b"1;" + b"x" * length)
    assert received.count(b"HTTP/1.1 4") == 1
    assert problem(received) == "too_large"


async def test_trailers_are_ignored(server: Running) -> None:
    head = request(b"POST", b"/progress/update", b"Content-Type: application/json", b"Transfer-Encoding: chunked")
    body = b"2\r\n{}\r\n0\r\n" + b"X-Trailer: 1\r\n" * 100 + b"\r\n"
    await talk(server, (head + body, b'"errors"'), (b"", b"]}"))


async def test_too_many_pipelined_requests_are_refused(server: Running) -> None:
    received = await answer(server, request(b"GET", b"/readyz") * 200)
    assert problem(received) == "not_http"


async def test_nothing_is_read_after_connection_close(server: Running) -> None:
    """RFC 9112, 9.6."""
    received = await answer(server, request(b"GET", b"/livez", b"Connection: close") + request(b"GET", b"/livez") * 3)
    assert received.count(b"HTTP/1.1 200") == 1


async def test_a_handshake_waits_for_the_requests_before_it(server: Running) -> None:
    """Requests and a handshake in one packet, with the first frame behind them."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    ping = b"\x89\x80" + bytes(4)
    async with asyncio.timeout(PATIENCE_S):
        writer.write(request(b"GET", b"/readyz") * 2 + request(b"GET", b"/ws", *UPGRADE) + ping)
        for awaited in (b" 200 ", b"}", b" 200 ", b"HTTP/1.1 101 ", b"\r\n\r\n"):
            await reader.readuntil(awaited)
        assert await reader.readexactly(2) == b"\x8a\x00"
    writer.close()


async def test_early_frames_are_bounded(server: Running) -> None:
    """Bytes that arrive before the handshake is answered are kept, up to the largest frame."""
    early = b"\x82\xff" + (10_000_000).to_bytes(8) + bytes(server.settings.max_frame_bytes + 100_000)
    with contextlib.suppress(ConnectionResetError):  # the connection is aborted
        await answer(server, request(b"GET", b"/readyz") + request(b"GET", b"/ws", *UPGRADE) + early)
    await talk(server, (request(b"GET", b"/livez"), b" 200 "), (b"", b"}"))
