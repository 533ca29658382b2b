"""Invalid REST requests on a real socket: each gets a problem that names the field, and has no effect on anyone."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import pytest_asyncio
import redis.asyncio

from tests.conftest import StoreServer
from tests.device import PATIENCE_S
from tests.rest import dump, ok, refused, rest
from tests.server import bad_values as bad
from tests.serving import Running, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

U, V = "0f8fad5b-d9cb-469f-a165-70867728950e", "7c9e6679-7425-40de-944b-e07fc1f90ae7"
ITEM = {"videoId": V, "watchedDuration": 600, "lastWatched": "2024-05-01T10:00:00Z"}
BODY = {"userId": U, **ITEM}
SYNC = {"userId": U, "progressData": [ITEM]}
ENVELOPE = {"userId": U, "session": "s", "heartbeats": [{"seq": 1, "videoId": V, "played": [[0, 9]], "position": 9}]}
VIDEO = {"title": "Sets", "duration": 90}
GOOD = {**BODY, "watchedDuration": 60, "lastWatched": "2024-05-01T10:00:00.000Z"}
JSON_TYPE = "application/json"


@dataclass(frozen=True)
class Target:
    """An endpoint with a body, and a valid body for it."""

    method: str
    path: str
    body: dict[str, Any]

    def __str__(self) -> str:
        return "envelope" if self.body is ENVELOPE else self.path.split("/")[-1 if self.method == "POST" else 1]


UPDATE, REALTIME = Target("POST", "/progress/update", BODY), Target("POST", "/progress/realtime", BODY)
SYNCED, BEACON = Target("POST", "/progress/sync", SYNC), Target("POST", "/progress/realtime", ENVELOPE)
CATALOGUE = Target("PUT", f"/videos/{V}", VIDEO)
TARGETS = [UPDATE, SYNCED, REALTIME, BEACON, CATALOGUE]

FIELDS: list[tuple[Target, str, list[str]]] = [
    *[
        (target, name, values)
        for target in (UPDATE, REALTIME)
        for name, values in (
            ("userId", bad.IDS),
            ("videoId", bad.IDS),
            ("watchedDuration", bad.WHOLE_SECONDS),
            ("lastWatched", bad.INSTANTS),
        )
    ],
    (SYNCED, "userId", bad.IDS),
    (SYNCED, "progressData", ["null", "{}", '"[]"', "1", "true", "NaN"]),
    (SYNCED, "progressData/0", ["null", "[]", '"x"', "1", "true", "NaN"]),
    (SYNCED, "progressData/0/videoId", bad.IDS),
    (SYNCED, "progressData/0/watchedDuration", bad.WHOLE_SECONDS),
    (SYNCED, "progressData/0/lastWatched", bad.INSTANTS),
    (BEACON, "userId", bad.IDS),
    (BEACON, "session", bad.SESSIONS),
    (BEACON, "heartbeats", ["null", "{}", "[]", '"[]"', "1", "true", "NaN"]),
    (BEACON, "heartbeats/0", ["null", "[]", '"x"', "1", "true", "NaN"]),
    (BEACON, "heartbeats/0/seq", bad.SEQS),
    (CATALOGUE, "title", bad.TITLES),
    (CATALOGUE, "duration", ["null", *bad.SECONDS]),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(store_server: StoreServer) -> AsyncIterator[Running]:
    """One server that receives all invalid requests; it must serve after the last as before the first."""
    async with serving(redis_url=store_server.url, key_prefix="bad-rest", flush_interval_s=0.02) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(server: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with rest(server) as client:
        ok(await client.put(f"/videos/{V}", json=VIDEO))
        ok(await client.post("/progress/update", json=GOOD))
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def store(store_server: StoreServer) -> AsyncIterator["redis.asyncio.Redis"]:
    async with redis.asyncio.Redis.from_url(store_server.url) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def unharmed(
    server: Running, api: httpx.AsyncClient, store: "redis.asyncio.Redis", caplog: pytest.LogCaptureFixture
) -> AsyncIterator[None]:
    """Check after each test that the store is unchanged, a valid request is served, and no internal error occurred."""
    before = await dump(store, server.settings.key_prefix)
    assert before, "there is data to damage"
    yield
    assert await dump(store, server.settings.key_prefix) == before
    assert ok(await api.post("/progress/update", json=GOOD)) == GOOD
    assert ok(await api.get(f"/progress/{U}/{V}")) == GOOD
    wrong = [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR or r.exc_info]
    assert wrong == []


async def send(api: httpx.AsyncClient, target: Target, content: Any, media_type: str | None = JSON_TYPE) -> Any:
    headers = {} if media_type is None else {"content-type": media_type}
    return await api.request(target.method, target.path, content=content, headers=headers)


def with_value(body: dict[str, Any], pointer: str, text: str) -> bytes:
    """The body as JSON, with `text` at the pointer."""
    tree = json.loads(json.dumps(body))
    *steps, last = [int(step) if step.isdigit() else step for step in pointer.split("/")]
    at = tree
    for step in steps:
        at = at[step]
    at[last] = "@here@"
    return json.dumps(tree).replace('"@here@"', text).encode()


def short(value: Any) -> str:
    """The name of a value in the id of a test."""
    text = str(value)
    return text if len(text) < 40 else f"{text[:20]}…{len(text)}"


# Fields


@pytest.mark.parametrize(("target", "pointer", "values"), FIELDS, ids=short)
async def test_an_invalid_value_is_422_with_a_pointer_to_it(
    api: httpx.AsyncClient, target: Target, pointer: str, values: list[str]
) -> None:
    """Wrong type, range or form: one error, which names the field. Nothing is repaired silently."""
    for text in values:
        response = await send(api, target, with_value(target.body, pointer, text))
        assert response.status_code == 422, f"{pointer} = {text[:60]}: {response.status_code} {response.text[:200]}"
        problem = refused(response, "invalid", f"/{pointer}")
        assert len(problem["detail"]) < 300, "the value is not repeated"


MISSING = [
    *[(target, name) for target in TARGETS for name in target.body if (target, name) != (BEACON, "heartbeats")],
    *[(SYNCED, f"progressData/0/{name}") for name in ITEM],
    (BEACON, "heartbeats/0/seq"),
]


@pytest.mark.parametrize(("target", "pointer"), MISSING, ids=short)
async def test_a_missing_field_is_422_with_a_pointer_to_it(
    api: httpx.AsyncClient, target: Target, pointer: str
) -> None:
    """Every documented field is required. A name in another case is another name."""
    tree = json.loads(json.dumps(target.body))
    *steps, last = pointer.split("/")
    at = tree
    for step in steps:
        at = at[int(step) if step.isdigit() else step]
    value = at.pop(last)
    refused(await send(api, target, json.dumps(tree)), "invalid", f"/{pointer}")
    at[last.upper()] = value
    refused(await send(api, target, json.dumps(tree)), "invalid", f"/{pointer}")


async def test_every_invalid_field_is_named(api: httpx.AsyncClient) -> None:
    """One response names all fields; if there are very many, the first twenty."""
    names = ("/videoId", "/watchedDuration", "/lastWatched", "/userId")
    refused(await api.post("/progress/update", json={}), "invalid", *names)
    refused(await api.post("/progress/realtime", json={}), "invalid", *names)
    items = [ITEM, {**ITEM, "videoId": "x"}, ITEM, {**ITEM, "watchedDuration": -1}]
    response = await api.post("/progress/sync", json={"userId": U, "progressData": items})
    refused(response, "invalid", "/progressData/1/videoId", "/progressData/3/watchedDuration")
    response = await api.post("/progress/sync", json={"userId": U, "progressData": [{}] * 1_000})
    assert len(response.json()["errors"]) == 20
    assert response.status_code == 422


async def test_more_items_than_permitted_are_422(api: httpx.AsyncClient) -> None:
    """1,001 records in a sync, 501 heartbeats in an envelope: none of them is stored."""
    response = await api.post("/progress/sync", json={"userId": U, "progressData": [ITEM] * 1_001})
    refused(response, "invalid", "/progressData")
    beats = [{"seq": n + 1, "videoId": V, "played": [[0, 5]]} for n in range(501)]
    response = await api.post("/progress/realtime", json={**ENVELOPE, "heartbeats": beats})
    refused(response, "invalid", "/heartbeats")


async def test_one_invalid_item_refuses_the_whole_sync(api: httpx.AsyncClient) -> None:
    """A sync is valid as a whole, or nothing of it is stored (the store is compared after each test)."""
    items = [ITEM] * 999 + [{**ITEM, "watchedDuration": "600"}]
    response = await api.post("/progress/sync", json={"userId": U, "progressData": items})
    refused(response, "invalid", "/progressData/999/watchedDuration")


# Heartbeats in an envelope


@pytest.mark.parametrize(("name", "values"), bad.HEARTBEAT_FIELDS, ids=short)
async def test_an_invalid_field_in_a_heartbeat_is_rejected_by_its_seq(
    api: httpx.AsyncClient, name: str, values: list[str]
) -> None:
    """The envelope is accepted. The ack says which heartbeat will never be stored, and why, by field."""
    heartbeat = {"seq": 1, "videoId": V, "position": 5, "played": [[0, 5]], "duration": 90}
    beats = b",".join(with_value({**heartbeat, "seq": n + 1}, name, text) for n, text in enumerate(values))
    content = b'{"userId": "%s", "session": "s", "heartbeats": [%s]}' % (U.encode(), beats)
    (ack,) = ok(await send(api, BEACON, content))["acks"]
    assert (ack["session"], ack["seq"]) == ("s", len(values))
    rejected = {rejection["seq"]: rejection for rejection in ack["rejected"]}
    for n, text in enumerate(values):
        assert n + 1 in rejected, f"{name} = {text[:60]} was taken"
        assert rejected[n + 1]["code"] == "invalid"
        assert f"/{name}" in rejected[n + 1]["detail"]
        assert len(rejected[n + 1]["detail"]) < 2_000


@pytest.mark.parametrize("text", [value for value in bad.SESSIONS if value != "null"], ids=short)
async def test_a_heartbeat_without_a_valid_session_is_422(api: httpx.AsyncClient, text: str) -> None:
    """No ack could refer to it, so the whole envelope is refused, with the pointer."""
    content = with_value(
        {**ENVELOPE, "heartbeats": [*ENVELOPE["heartbeats"], {"seq": 2, "videoId": V}]}, "heartbeats/1/session", text
    )
    refused(await send(api, BEACON, content), "invalid", "/heartbeats/1/session")


async def test_too_many_sessions_are_429(api: httpx.AsyncClient) -> None:
    """At most 64 sessions may wait for their ack. An envelope with more has no effect."""
    for beat in ({"played": [[0, 5]]}, {"position": -1}):
        beats = [{"seq": 1, "videoId": V, "session": f"s{n}", **beat} for n in range(65)]
        refused(await api.post("/progress/realtime", json={**ENVELOPE, "heartbeats": beats}), "too_many_sessions")


# Paths and queries

BAD_PATH_IDS = [
    "x",
    "%20",
    "%00",
    "%ff",
    "..%20",
    "null",
    U[:-1],
    U + "0",
    U + "%20",
    f"%7B{U}%7D",
    f"urn:uuid:{U}",
    U.replace("-", ""),
    "g" + U[1:],
    "%EF%BC%90" + U[1:],
    "a" * 5_000,
]
PATHS = [
    ("GET", "/progress/{bad}", "userId"),
    ("GET", f"/progress/{{bad}}/{V}", "userId"),
    ("GET", f"/progress/{U}/{{bad}}", "videoId"),
    ("DELETE", f"/progress/{{bad}}/{V}", "userId"),
    ("DELETE", f"/progress/{U}/{{bad}}", "videoId"),
    ("GET", "/progress/summary/{bad}", "videoId"),
    ("GET", "/progress/engagement/{bad}", "userId"),
    ("GET", "/videos/{bad}", "videoId"),
    ("PUT", "/videos/{bad}", "videoId"),
    ("GET", "/analytics/videos/{bad}", "videoId"),
]


@pytest.mark.parametrize(("method", "path", "name"), PATHS)
async def test_an_invalid_id_in_the_path_is_422_by_name(
    api: httpx.AsyncClient, method: str, path: str, name: str
) -> None:
    """The pointer names the path's parameter."""
    for value in BAD_PATH_IDS:
        response = await api.request(method, path.replace("{bad}", value), json=VIDEO if method == "PUT" else None)
        assert response.status_code == 422, value
        refused(response, "invalid", f"/{name}", where="path")


@pytest.mark.parametrize(("method", "path", "name"), PATHS)
async def test_an_id_with_a_newline_is_invalid(api: httpx.AsyncClient, method: str, path: str, name: str) -> None:
    """A regular expression that ends in $ accepts one at the end, and `.` matches none; neither may let it pass."""
    for value in ("%0a", U + "%0a", "%0a" + U):
        response = await api.request(method, path.replace("{bad}", value), json=VIDEO if method == "PUT" else None)
        if response.status_code == 404:
            refused(response, "not_found")
        else:
            refused(response, "invalid", f"/{name}", where="path")


@pytest.mark.parametrize(
    ("path", "name", "values"),
    [
        (
            f"/progress/{U}",
            "since",
            ["", "-1", "+1", "1.0", "1e3", "x", "%20", "%31x", "9007199254740992", "9" * 5_000],
        ),
        (f"/progress/{U}", "since", ["%EF%BC%91", "0x1", "1_000", "null", "NaN", "%ff", "1%0a"]),
        (f"/progress/{U}", "detail", ["", "FULL", "more", "full%20", "true", "%00"]),
        (f"/progress/{U}/{V}", "detail", ["", "FULL", "more"]),
        (f"/progress/engagement/{U}", "limit", ["", "0", "-1", "101", "1.5", "x", "9" * 5_000]),
    ],
)
async def test_an_invalid_query_parameter_is_422_by_name(
    api: httpx.AsyncClient, path: str, name: str, values: list[str]
) -> None:
    for value in values:
        refused(await api.get(f"{path}?{name}={value}"), "invalid", f"/{name}", where="query")


@pytest.mark.parametrize("target", [UPDATE, SYNCED, REALTIME], ids=str)
async def test_an_invalid_detail_refuses_the_whole_request(api: httpx.AsyncClient, target: Target) -> None:
    """A request is refused before it takes effect, not after."""
    response = await api.request(target.method, f"{target.path}?detail=some", json=target.body)
    refused(response, "invalid", "/detail", where="query")


# Bodies


@pytest.mark.parametrize("target", TARGETS, ids=str)
async def test_invalid_json_is_400(api: httpx.AsyncClient, target: Target) -> None:
    """So is JSON with a duplicate key, whose meaning is ambiguous."""
    for name, content in bad.NOT_JSON.items():
        response = await send(api, target, content)
        assert response.status_code == 400, f"{name}: {response.status_code}"
        assert len(refused(response, "not_json")["detail"]) < 300


@pytest.mark.parametrize("target", TARGETS, ids=str)
async def test_json_other_than_an_object_is_422(api: httpx.AsyncClient, target: Target) -> None:
    """The pointer is the empty one, which is the whole document."""
    for content in bad.NO_OBJECT:
        refused(await send(api, target, content), "invalid", "")


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize(
    "media_type",
    [
        None,
        "",
        "text/html",
        "text/plain",
        "text/json",
        "application/jsonp",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "json",
        "*/*",
        "application/msgpack",
        "application/json, text/plain",
    ],
)
async def test_another_content_type_is_415(api: httpx.AsyncClient, target: Target, media_type: str | None) -> None:
    """Pages of other origins can send only these types without a preflight.

    Only realtime accepts a beacon's text/plain.
    """
    if target.path == "/progress/realtime" and media_type == "text/plain":
        refused(await send(api, target, b"{", media_type), "not_json")
    else:
        refused(await send(api, target, json.dumps(target.body), media_type), "media_type")


# Sizes and deadlines


@pytest.mark.parametrize("target", TARGETS, ids=str)
async def test_a_body_over_the_limit_is_413(api: httpx.AsyncClient, target: Target) -> None:
    """2 MiB, with a Content-Length or in chunks; also if the first MiB alone would be valid."""
    big = json.dumps(target.body).encode() + b" " * 2_097_152

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(big), 65_536):
            yield big[start : start + 65_536]

    refused(await send(api, target, big), "too_large")
    refused(await send(api, target, chunks()), "too_large")


async def test_a_body_of_exactly_the_limit_is_read(server: Running, api: httpx.AsyncClient) -> None:
    """The limit is inclusive."""
    good = json.dumps(GOOD).encode()
    limit = server.settings.max_body_bytes
    assert ok(await send(api, UPDATE, good + b" " * (limit - len(good)))) == GOOD
    refused(await send(api, UPDATE, good + b" " * (limit - len(good) + 1)), "too_large")


def request(headers: str, body: bytes = b"", target: str = "POST /progress/update") -> bytes:
    return f"{target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{headers}\r\n".encode() + body


async def exchange(server: Running, data: bytes, end: bool = False) -> bytes:
    """Send raw bytes, and return what the server sends until it closes or has answered once."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        async with asyncio.timeout(PATIENCE_S):
            writer.write(data)
            await writer.drain()
            if end:
                writer.write_eof()
            head = b""
            while b"\r\n\r\n" not in head and (chunk := await reader.read(4_096)):
                head += chunk
            return head
    finally:
        writer.close()


BODY_BYTES = json.dumps(BODY).encode()
UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
RAW = [
    ("a length that lies short", request("Content-Length: 10\r\n", BODY_BYTES), b"400"),
    ("a negative length", request("Content-Length: -5\r\n", BODY_BYTES), b"400"),
    ("a length that is no number", request("Content-Length: ten\r\n", BODY_BYTES), b"400"),
    ("two lengths", request("Content-Length: 5\r\nContent-Length: 200\r\n", BODY_BYTES), b"400"),
    ("a length and chunks", request("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", BODY_BYTES), b"400"),
    ("chunks that are none", request("Transfer-Encoding: chunked\r\n", b"zz\r\n" + BODY_BYTES), b"400"),
    ("no length at all", request("", BODY_BYTES), b"400"),
    ("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
    ("a method that nobody knows", request("", target="BREW /progress/update"), b"400"),
    ("a path that is not ASCII", request("", target="GET /progress/\xff"), b"400"),
    ("a Host that is no host", b"GET /nope HTTP/1.1\r\nHost: [\r\n\r\n", b"403"),
    ("no Host", b"GET /nope HTTP/1.1\r\n\r\n", b"404"),
    (
        "a content type of raw bytes",
        b"POST /progress/sync HTTP/1.1\r\nHost: localhost\r\nContent-Type: \xff\r\n\r\n",
        b"415",
    ),
    ("a length that lies long", request(f"Content-Length: {2**40}\r\n", BODY_BYTES + b" " * 1_048_577), b"413"),
    ("a WebSocket on a path that is none", request(UPGRADE, target="GET /nope"), b"404"),
    ("a WebSocket by POST", request(UPGRADE, target="POST /ws"), b"405"),
    ("a WebSocket without a key", request("Upgrade: websocket\r\nConnection: Upgrade\r\n", target="GET /ws"), b"426"),
]


@pytest.mark.parametrize(("name", "data", "status"), RAW, ids=[name for name, *_ in RAW])
async def test_invalid_http_is_refused(server: Running, name: str, data: bytes, status: bytes) -> None:
    """Requests that no HTTP client sends are refused by the transport."""
    answer = await exchange(server, data)
    assert answer.startswith(b"HTTP/1.1 " + status), answer


async def test_a_body_that_ends_early_stores_nothing(server: Running) -> None:
    """The connection is closed in the middle of the body, which then has no effect."""
    data = request(f"Content-Length: {len(BODY_BYTES) + 1}\r\n", BODY_BYTES)
    assert not (await exchange(server, data, end=True)).startswith(b"HTTP/1.1 2")


@pytest.mark.parametrize("target", TARGETS, ids=str)
async def test_a_body_that_never_ends_is_408(store_server: StoreServer, prefix: str, target: Target) -> None:
    """Also one that trickles in: the deadline is for the whole body."""
    body = json.dumps(target.body).encode()
    head = f"{target.method} {target.path}"
    async with serving(redis_url=store_server.url, key_prefix=prefix, body_timeout_s=0.1) as impatient:
        answer = await exchange(impatient, request(f"Content-Length: {len(body) + 1}\r\n", body, head))
        assert answer.startswith(b"HTTP/1.1 408"), answer
        answer = await exchange(impatient, request("Transfer-Encoding: chunked\r\n", b"1\r\n{\r\n", head))
        assert answer.startswith(b"HTTP/1.1 408"), answer
        assert b"application/problem+json" in answer
