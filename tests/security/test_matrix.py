"""Permissions: one table of every operation and every kind of caller, and no operation outside the table."""

import json
import re
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio
import redis.asyncio as redis
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from websockets.exceptions import ConnectionClosed

from playhead.protocol.connection import TRANSITIONS
from playhead.protocol.scalars import format_instant
from playhead.server.app import create_app
from playhead.server.clock import system_clock
from playhead.server.rest.pages import pages
from tests.conftest import StoreServer
from tests.rest import dump, rest
from tests.security.callers import bearer, close_code, guarded, next_message, say_hello, socket
from tests.security.issuer import token
from tests.serving import Running

pytestmark = [
    pytest.mark.parametrize("store_server", ["valkey"], indirect=True),  # nothing here depends on the store
    pytest.mark.asyncio(loop_scope="module"),  # so that the rows share a server
]

LEARNER, PEER, TEACHER = (f"0d9ff3b2-52a3-4f2e-8d5d-9b8c5a5e0{n:03}" for n in range(1, 4))
TOKENS: dict[str, str | None] = {
    "anonymous": None,
    "own": token(LEARNER),
    "other's": token(PEER),
    "service": token("a service", scope="progress:any"),
    "analytics": token(TEACHER, scope="analytics"),
}
"""The tokens of the callers. Every operation concerns LEARNER."""

TABLE = """
                                                anonymous   own         other's     service     analytics
POST   /progress/update                         401         200         403         200         403
POST   /progress/sync                           401         200         403         200         403
POST   /progress/realtime                       401         200         403         200         403
POST   /progress/realtime  envelope             401         200         403         200         403
POST   /progress/realtime  beacon               401         200         403         200         403
GET    /progress/{userId}                       401         200         403         200         403
GET    /progress/{userId}  since                401         200         403         200         403
GET    /progress/{userId}/{videoId}             401         200         403         200         403
DELETE /progress/{userId}/{videoId}             401         200         403         200         403
GET    /progress/engagement/{userId}            401         200         403         200         403
GET    /progress/summary/{videoId}              401         200         200         200         200
GET    /videos/{videoId}                        401         200         200         200         200
PUT    /videos/{videoId}                        401         403         403         200         403
GET    /analytics/videos/{videoId}              401         403         403         403         200
DELETE /sessions/{userId}                       401         403         403         200         403
GET    /livez                                   200         200         200         200         200
GET    /readyz                                  200         200         200         200         200
GET    /ws                                      426         426         426         426         426
GET    /metrics                                 401         403         403         403         200
WS     /ws                 hello                4500        welcome     4503        welcome     4503
WS     /ws                 heartbeat            4500        ack         4503        ack         4503
WS     /ws                 sync                 4500        progress    4503        progress    4503
WS     /ws                 auth                 4500        authorized  4503        authorized  4503
WS     /ws                 ping                 4500        pong        4503        pong        4503
WS     /ws                 heartbeat first      4008        4008        4008        4008        4008
WS     /ws                 sync first           4008        4008        4008        4008        4008
WS     /ws                 auth first           4008        4008        4008        4008        4008
WS     /ws                 ping first           4008        4008        4008        4008        4008
"""
"""Each operation and its result by caller: a status, a close code, or the type of the message that answers.

A WebSocket message is sent after a hello for LEARNER; where the cell is 4500 or 4503, the hello was refused. "First"
means that the message is sent instead of the hello.
"""


@dataclass(frozen=True, slots=True)
class Row:
    method: str
    path: str
    kind: str
    expected: dict[str, str]

    @property
    def name(self) -> str:
        return f"{self.method} {self.path} {self.kind}".strip()


def rows() -> list[Row]:
    head, *lines = [re.split(r" {2,}", line.strip()) for line in TABLE.strip("\n").splitlines()]
    found = []
    for line in lines:
        operation, cells = line[: -len(head)], line[-len(head) :]
        method, path = operation[0].split() if " " in operation[0] else operation[:2]
        kind = operation[-1] if operation[-1] not in (path, operation[0]) else ""
        found.append(Row(method, path, kind, dict(zip(head, cells, strict=True))))
    # The pages and the SDK are public files.
    found += [Row("GET", route.path, "", dict.fromkeys(head, "200")) for route in pages()]
    return found


ROWS = rows()
OF_A_LEARNER = [row for row in ROWS if "403" in row.expected["other's"]]


@dataclass
class Scene:
    server: Running
    store: redis.Redis
    prefix: str

    async def stored(self) -> dict[bytes, bytes]:
        return await dump(self.store, self.prefix)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(store_server: StoreServer) -> AsyncIterator[Scene]:
    prefix = f"t{uuid4().hex}"
    async with guarded(store_server, prefix) as server, redis.Redis.from_url(store_server.url) as store:
        yield Scene(server, store, prefix)


async def prepared(api: httpx.AsyncClient) -> str:
    """Put a video into the catalogue and let LEARNER watch it."""
    video = str(uuid4())
    headers = bearer(TOKENS["service"] or "")
    body = {"userId": LEARNER, "videoId": video, "watchedDuration": 30, "lastWatched": "2026-01-01T10:00:00Z"}
    assert (await api.post("/progress/update", json=body, headers=headers)).status_code == 200
    assert (await api.put(f"/videos/{video}", json={"title": "Sets", "duration": 90}, headers=headers)).is_success
    return video


async def request(api: httpx.AsyncClient, row: Row, made: str | None, user: str, video: str) -> httpx.Response:
    """Send the request of a row."""
    headers = bearer(made) if made is not None else {}
    path = row.path.replace("{userId}", user).replace("{videoId}", video)
    now = format_instant(system_clock().wall)
    item = {"videoId": video, "watchedDuration": 60, "lastWatched": now}
    envelope = {
        "userId": user,
        "session": uuid4().hex,
        "heartbeats": [{"seq": 1, "videoId": video, "played": [[0, 5]]}],
    }
    bodies: dict[str, Any] = {
        "POST /progress/update": {"userId": user, **item},
        "POST /progress/sync": {"userId": user, "progressData": [item]},
        "POST /progress/realtime": {"userId": user, **item},
        "POST /progress/realtime envelope": envelope,
        "PUT /videos/{videoId}": {"title": "Maps", "duration": 91},
    }
    if row.kind == "beacon":
        inside = envelope | ({"token": made} if made is not None else {})
        return await api.post(path, content=json.dumps(inside), headers={"Content-Type": "text/plain"})
    if row.kind == "since":
        path += "?since=0"
    return await api.request(row.method, path, json=bodies.get(row.name), headers=headers)


MESSAGES: dict[str, dict[str, Any]] = {
    "heartbeat": {"type": "heartbeat", "seq": 1, "played": [[0, 5]], "position": 5},
    "sync": {"type": "sync", "since": 0},
    "auth": {"type": "auth"},
    "ping": {"type": "ping"},
}


async def send_message(server: Running, kind: str, made: str | None, video: str) -> str:
    """The type of the message that answers, or the close code."""
    name, _, first = kind.partition(" ")
    message = MESSAGES.get(name, {})
    message = message | ({"videoId": video} if name == "heartbeat" else {})
    message = message | ({"token": made or "none"} if name == "auth" else {})
    async with socket(server) as opened:
        try:
            if not first:
                answer = await say_hello(opened, made, userId=LEARNER)
                if answer["type"] != "welcome":
                    return str(await close_code(opened))
                if not message:
                    return "welcome"
                while (await next_message(opened))["type"] != "synced":
                    pass
            await opened.send(json.dumps(message))
            answer = await next_message(opened)
            return str(await close_code(opened)) if answer["type"] == "error" else str(answer["type"])
        except ConnectionClosed:
            return str(await close_code(opened))


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
async def test_each_caller_may_do_what_the_table_says(scene: Scene, row: Row) -> None:
    """A refusal leaves the store unchanged."""
    found = {}
    async with rest(scene.server) as api:
        for caller, made in TOKENS.items():
            video = await prepared(api)
            before = await scene.stored()
            if row.method == "WS":
                found[caller] = await send_message(scene.server, row.kind, made, video)
            else:
                response = await request(api, row, made, LEARNER, video)
                found[caller] = str(response.status_code)
                if response.status_code in (401, 403):
                    code = response.json()["type"].rpartition(":")[2]
                    assert code == {401: "unauthorized", 403: "forbidden"}[response.status_code]
                if row.method == "GET":
                    headers = bearer(made) if made is not None else {}
                    assert (await api.head(response.request.url.raw_path.decode(), headers=headers)).status_code == (
                        response.status_code
                    )
            if found[caller] in ("401", "403", "4500", "4503", "4008"):
                assert await scene.stored() == before, caller
    assert found == row.expected


@pytest.mark.parametrize("row", OF_A_LEARNER, ids=[row.name for row in OF_A_LEARNER])
async def test_a_refusal_does_not_reveal_whether_data_exists(scene: Scene, row: Row) -> None:
    """The answers for a learner with a record, an unknown learner and any video are equal, byte for byte."""
    async with rest(scene.server) as api:
        video = await prepared(api)
        answers = []
        for user, asked in (
            (LEARNER, video),
            (LEARNER, str(uuid4())),
            (str(uuid4()), video),
            (str(uuid4()), str(uuid4())),
        ):
            response = await request(api, row, TOKENS["other's"], user, asked)
            headers = {name: value for name, value in response.headers.items() if name != "date"}
            answers.append((response.status_code, response.text, headers))
        assert answers[0][0] == 403
        assert all(answer == answers[0] for answer in answers)


def paths(routes: Iterable[BaseRoute], before: str = "") -> Iterable[str]:
    """Every operation of the app, as the table names it; fails on an unknown kind of route."""
    for route in routes:
        if isinstance(route, Mount):
            assert route.routes, f"the routes below {route.path} cannot be listed"
            yield from paths(route.routes, before + route.path)
        elif isinstance(route, WebSocketRoute):
            yield f"WS {before}{route.path}"
        else:
            assert isinstance(route, Route)
            assert route.methods, f"{route.path} answers every method"
            for method in route.methods - {"HEAD"}:
                yield f"{method} {before}{re.sub(r':[a-z]+}', '}', route.path)}"


async def test_the_table_has_every_route_of_the_app_and_no_other(scene: Scene) -> None:
    """A new endpoint needs a row."""
    app = create_app(scene.server.settings)
    async with app.router.lifespan_context(app):
        assert set(paths(app.routes)) == {f"{row.method} {row.path}" for row in ROWS}


async def test_the_table_has_every_message_of_a_client(scene: Scene) -> None:
    """A new message needs a row, too."""
    messages = {kind.model_fields["type"].default for after in TRANSITIONS.values() for kind in after}
    assert messages == {row.kind for row in ROWS if row.method == "WS" and "first" not in row.kind}
