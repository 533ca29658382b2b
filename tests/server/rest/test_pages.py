"""The security headers of responses, and what the service's own pages may load."""

import asyncio
import re
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from playhead.server.rest.pages import CLIENT, PLAYER
from playhead.server.settings import Settings
from tests.conftest import StoreServer
from tests.rest import rest
from tests.security.callers import USER, VIDEO, bearer, guarded
from tests.security.issuer import SECRET, token
from tests.serving import Running, serving

pytestmark = pytest.mark.parametrize("store_server", ["valkey"], indirect=True)
"""Nothing here depends on which it is."""

NOTHING = "default-src 'none'; frame-ancestors 'none'"


def policy(answer: httpx.Response) -> dict[str, list[str]]:
    directives = (directive.split() for directive in answer.headers["content-security-policy"].split(";"))
    return {name: values for name, *values in directives}


def is_safe(answer: httpx.Response, csp: str = NOTHING, corp: str = "same-origin") -> None:
    """Each security header is present once and has the expected value."""
    expected = {
        "x-content-type-options": "nosniff",
        "content-security-policy": csp,
        "referrer-policy": "same-origin",
        "cross-origin-resource-policy": corp,
    }
    for name, value in expected.items():
        assert answer.headers.get_list(name) == [value], (answer.request.url, name)


async def test_every_response_has_security_headers(store_server: StoreServer, prefix: str) -> None:
    """Including Starlette's own responses, and refusals before a route is found."""
    async with guarded(store_server, prefix) as server, rest(server) as api:
        good = bearer(token(USER, scope="analytics progress:any"))
        statuses = set()
        for method, path, headers in (
            ("GET", "/livez", {}),
            ("GET", "/readyz", {}),
            ("GET", "/metrics", good),
            ("GET", f"/progress/{USER}", good),
            ("GET", f"/progress/{USER}", {}),
            ("GET", f"/progress/{USER}/{VIDEO}", good),
            ("GET", "/progress/x", good),
            ("POST", "/progress/update", good),
            ("PATCH", "/progress/update", good),
            ("GET", "/nowhere", {}),
            ("GET", "/livez", {"Origin": "https://evil.example"}),
            ("GET", f"/livez?token={SECRET}", {}),
        ):
            answer = await api.request(method, path, headers=headers)
            is_safe(answer)
            statuses.add(answer.status_code)
        assert statuses == {200, 401, 403, 404, 405, 415, 422}


async def test_internal_errors_and_invalid_requests_have_security_headers(
    store_server: StoreServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr("playhead.server.rest.health.HealthEndpoints.live", broken)
    async with serving(redis_url=store_server.url, key_prefix=prefix) as server, rest(server) as api:
        answer = await api.get("/livez")
        assert answer.status_code == 500
        is_safe(answer)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"nonsense\r\n\r\n")
        head = (await reader.read()).partition(b"\r\n\r\n")[0].decode()
        writer.close()
        assert head.startswith("HTTP/1.1 400 ")
        assert f"content-security-policy: {NOTHING}" in head
        assert "x-content-type-options: nosniff" in head


async def test_the_sdk_may_be_loaded_from_any_origin_but_only_as_its_own_type(server: Running) -> None:
    async with rest(server) as api:
        files = [file.relative_to(CLIENT).as_posix() for file in (*CLIENT.rglob("*.js"), *CLIENT.rglob("*.d.ts"))]
        assert "playhead.js" in files
        for file in files:
            answer = await api.get(f"/client/{file}")
            assert answer.status_code == 200
            is_safe(answer, corp="cross-origin")
            assert answer.headers["content-type"].split(";")[0] == (
                "text/plain" if file.endswith(".ts") else "text/javascript"
            )


async def test_pages_may_load_the_services_own_files_and_nothing_inline(server: Running) -> None:
    async with rest(server) as api:
        for file in PLAYER.glob("*.*"):
            answer = await api.get("/" if file.name == "index.html" else f"/{file.name}")
            assert answer.status_code == 200
            corp = "cross-origin" if file.name == "numbered.webm" else "same-origin"
            is_safe(answer, csp=answer.headers["content-security-policy"], corp=corp)
            directives = policy(answer)
            assert directives["default-src"] == ["'none'"]
            assert directives["script-src"] == directives["style-src"] == directives["connect-src"] == ["'self'"]
            assert directives["base-uri"] == directives["form-action"] == directives["frame-ancestors"] == ["'none'"]
            assert "unsafe" not in answer.headers["content-security-policy"]


FROM_ELSEWHERE = re.compile(r"\s*(javascript:|https?:|//)")


class Inline(HTMLParser):
    """Finds the parts of a page that its policy forbids."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "style" or (tag == "script" and not given.get("src")):
            self.found.append(tag)
        self.found += [f"{tag} {name}" for name in given if name == "style" or name.startswith("on")]
        self.found += [
            f"{tag} {value}" for value in given.values() if re.match(r"\s*(javascript:|https?:|//)", value or "")
        ]


async def test_pages_have_nothing_inline(store_server: StoreServer) -> None:
    """The browser would silently drop what the policy forbids."""
    found = Inline()
    found.feed("<style></style><p style=x onclick=y><script>z</script><a href='javascript:1'></a>")
    assert len(found.found) == 5
    for file in PLAYER.glob("*.html"):
        page = Inline()
        page.feed(file.read_text())
        assert page.found == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", ["'none'"]),
        ("self", ["'self'"]),
        ("self, https://Academy.example:443", ["'self'", "https://academy.example"]),
    ],
)
async def test_the_pages_that_may_frame_the_player_are_a_setting(
    store_server: StoreServer, prefix: str, given: str, said: list[str]
) -> None:
    settings: dict[str, Any] = {"redis_url": store_server.url, "key_prefix": prefix, "frame_ancestors": given}
    async with serving(**settings) as server, rest(server) as api:
        assert policy(await api.get("/"))["frame-ancestors"] == said
        assert policy(await api.get("/livez"))["frame-ancestors"] == ["'none'"]


@pytest.mark.parametrize("given", ["*", "https:", "academy.example", "https://a.example/path", "'none'; script-src *"])
async def test_a_frame_ancestor_is_an_origin(store_server: StoreServer, given: str) -> None:
    with pytest.raises(ValidationError, match="frame_ancestors"):
        Settings(frame_ancestors=given)


@pytest.mark.parametrize(
    ("settings", "served"),
    [
        ({}, True),
        ({"demo": "false"}, False),
        ({"trusted_proxies": "127.0.0.1"}, False),
        ({"trusted_proxies": "127.0.0.1", "demo": "true"}, True),
    ],
)
async def test_the_demo_is_served_on_loopback_or_by_the_setting(
    store_server: StoreServer, prefix: str, settings: dict[str, Any], served: bool
) -> None:
    """The SDK is always served."""
    async with serving(redis_url=store_server.url, key_prefix=prefix, **settings) as server, rest(server) as api:
        for path in ("/", "/player.js", "/wire.html", "/numbered.webm"):
            assert (await api.get(path)).status_code == (200 if served else 404)
        assert (await api.get("/client/playhead.js")).status_code == 200


async def test_a_public_address_serves_no_demo(store_server: StoreServer) -> None:
    others: dict[str, Any] = {"jwt_secret": SECRET, "allowed_origins": "https://academy.example"}
    assert not Settings(host="0.0.0.0", **others).serves_demo
    assert Settings(host="0.0.0.0", demo=True, **others).serves_demo
    assert Settings(host="::1").serves_demo


async def test_health_and_metrics_are_not_cached(server: Running) -> None:
    async with rest(server) as api:
        for path in ("/livez", "/readyz", "/metrics"):
            assert (await api.get(path)).headers["cache-control"] == "no-store"
