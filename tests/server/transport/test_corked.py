"""The head of a REST answer goes with its body, and nothing of an answer is kept back, altered or put out of order."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from playhead.server.transport.corked import Corked
from tests.conftest import StoreServer
from tests.device import PATIENCE_S
from tests.serving import Running, serving

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Recorder(asyncio.Transport):
    """What was written, call by call."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: object) -> None:
        assert isinstance(data, bytes)
        assert not self.closed
        self.written.append(data)

    def close(self) -> None:
        self.closed = True


def written(*data: bytes, close: bool = False) -> list[bytes]:
    """By a transport, when this was written to its cork and the answer was complete."""
    recorder = Recorder()
    corked = Corked(recorder)
    for piece in data:
        corked.write(piece)
    if close:
        corked.close()
    corked.flush()
    assert recorder.closed is close
    return recorder.written


def test_head_and_body_are_one_write() -> None:
    assert written(b"head", b"body") == [b"headbody"]


def test_what_follows_goes_at_once() -> None:
    assert written(b"head", b"one", b"two", b"three") == [b"headone", b"two", b"three"]


def test_a_head_without_a_body_goes_when_the_answer_is_complete() -> None:
    assert written(b"head") == [b"head"]
    assert written(b"head", b"") == [b"head"]


def test_a_head_goes_before_the_connection_is_closed() -> None:
    assert written(b"head", close=True) == [b"head"]


def test_an_interim_answer_is_no_head() -> None:
    assert written(CONTINUE, b"head", b"body") == [CONTINUE, b"headbody"]
    assert written(b"head", CONTINUE) == [b"head" + CONTINUE]


@pytest.fixture
async def server(store_server: StoreServer, prefix: str) -> AsyncIterator[Running]:
    async with serving(redis_url=store_server.url, key_prefix=prefix) as running:
        yield running


async def talk(server: Running, *steps: tuple[bytes, bytes]) -> None:
    """Send something, and read up to what shall come; over one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    async with asyncio.timeout(PATIENCE_S):
        for sent, awaited in steps:
            writer.write(sent)
            await reader.readuntil(awaited)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        last = await reader.read()
    writer.close()
    assert last.startswith(b"HTTP/1.1 200 OK\r\n"), "nothing was left over of what came before"
    assert last.count(b"HTTP/1.1 ") == 1


def request(method: bytes, path: bytes, *lines: bytes) -> bytes:
    return b"\r\n".join([method + b" " + path + b" HTTP/1.1", b"Host: localhost", *lines, b"", b""])


async def test_a_head_request_is_answered_by_a_head(server: Running) -> None:
    await talk(server, (request(b"HEAD", b"/livez"), b"\r\n\r\n"), (request(b"HEAD", b"/livez"), b"\r\n\r\n"))


async def test_an_expected_continue_comes_before_the_body_is_sent(server: Running) -> None:
    lines = b"Content-Type: application/json", b"Content-Length: 2", b"Expect: 100-continue"
    await talk(server, (request(b"POST", b"/progress/update", *lines), CONTINUE), (b"{}", b'"errors"'), (b"", b"]}"))


async def test_pipelined_answers_come_whole_and_in_order(server: Running) -> None:
    asked = request(b"GET", b"/livez") + request(b"GET", b"/nothing") + request(b"GET", b"/livez")
    await talk(server, (asked, b" 200 "), (b"", b" 404 "), (b"", b" 200 "), (b"", b"\r\n\r\n"), (b"", b"}"))
