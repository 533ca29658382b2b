"""The handshake that is judged from parsed headers: what is taken, the WebSocket library takes with the same answer.

The other way round is not promised: what is unusual is left to the library. The wire shows both: a handshake that is
taken and one that is left say the same.
"""

import asyncio

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.http11 import Request
from websockets.server import ServerProtocol

from server.handshake import accept_token, answer
from tests.conftest import StoreServer
from tests.device import JSON, PATIENCE_S
from tests.serving import serving

KEY, TOKEN = b"dGhlIHNhbXBsZSBub25jZQ==", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""RFC 6455, 1.3."""
USUAL = [
    (b"Host", b"127.0.0.1:8000"),
    (b"Upgrade", b"websocket"),
    (b"Connection", b"Upgrade"),
    (b"Sec-WebSocket-Key", KEY),
    (b"Sec-WebSocket-Version", b"13"),
    (b"Sec-WebSocket-Protocol", JSON.encode()),
]
Headers = list[tuple[bytes, bytes]]


class Parsed:
    """What uvicorn's protocol has of a request: its URL, and its headers in lower case."""

    def __init__(self, raw: bytes) -> None:
        self.url = b""
        self.headers: Headers = []
        parser = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(raw)
        except httptools.HttpParserUpgrade:
            self.good = True
        except httptools.HttpParserError:
            self.good = False
        else:
            self.good = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))


def raw(headers: Headers, url: bytes = b"/ws") -> bytes:
    lines = [name + b": " + value + b"\r\n" for name, value in headers]
    return b"GET " + url + b" HTTP/1.1\r\n" + b"".join(lines) + b"\r\n"


def library(request: bytes) -> bytes | None:
    """The library's answer: its token, or None where it refuses."""
    protocol = ServerProtocol()
    protocol.receive_data(request)
    events = protocol.events_received()
    if not events or not isinstance(events[0], Request):
        return None
    response = protocol.accept(events[0])
    return response.headers["Sec-WebSocket-Accept"].encode() if response.status_code == 101 else None


def ours(request: bytes) -> bytes | None:
    parsed = Parsed(request)
    return accept_token(parsed.url, parsed.headers) if parsed.good else None


def changed(name: bytes, *values: bytes) -> Headers:
    """The usual ones with this one given so often, with these values."""
    return [(n, v) for n, v in USUAL if n != name] + [(name, value) for value in values]


@pytest.mark.parametrize(
    "headers",
    [
        USUAL,
        [header for header in USUAL if header[0] != b"Sec-WebSocket-Protocol"],
        changed(b"Connection", b"keep-alive, Upgrade"),
        changed(b"Upgrade", b"WebSocket"),
        changed(b"Sec-WebSocket-Protocol", b"other, playhead.v1.msgpack,playhead.v1.json"),
        [*USUAL, (b"Origin", b"http://127.0.0.1:8000"), (b"Sec-WebSocket-Extensions", b"permessage-deflate")],
    ],
)
def test_what_players_and_browsers_send_is_taken(headers: Headers) -> None:
    assert ours(raw(headers)) == library(raw(headers)) == TOKEN


@pytest.mark.parametrize(
    "headers",
    [
        *(changed(name) for name in (b"Upgrade", b"Connection", b"Sec-WebSocket-Key", b"Sec-WebSocket-Version")),
        *([*USUAL, header] for header in USUAL[1:]),
        changed(b"Upgrade", b"h2c"),
        changed(b"Connection", b"close"),
        changed(b"Connection", b"Upgrade,,"),
        changed(b"Sec-WebSocket-Key", KEY[:-4]),
        changed(b"Sec-WebSocket-Key", KEY[:-3] + b"!=="),
        changed(b"Sec-WebSocket-Version", b"12"),
        changed(b"Sec-WebSocket-Protocol", b"play head"),
        changed(b"Sec-WebSocket-Protocol", b"\xe9"),
        changed(b"Origin", b"http://a.example", b"http://b.example"),
        [*USUAL, (b"Content-Length", b"5")],
        [*USUAL, (b"Transfer-Encoding", b"chunked")],
        [*USUAL, (b"X", b"a" * 8_192)],
        [*USUAL, *[(b"X", b"a")] * 128],
    ],
)
def test_what_is_unusual_is_left_to_the_library(headers: Headers) -> None:
    assert ours(raw(headers)) is None


WORDS = st.sampled_from(
    [b"", b"websocket", b"Upgrade", b"upgrade, x", b"13", b"13 ", KEY, KEY[:-1], b"a b", b",", b"a,\tb", b"\xff", b"0"]
)
NAMES = st.sampled_from([name for name, _ in USUAL] + [b"Origin", b"Content-Length", b"Cookie", b"Transfer-Encoding"])


@given(
    kept=st.lists(st.sampled_from(USUAL), max_size=8),
    more=st.lists(st.tuples(NAMES, WORDS | st.binary(max_size=20)), max_size=4),
    url=st.sampled_from([b"/ws", b"/ws?a=b", b"/w%20s", b"http://a/ws", b"*", b"/\xff"]),
)
@example(kept=USUAL, more=[], url=b"/ws")
def test_what_is_taken_the_library_takes_with_the_same_answer(kept: Headers, more: Headers, url: bytes) -> None:
    headers = [*{name: (name, value) for name, value in [*USUAL, *kept]}.values(), *more]
    for some in (headers, [*kept, *more]):
        request = raw(some, url)
        if (token := ours(request)) is not None:
            assert token == library(request)


def test_the_answer_is_one_that_a_browser_takes() -> None:
    assert answer(TOKEN, JSON, [(b"date", b"now")]) == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        + TOKEN
        + b"\r\ndate: now\r\nSec-WebSocket-Protocol: playhead.v1.json\r\n\r\n"
    )


async def answered(port: int, request: bytes) -> list[bytes]:
    """The lines of the head of an answer, sorted, but for the date and the case of names."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(PATIENCE_S):
        writer.write(request)
        lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
    writer.close()
    return sorted(line for line in lines if not line.startswith(b"date:"))


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("path", [b"/ws", b"/ws?device=tv", b"/nothing", b"/w%73"])
async def test_on_the_wire_both_ways_say_the_same(
    store_server: StoreServer, prefix: str, direct: bool, path: bytes
) -> None:
    """A Content-Length of 0 is all that sends the second to the library."""
    left = [*USUAL, (b"Content-Length", b"0")]
    assert (ours(raw(USUAL, path)), ours(raw(left, path))) == (TOKEN, None)
    async with serving(redis_url=store_server.url, key_prefix=prefix, direct=direct) as server:
        here = [(name, value.replace(b"8000", str(server.port).encode())) for name, value in USUAL]
        taken = await answered(server.port, raw(here, path))
        assert taken == await answered(server.port, raw([*here, left[-1]], path))
        assert any(line.startswith(b"http/1.1 403" if path == b"/nothing" else b"http/1.1 101") for line in taken)
