"""One HTTP request, with all sorts of answers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from playhead.client import exchange as module
from playhead.client.credentials import Credentials, subject
from playhead.client.exchange import exchange
from tests.security.issuer import token


@asynccontextmanager
async def answering(data: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that answers each request with these bytes and closes; yields the request heads."""
    heads: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(data)
        writer.close()

    listener = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with listener:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}", heads


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-Y: z\r\n\r\nbody",
        b"HTTP/1.1 200 OK\r\nX-Y: z\r\n\r\nbody",
        b"HTTP/1.1 200 OK\r\nX-Y: z\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nbod\r\n1\r\ny\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX-Y: z\r\nContent-Length: 4\r\n\r\nbody",
    ],
    ids=["length", "until-the-end", "chunked", "continued"],
)
async def test_every_framing_of_an_answer(data: bytes) -> None:
    """Status, headers and body are read, however a server frames them; the request has one Host and one length."""
    async with answering(data) as (url, heads):
        answer = await exchange("GET", f"{url}/a%20path?since=1", {"Accept": "application/json"})
    assert (answer.status, answer.headers["x-y"], answer.body) == (200, "z", b"body")
    lines = heads[0].decode().split("\r\n")
    assert lines[0] == "GET /a%20path?since=1 HTTP/1.1"
    assert f"Host: {url.removeprefix('http://')}" in lines
    assert {"Connection: close", "Content-Length: 0", "Accept: application/json"} <= set(lines)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbody",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2_000,
    ],
    ids=["nothing", "another-protocol", "half", "bad-chunk", "too-much"],
)
async def test_invalid_answers(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """They raise OSError like a lost connection, so that the request is retried."""
    monkeypatch.setattr(module, "MAX_ANSWER_BYTES", 1_000)
    async with answering(data) as (url, _):
        with pytest.raises(OSError):  # noqa: PT011 whatever it says
            await exchange("GET", url, {})


@pytest.mark.parametrize("bad", ["", "two words", "line\r\nX-Injected: 1", "ümlaut"])
def test_a_token_cannot_inject_headers(bad: str) -> None:
    """Whatever a login returns goes into one header or raises."""
    with pytest.raises(ValueError, match="printable"):
        Credentials(bad, None).headers(bad)


@pytest.mark.parametrize(
    ("given", "user"),
    [(token("somebody"), "somebody"), ("opaque", None), ("a.b.c", None), ("a.e30.c", None), ("a.W10.c", None)],
)
def test_the_subject_of_a_token(given: str, user: str | None) -> None:
    """It is read without verification; None if there is none."""
    assert subject(given) == user
