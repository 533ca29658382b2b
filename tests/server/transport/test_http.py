"""Responses over real sockets: to HEAD, to an expected 100 Continue, and to pipelined requests."""

import asyncio
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
