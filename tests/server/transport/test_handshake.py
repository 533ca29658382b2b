"""Our check of handshakes accepts what the WebSocket library accepts, with the same response, and nothing else.

Our own rules are the path and the exact bytes on the wire.
"""

import asyncio

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.http11 import Request
from websockets.server import ServerProtocol

from playhead.server.transport.handshake import accept_token, answer, tokens
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
    """The URL of a request and its headers in lower case, as uvicorn has them."""

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
    """The token in the library's response, or None if it refuses."""
    protocol = ServerProtocol()
    protocol.receive_data(request)
    events = protocol.events_received()
    if not events or not isinstance(events[0], Request):
        return None
    response = protocol.accept(events[0])
    return response.headers["Sec-WebSocket-Accept"].encode() if response.status_code == 101 else None


def ours(request: bytes) -> bytes | None:
    parsed = Parsed(request)
    return accept_token("/ws", parsed.headers) if parsed.good else None


def changed(name: bytes, *values: bytes) -> Headers:
    """The usual headers, with this one repeated for each of these values."""
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
        [*USUAL, (b"Content-Length", b"0")],  # some proxies add it
        changed(b"Connection", b"Upgrade,,"),
        changed(b"Connection", b"keep-alive", b"Upgrade"),
        changed(b"Connection", b"keep-alive,\tupgrade"),
        changed(b"Sec-WebSocket-Protocol", b"other", b"playhead.v1.json"),
    ],
)
def test_handshakes_of_players_and_browsers_are_accepted(headers: Headers) -> None:
    """A list may have several lines (RFC 9110, 5.3)."""
    assert ours(raw(headers)) == library(raw(headers)) == TOKEN


@pytest.mark.parametrize(
    "headers",
    [
        changed(b"Connection", b"", b"Upgrade"),  # empty elements of a list are ignored (RFC 9110, 5.6.1)
        changed(b"Origin", b"http://a.example", b"http://b.example"),  # checked by server/security/gate.py
    ],
)
def test_handshakes_that_we_accept_and_the_library_refuses(headers: Headers) -> None:
    assert (ours(raw(headers)), library(raw(headers))) == (TOKEN, None)


REFUSED = [
    *(changed(name) for name in (b"Upgrade", b"Connection", b"Sec-WebSocket-Key", b"Sec-WebSocket-Version")),
    *([*USUAL, header] for header in (USUAL[1], *USUAL[3:5])),
    changed(b"Upgrade", b"h2c"),
    changed(b"Upgrade", b"websocket, h2c"),
    changed(b"Connection", b"close"),
    changed(b"Connection", b"Upgrade, a b"),
    changed(b"Sec-WebSocket-Key", KEY[:-4]),
    changed(b"Sec-WebSocket-Key", KEY[:-3] + b"!=="),
    changed(b"Sec-WebSocket-Version", b"12"),
    changed(b"Sec-WebSocket-Protocol", b"play head"),
    changed(b"Sec-WebSocket-Protocol", b"\xe9"),
    [*USUAL, (b"Content-Length", b"5")],
    [*USUAL, (b"Transfer-Encoding", b"chunked")],
]


@pytest.mark.parametrize("headers", REFUSED)
def test_other_requests_are_not_accepted(headers: Headers) -> None:
    assert ours(raw(headers)) is library(raw(headers)) is None


@pytest.mark.parametrize("path", ["", "/", "/w", "/ws/", "/WS", "//ws", "/progress/update"])
def test_a_handshake_for_another_path_is_not_accepted(path: str) -> None:
    assert accept_token(path, Parsed(raw(USUAL)).headers) is None


WORDS = st.sampled_from(
    [b"", b"websocket", b"Upgrade", b"upgrade, x", b"13", b"13 ", KEY, KEY[:-1], b"a b", b",", b"a,\tb", b"\xff", b"0"]
)
NAMES = st.sampled_from([name for name, _ in USUAL] + [b"Origin", b"Cookie", b"Transfer-Encoding"])


@given(
    kept=st.lists(st.sampled_from(USUAL), max_size=8),
    more=st.lists(st.tuples(NAMES, WORDS | st.binary(max_size=20)), max_size=4),
)
@example(kept=USUAL, more=[])
def test_the_library_accepts_the_same_with_the_same_response(kept: Headers, more: Headers) -> None:
    """Everything that it accepts; and what we accept, in its plainest form."""
    headers = [*{name: (name, value) for name, value in [*USUAL, *kept]}.values(), *more]
    for some in (headers, [*kept, *more]):
        request = raw(some)
        if (token := library(request)) is not None:
            assert ours(request) == token
        if (token := ours(request)) is not None:
            assert library(raw(plain(Parsed(request).headers))) == token


def plain(headers: Headers) -> Headers:
    lists = {name: b", ".join(tokens(headers, name)) for name in (b"connection", b"sec-websocket-protocol")}
    rest = [(name, value) for name, value in headers if name not in (*lists, b"origin")]
    return [*rest, *((name, value) for name, value in lists.items() if value)]


def test_a_browser_accepts_the_response() -> None:
    assert answer(TOKEN, JSON, [(b"date", b"now")]) == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        + TOKEN
        + b"\r\ndate: now\r\nSec-WebSocket-Protocol: playhead.v1.json\r\n\r\n"
    )


async def answered(port: int, request: bytes) -> list[bytes]:
    """The sorted lines of a response head, without the date, names in lower case."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(PATIENCE_S):
        writer.write(request)
        lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
    writer.close()
    return sorted(line for line in lines if not line.startswith(b"date:"))


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize(("target", "status"), [("/ws", 101), ("/ws?a=b", 101), ("/w%73", 101), ("http://a/ws", 101)])
async def test_which_paths_are_the_websocket(
    store_server: StoreServer, prefix: str, direct: bool, target: str, status: int
) -> None:
    """Percent-encoded, with a query, and as an absolute URL (RFC 9112, 3.2.2)."""
    async with serving(redis_url=store_server.url, key_prefix=prefix, direct=direct) as server:
        here = [(name, value.replace(b"8000", str(server.port).encode())) for name, value in USUAL]
        taken = await answered(server.port, raw(here, target.encode()))
        assert b"http/1.1 %d switching protocols" % status in taken
        assert b"sec-websocket-accept: " + TOKEN.lower() in taken


@pytest.mark.parametrize(
    ("path", "status"), [(b"/nothing", 404), (b"/livez", 200), (b"/ws/", 404), (b"/progress/update", 405)]
)
async def test_a_handshake_for_another_path_is_an_ordinary_request(
    store_server: StoreServer, prefix: str, path: bytes, status: int
) -> None:
    async with serving(redis_url=store_server.url, key_prefix=prefix) as server:
        here = [(name, value.replace(b"8000", str(server.port).encode())) for name, value in USUAL]
        assert any(line.startswith(b"http/1.1 %d " % status) for line in await answered(server.port, raw(here, path)))
