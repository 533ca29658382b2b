"""Query parameters and content encodings are used or refused, never ignored."""

import gzip
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio

from tests.conftest import StoreServer
from tests.rest import ok, refused, rest
from tests.serving import serving

pytestmark = [
    pytest.mark.parametrize("store_server", ["valkey"], indirect=True),  # independent of the store
    pytest.mark.asyncio(loop_scope="module"),
]

U, V = "0b6f1f8e-0f1d-4a8e-9d65-3f5a5b1c2d3e", "5b1f0c1e-9d3a-4c57-8a44-2f6d7f3e9b10"  # the same in each test process
ITEM = {"videoId": V, "watchedDuration": 600, "lastWatched": "2024-05-01T10:00:00Z"}
BODY = {"userId": U, **ITEM}
ENVELOPE = {"userId": U, "session": "s", "heartbeats": [{"seq": 1, "videoId": V, "played": [[0, 9]], "position": 9}]}
BODIES: list[tuple[str, str, Any]] = [
    ("POST", "/progress/update", BODY),
    ("POST", "/progress/sync", {"userId": U, "progressData": [ITEM]}),
    ("POST", "/progress/realtime", BODY),
    ("POST", "/progress/realtime", ENVELOPE),
    ("PUT", f"/videos/{V}", {"title": "Sets", "duration": 900}),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(store_server: StoreServer) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(redis_url=store_server.url, key_prefix=f"t{uuid4().hex}") as server, rest(server) as client:
        yield client


READS = [
    (f"/progress/{U}", ["detail=full", "since=0", "epoch=x"]),
    (f"/progress/{U}/{V}", ["detail=full"]),
    (f"/progress/engagement/{U}", ["limit=5"]),
    (f"/progress/summary/{V}", []),
    (f"/videos/{V}", []),
    (f"/analytics/videos/{V}", []),
]
OPERATIONS = [
    *(("GET", path, known, None) for path, known in READS),
    *((*target[:2], ["detail=full"], target[2]) for target in BODIES[:3]),
    (*BODIES[4][:2], [], BODIES[4][2]),
    ("DELETE", f"/progress/{U}/{V}", [], None),
    ("DELETE", f"/sessions/{U}", [], None),
]


@pytest.mark.parametrize(("method", "path", "known", "body"), OPERATIONS, ids=[f"{m} {p}" for m, p, *_ in OPERATIONS])
async def test_an_unknown_query_parameter_is_422_by_name(
    api: httpx.AsyncClient, method: str, path: str, known: list[str], body: Any
) -> None:
    """The request has no effect.

    A known parameter given twice is refused too; one that begins with `_` is for caches.
    """
    user = str(uuid4())  # a video of its own, because deletions last
    path, body = path.replace(U, user), json.loads(json.dumps(body).replace(U, user))
    ok(await api.post("/progress/update", json={**BODY, "userId": user}))
    query = "&".join([*known, "_=1764000000000", "_=2", "_dc=x"])
    for unknown, *names in (
        ("completed=true", "/completed"),
        ("completed=true&Detail=full", "/completed", "/Detail"),
        ("before=2024-01-01", "/before"),
        ("a~b/c=1", "/a~0b~1c"),
        ("=1", "/"),
        ("%00=1", "/\0"),
        ("%ff%c3%a9=1", "/\ufffdé"),
        ("x" * 100 + "=1", "/" + "x" * 64),
        ("detail[]=full", "/detail[]"),
        ("&".join(f"x{n}=1" for n in range(30)), *(f"/x{n}" for n in range(10))),
        *((f"{one}&{one}", f"/{one.partition('=')[0]}") for one in known),
    ):
        url = f"{path}?{unknown}" if unknown.partition("&")[0] in known else f"{path}?{query}&{unknown}"
        refused(await api.request(method, url, json=body), "invalid", *names, where="query")
    assert ok(await api.get(f"/progress/{user}/{V}"))["watchedDuration"] == 600
    answered = await api.request(method, f"{path}?{query}", json=body)
    assert answered.status_code in (200, 404), answered.text


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/", "/client/playhead.js", "/metrics"])
async def test_files_and_health_checks_ignore_parameters(api: httpx.AsyncClient, path: str) -> None:
    """Browsers, probes and caches add their own."""
    assert (await api.get(f"{path}?v=3&completed=true&v=4")).status_code == 200


@pytest.mark.parametrize(("method", "path", "body"), BODIES)
@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "zstd", "x-gzip", "GZIP", "identity, gzip", "nothing"])
async def test_an_encoded_body_is_415(api: httpx.AsyncClient, method: str, path: str, body: Any, coding: str) -> None:
    """The body is not read, whether it is really encoded or not.

    The response says what is supported (RFC 9110, 15.5.16).
    """
    for content in (gzip.compress(json.dumps(body).encode()), json.dumps(body).encode()):
        headers = {"Content-Type": "application/json", "Content-Encoding": coding}
        response = await api.request(method, path, content=content, headers=headers)
        assert "Content-Encoding" in refused(response, "media_type")["detail"]
        assert response.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(("method", "path", "body"), BODIES)
async def test_a_body_with_the_encoding_identity_is_read(
    api: httpx.AsyncClient, method: str, path: str, body: Any
) -> None:
    for coding in ("identity", "Identity", "", "identity, identity"):
        headers = {"Content-Type": "application/json", "Content-Encoding": coding}
        content = json.dumps(body).encode()
        ok(await api.request(method, path, content=content, headers=headers))
