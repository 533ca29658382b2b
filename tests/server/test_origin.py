"""Which pages may call the service: the Origin is checked before a handshake is answered or a body is read."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
import redis.asyncio as redis
from websockets.frames import Frame, Opcode

from playhead.server.origin import parse_origin
from tests.conftest import StoreServer
from tests.device import PATIENCE_S
from tests.rest import dump, rest
from tests.security.callers import USER, VIDEO, bearer, code_of, guarded
from tests.security.issuer import token
from tests.serving import Running, serving

pytestmark = [
    pytest.mark.parametrize("store_server", ["valkey"], indirect=True),  # independent of the store
    pytest.mark.asyncio(loop_scope="module"),  # so that many tests may share a server
]

ACADEMY = "https://academy.example"
ALLOWED = (
    ACADEMY,
    "https://app.example:8443",
    "http://localhost:3000",
    "https://xn--bcher-kva.example",
    "http://[::1]:3000",
)
UPGRADE = (
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
)
SAID = (
    ({"type": "hello", "device": "any", "session": "s", "userId": USER}, b'"synced"'),
    ({"type": "heartbeat", "seq": 1, "videoId": VIDEO, "played": [[0, 5]], "position": 5}, b'"ack"'),
)
"""The frames sent on a WebSocket, and the end of the answer to them."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(store_server: StoreServer) -> AsyncIterator[Running]:
    """A server that requires tokens and allows some origins."""
    async with guarded(store_server, f"t{uuid4().hex}", allowed_origins=ALLOWED) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def local(store_server: StoreServer) -> AsyncIterator[Running]:
    """A server that requires no tokens, as on a developer's machine."""
    settings: dict[str, Any] = {"redis_url": store_server.url, "key_prefix": f"t{uuid4().hex}"}
    async with serving(allowed_origins=ALLOWED, **settings) as running:
        yield running


async def stored(store: StoreServer, server: Running) -> dict[bytes, bytes]:
    async with redis.Redis.from_url(store.url) as client:
        return await dump(client, server.settings.key_prefix)


@contextlib.asynccontextmanager
async def sent(
    server: Running, target: str, *headers: tuple[str, str], body: bytes = b"", method: str = "GET"
) -> AsyncIterator[tuple[int, asyncio.StreamReader, asyncio.StreamWriter]]:
    """Send a request of exactly these bytes, headers as UTF-8, and return its status.

    A Host is added if none is given.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        if not any(name == "Host" for name, _ in headers):
            headers = (("Host", f"127.0.0.1:{server.port}"), *headers)
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers), "", ""]
        writer.write("\r\n".join(lines).encode() + body)
        async with asyncio.timeout(PATIENCE_S):
            head = await reader.readuntil(b"\r\n\r\n")
            yield int(head.split()[1]), reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def raw(server: Running, target: str, *headers: tuple[str, str], body: bytes = b"", method: str = "GET") -> int:
    """The status of a request."""
    async with sent(server, target, *headers, body=body, method=method) as (status, _, _):
        return status


async def handshake(server: Running, *headers: tuple[str, str], talk: bool = False) -> int:
    """The status of a WebSocket handshake. With `talk` the client continues as if it were accepted."""
    async with sent(server, "/ws", *UPGRADE, *headers) as (status, reader, writer):
        if talk:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                for message, answer in SAID:
                    frame = json.dumps(message | ({"token": token(USER)} if message["type"] == "hello" else {}))
                    writer.write(Frame(Opcode.TEXT, frame.encode()).serialize(mask=True))
                    await reader.readuntil(answer)
        return status


async def get(server: Running, *headers: tuple[str, str]) -> int:
    """The status of a REST request with a valid token."""
    return await raw(server, f"/progress/{USER}", ("Authorization", f"Bearer {token(USER)}"), *headers)


@pytest.mark.parametrize("origin", ALLOWED)
async def test_pages_of_an_allowed_origin_are_served(server: Running, origin: str) -> None:
    """By WebSocket and REST."""
    assert (await handshake(server, ("Origin", origin)), await get(server, ("Origin", origin))) == (101, 200)


async def test_same_origin_pages_and_programs_are_served(server: Running) -> None:
    """A request without an Origin comes from a program, because no page can send one."""
    own = f"127.0.0.1:{server.port}"
    for origins in ([("Origin", f"http://{own}")], []):
        assert (await handshake(server, *origins), await get(server, *origins)) == (101, 200)
    named = (("Host", "play.example:80"), ("Origin", "http://play.example"))
    assert (await handshake(server, *named), await get(server, *named)) == (101, 200)


REFUSED = {
    "null, of a sandboxed frame": ["null"],
    "another": ["https://evil.example"],
    "allowed one as a prefix": ["https://academy.example.evil.com"],
    "allowed one as a suffix": ["https://evilacademy.example"],
    "a subdomain": ["https://evil.academy.example"],
    "the domain above": ["https://example"],
    "another scheme": ["http://academy.example"],
    "a WebSocket's scheme": ["wss://academy.example"],
    "another port": ["https://academy.example:8443"],
    "the default port written out": ["https://academy.example:443"],
    "no port": ["https://app.example"],
    "a port that begins the same": ["http://localhost:30000"],
    "host in upper case": ["https://ACADEMY.example"],
    "scheme in upper case": ["HTTPS://academy.example"],
    "a dot at the end": ["https://academy.example."],
    "a slash at the end": ["https://academy.example/"],
    "a path": ["https://academy.example/evil"],
    "a query": ["https://academy.example?"],
    "a fragment": ["https://academy.example#"],
    "allowed one as a user name": ["https://academy.example@evil.example"],
    "a user name": ["https://user@academy.example"],
    "a password": ["https://user:secret@academy.example"],
    "no scheme": ["academy.example"],
    "slashes alone": ["//academy.example"],
    "Cyrillic а": ["https://аcademy.example"],
    "its punycode": ["https://xn--cademy-4fg.example"],
    "allowed punycode as Unicode": ["https://bücher.example"],
    "full stop of another script": ["https://academy。example"],
    "a percent sign": ["https://academy%2Eexample"],
    "empty": [""],
    "two in one header": [f"{ACADEMY} https://evil.example"],
    "two with a comma": [f"{ACADEMY}, https://evil.example"],
    "a space within": ["https://academy .example"],
    "a tab within": ["https://academy.\texample"],
    "two headers": [ACADEMY, "https://evil.example"],
    "two headers, evil first": ["https://evil.example", ACADEMY],
    "two headers, both allowed": [ACADEMY, ACADEMY],
    "a star": ["*"],
    "a file": ["file://"],
    "an extension": ["chrome-extension://abcdefgh"],
    "undefined": ["undefined"],
}


@pytest.mark.parametrize("name", REFUSED)
async def test_pages_of_any_other_origin_are_refused(store_server: StoreServer, server: Running, name: str) -> None:
    """403, never 101, even with a valid token, and nothing sent after the handshake is read.

    Two Origins make the handshake invalid: 400.
    """
    before = await stored(store_server, server)
    origins = [("Origin", value) for value in REFUSED[name]]
    assert await handshake(server, *origins, talk=True) in ((403,) if len(origins) == 1 else (400, 403))
    assert await get(server, *origins) == 403
    assert await stored(store_server, server) == before


async def test_a_page_on_another_port_or_name_of_this_machine_is_another_origin(server: Running) -> None:
    """Whatever else runs there. The scheme is part of the origin, and so is the host name that was used."""
    own = f"127.0.0.1:{server.port}"
    for origin in (
        f"http://127.0.0.1:{server.port % 65_535 + 1}",
        "http://127.0.0.1",
        f"https://{own}",
        f"http://localhost:{server.port}",
        f"http://{own}/",
        f"ws://{own}",
        own,
    ):
        assert (await handshake(server, ("Origin", origin)), await get(server, ("Origin", origin))) == (403, 403)
    hosts = (("Host", own), ("Host", "evil.example"))
    for more in ((), (("Origin", f"http://{own}"),), (("Origin", "http://evil.example"),)):
        assert await handshake(server, *hosts, *more) in (400, 403)
        assert await get(server, *hosts, *more) in (400, 403)


async def test_the_frames_of_refused_pages_would_be_stored_if_read(
    store_server: StoreServer, prefix: str, server: Running
) -> None:
    """Otherwise the tests above would prove nothing."""
    async with guarded(store_server, prefix, allowed_origins=ALLOWED) as other:
        before = await stored(store_server, other)
        assert await handshake(other, ("Origin", ACADEMY), talk=True) == 101
        after = await stored(store_server, other)
        assert [key for key in after.keys() - before.keys() if USER.encode() in key]


async def test_the_reply_to_a_foreign_page_says_what_to_do_and_repeats_nothing(server: Running) -> None:
    """Problem details, without the header that would let the page read them."""
    async with rest(server) as api:
        for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"):
            for path in (f"/progress/{USER}", "/progress/update", "/livez", "/", "/nothing-here"):
                response = await api.request(method, path, headers={"Origin": "https://evil.example"})
                assert response.status_code == 403
                assert not [name for name in response.headers if name.startswith("access-control")]
                if method != "HEAD":
                    assert code_of(response) == "origin"
                    assert "evil" not in response.text


async def test_a_preflight_of_an_allowed_origin_lists_what_is_permitted(server: Running) -> None:
    """The methods and headers of the contract, for ten minutes, for this origin only, without cookies."""
    for origin in ALLOWED:
        asked = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "authorization,content-type"}
        async with rest(server) as api:
            response = await api.options("/progress/update", headers={"Origin": origin, **asked})
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == origin
        methods = {method.strip() for method in response.headers["access-control-allow-methods"].split(",")}
        assert methods == {"GET", "POST", "PUT", "DELETE"}
        headers = {name.strip().lower() for name in response.headers["access-control-allow-headers"].split(",")}
        assert {"authorization", "content-type"} <= headers
        assert headers <= {"authorization", "content-type", "accept", "accept-language", "content-language"}
        assert response.headers["access-control-max-age"] == "600"
        assert "origin" in response.headers["vary"].lower()
        assert "access-control-allow-credentials" not in response.headers


@pytest.mark.parametrize(
    "asked",
    [
        {"Access-Control-Request-Method": "PATCH"},
        {"Access-Control-Request-Method": "TRACE"},
        {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "x-evil"},
    ],
    ids=["PATCH", "TRACE", "another header"],
)
async def test_a_preflight_for_more_than_the_contract_has_is_refused(server: Running, asked: dict[str, str]) -> None:
    """So the browser does not send the request."""
    async with rest(server) as api:
        assert (await api.options("/progress/update", headers={"Origin": ACADEMY, **asked})).status_code == 400


async def test_responses_can_be_read_by_allowed_pages_only(server: Running) -> None:
    """Including errors, so that a page knows the reason. Caches keep the responses apart by Origin."""
    async with rest(server) as api:
        for headers, status in ((bearer(token(USER)), 200), ({}, 401), (bearer(token("x")), 403)):
            response = await api.get(f"/progress/{USER}", headers={"Origin": ACADEMY, **headers})
            assert response.status_code == status
            assert response.headers["access-control-allow-origin"] == ACADEMY
            assert "origin" in response.headers["vary"].lower()
            assert "retry-after" in response.headers["access-control-expose-headers"].lower()
            assert "access-control-allow-credentials" not in response.headers
        response = await api.get(f"/progress/{USER}", headers=bearer(token(USER)))
        assert "access-control-allow-origin" not in response.headers


NAMES = ("localhost:{port}", "127.0.0.1:{port}", "[::1]:{port}", "LOCALHOST:{port}", "localhost", "127.0.0.1", "[::1]")
FOREIGN = (
    "evil.example:{port}",
    "evil.example",
    "localhost.evil.example:{port}",
    "127.0.0.1.evil.example:{port}",
    "evil-localhost:{port}",
    "localhost.:{port}",
    "127.1:{port}",
    "0.0.0.0:{port}",
    "0:{port}",
    "2130706433:{port}",
    "[::ffff:127.0.0.1]:{port}",
    "[::]:{port}",
    "::1",
    "localhost:{port}:1",
    "localhost:{port}@evil.example",
    "localhost@evil.example:{port}",
    "localhost, evil.example",
    "localhost/evil.example",
    "localhost evil.example",
    "[localhost]:{port}",
    "",
)


@pytest.mark.parametrize("name", NAMES)
async def test_without_tokens_the_names_of_this_machine_are_served(local: Running, name: str) -> None:
    """No other site can have these names."""
    host = ("Host", name.format(port=local.port))
    own = ("Origin", f"http://{host[1].lower()}")
    for headers in ((host,), (host, own)):
        assert (await handshake(local, *headers), await raw(local, f"/progress/{USER}", *headers)) == (101, 200)


@pytest.mark.parametrize("name", FOREIGN)
async def test_without_tokens_no_other_name_is_served(store_server: StoreServer, local: Running, name: str) -> None:
    """DNS rebinding: a page's own host name resolves to 127.0.0.1, and its requests count as same-origin."""
    host = ("Host", name.format(port=local.port))
    before = await stored(store_server, local)
    item = {"userId": USER, "videoId": VIDEO, "watchedDuration": 60, "lastWatched": "2026-01-01T10:00:00Z"}
    body = json.dumps(item).encode()
    json_type = (("Content-Type", "application/json"), ("Content-Length", str(len(body))))
    for headers in ((host,), (host, ("Origin", f"http://{host[1]}"))):
        assert await handshake(local, *headers, talk=True) in (400, 403)
        assert await raw(local, f"/progress/{USER}", *headers) in (400, 403)
        assert await raw(local, "/progress/update", *headers, *json_type, body=body, method="POST") in (400, 403)
        assert await raw(local, "/", *headers) in (400, 403)
    assert await stored(store_server, local) == before


async def test_without_tokens_allowed_origins_are_served(local: Running) -> None:
    """A page of a development server on another port."""
    assert await handshake(local, ("Origin", "http://localhost:3000")) == 101
    assert await handshake(local, ("Origin", "http://localhost:3001")) == 403
    assert await handshake(local, ("Origin", "null")) == 403


FORWARDED = (
    # X-Forwarded-Proto, Origin, status from a trusted proxy, status from others
    ("https", "https://play.example", 101, 403),
    ("https", "http://play.example", 403, 101),
    ("http", "https://play.example", 403, 403),
    ("http", "http://play.example", 101, 101),
    ("wss", "https://play.example", 101, 403),
    ("https", "https://evil.example", 403, 403),
    ("https", "https://play.example:8443", 403, 403),
    ("https, http", "https://play.example", 403, 403),
    ("HTTPS", "https://play.example", 403, 403),
    ("ftp", "https://play.example", 403, 403),
    ("", "https://play.example", 403, 403),
    (None, "https://play.example", 403, 403),
)


@pytest.mark.parametrize("trusted", [True, False], ids=["from a trusted proxy", "from another peer"])
async def test_the_scheme_that_a_proxy_saw_counts_if_the_proxy_is_trusted(
    store_server: StoreServer, prefix: str, trusted: bool
) -> None:
    """Behind TLS the service's own pages are https. Only a trusted proxy can say so."""
    settings = {"trusted_proxies": "127.0.0.1, 10.0.0.0/8"} if trusted else {"trusted_proxies": "10.0.0.0/8"}
    async with guarded(store_server, prefix, **settings) as server:
        for scheme, origin, from_proxy, from_others in FORWARDED:
            headers = [("Host", "play.example"), ("Origin", origin)]
            headers += [("X-Forwarded-Proto", scheme)] if scheme is not None else []
            expected = from_proxy if trusted else from_others
            assert await handshake(server, *headers) == expected, (scheme, origin)
            assert await get(server, *headers) == {101: 200}.get(expected, expected), (scheme, origin)
        spoofed = [("Host", "evil.example"), ("X-Forwarded-Host", "play.example"), ("Origin", "http://play.example")]
        assert await handshake(server, *spoofed) == 403, "a proxy does not change the host name"


@pytest.mark.parametrize(
    ("given", "parsed"),
    [
        ("https://academy.example", "https://academy.example"),
        ("https://academy.example:443", "https://academy.example"),
        ("http://academy.example:80", "http://academy.example"),
        ("http://academy.example:443", "http://academy.example:443"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("HTTPS://Academy.Example:8443", "https://academy.example:8443"),
        ("http://127.0.0.1:08000", "http://127.0.0.1:8000"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
    ],
)
async def test_an_origin_is_normalized_to_the_form_of_browsers(
    store_server: StoreServer, given: str, parsed: str
) -> None:
    """Lower case, no default port."""
    assert parse_origin(given) == parsed


@pytest.mark.parametrize(
    "given",
    [
        *("", "*", "null", "https://*", "https://*.academy.example", "https://", "https:///", "://academy.example"),
        *("academy.example", "//academy.example", "ws://academy.example", "ftp://academy.example", "file:///x"),
        *(
            "https://academy.example/",
            "https://academy.example/x",
            "https://academy.example?",
            "https://academy.example#",
        ),
        *("https://user@academy.example", "https://user:p@academy.example", "https://@academy.example"),
        *("https://academy.example:", "https://academy.example:x", "https://academy.example:65536", "https://a:-1"),
        *("https://a:1:2", "https://[::1", "https://::1", "https://[::1]x", "https://[]", "https://[evil]:1"),
        *(
            " https://academy.example",
            "https://academy.example ",
            "https://academy.\texample",
            "https://a\n",
            "https://a b",
        ),
        *(
            "https://a\\b",
            "https://a%2eb",
            "https://bücher.example",
            "https://аcademy.example",
            "https://a:８０",
            "https://a,b",
        ),
    ],
)
async def test_an_invalid_origin_is_refused_as_a_setting(store_server: StoreServer, given: str) -> None:
    """Otherwise it would never match, or match wrongly."""
    with pytest.raises(ValueError, match="an origin has no path"):
        parse_origin(given)
