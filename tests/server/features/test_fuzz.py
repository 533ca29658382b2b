"""Seeded mutations of valid bodies and frames: every answer is a documented one."""

import copy
import json
import logging
import random
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import msgpack
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from tests.conftest import StoreServer
from tests.device import JSON, MSGPACK, device
from tests.rest import TITLES, ok, refused, rest
from tests.serving import Running, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

SEEDS = range(2)
MUTATIONS = 40
U, V = "0f8fad5b-d9cb-469f-a165-70867728950e", "7c9e6679-7425-40de-944b-e07fc1f90ae7"
ITEM = {"videoId": V, "watchedDuration": 600, "lastWatched": "2024-05-01T10:00:00Z"}
HEARTBEAT = {
    "type": "heartbeat",
    "seq": 1,
    "videoId": V,
    "position": 9.5,
    "played": [[0, 5], [6, 9.5]],
    "duration": 90,
    "age": 1_000,
    "span": 5_000,
    "seek": False,
    "state": "playing",
    "session": "s",
    "watchedDuration": 9,
    "lastWatched": "2024-05-01T10:00:00Z",
}
BODIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "update": ("POST", "/progress/update", {"userId": U, **ITEM}),
    "sync": ("POST", "/progress/sync", {"userId": U, "progressData": [ITEM, ITEM]}),
    "realtime": ("POST", "/progress/realtime", {"userId": U, **ITEM}),
    "envelope": ("POST", "/progress/realtime", {"userId": U, "session": "s", "heartbeats": [HEARTBEAT] * 2}),
    "catalogue": ("PUT", f"/videos/{V}", {"title": "Sets", "duration": 90}),
}
ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    2**53,
    10**30,
    1e308,
    5e-324,
    float("nan"),
    float("inf"),
    "",
    "\x00",
    "\u2028é集",
    U,
    "9" * 300,
    "2024-05-01",
    [],
    [[0, 1]],
    [[]],
    {},
    {"type": "ping"},
    [[[[[[[[]]]]]]]],
]
SNIPPETS = [b"-", b"0", b"e9", b".5", b'"', b"[", b"}", b",", b"null", b"\\u0000", b"\\ud800", b"\xff", b"NaN", b"\xc1"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(store_server: StoreServer) -> AsyncIterator[Running]:
    async with serving(redis_url=store_server.url, key_prefix=f"t{uuid4().hex}", flush_interval_s=0.01) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(server: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with rest(server) as client:
        yield client


@pytest.fixture(autouse=True)
def nothing_went_wrong(caplog: pytest.LogCaptureFixture) -> Any:
    """Check that the log has no error and no traceback."""
    yield
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR or r.exc_info] == []


def places(tree: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value in a tree."""
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [found for key, value in inside for found in [(tree, key), *places(value)]]


def with_other_values(dice: random.Random, message: dict[str, Any]) -> dict[str, Any]:
    """The tree with one to three values replaced, dropped, renamed or wrapped."""
    tree: dict[str, Any] = json.loads(json.dumps(message))
    for _ in range(dice.randint(1, 3)):
        container, key = dice.choice(places(tree) or [(tree, "x")])
        kind = dice.randrange(5)
        if kind == 0 and key in tree:
            del container[key]
        elif kind == 1 and isinstance(container, dict):
            container[str(key) + dice.choice(["", " ", "_", "\x00"])] = copy.deepcopy(dice.choice(ODD))
        elif kind == 2:
            container[key] = [container.get(key) if isinstance(container, dict) else container[key]]
        else:
            container[key] = copy.deepcopy(dice.choice(ODD))
    return tree


def with_other_bytes(dice: random.Random, text: bytes) -> bytes:
    """The bytes with one to four changes: bytes or stretches replaced, cut, inserted or repeated."""
    content = bytearray(text)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(content) + 1)
        kind = dice.randrange(4)
        if kind == 0:
            content[at : at + 1] = bytes([dice.randrange(256)])
        elif kind == 1:
            del content[at : at + dice.randint(1, 8)]
        elif kind == 2:
            content[at:at] = dice.choice(SNIPPETS)
        else:
            content[at:at] = content[max(0, at - dice.randint(1, 30)) : at]
    return bytes(content)


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_mutated_body_gets_a_documented_answer(api: httpx.AsyncClient, name: str, seed: int) -> None:
    """200, or a problem with a documented status, type and pointers. The valid body is accepted afterwards."""
    method, path, body = BODIES[name]
    dice, seen = random.Random(f"{name}{seed}"), set()
    for n in range(MUTATIONS):
        text = json.dumps(with_other_values(dice, body) if n % 2 else body).encode()
        content = text if n % 2 else with_other_bytes(dice, text)
        response = await api.request(method, path, content=content, headers={"content-type": "application/json"})
        seen.add(response.status_code)
        assert response.status_code in (200, 400, 422, 429), content
        if response.status_code == 200:
            ok(response)
        else:
            problem = response.json()
            code = problem["type"].removeprefix("urn:playhead:problem:")
            assert code in TITLES
            refused(response, code, *(error["pointer"] for error in problem.get("errors", [])))
    assert {400, 422} <= seen, "the mutations reach both the reader and the models"
    ok(await api.request(method, path, json=body))


@pytest.mark.parametrize("codec", [JSON, MSGPACK])
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_mutated_frame_is_answered_or_ends_the_connection_as_documented(
    server: Running, codec: str, seed: int
) -> None:
    """An ack, an error, or 4501 or 1007 for an invalid frame. Other connections are not affected."""
    dice, codes = random.Random(f"{codec}{seed}"), set[int | None]()
    hello: dict[str, Any] = {"type": "hello", "device": "test", "session": "s", "userId": U, "since": 0, "epoch": "x"}
    async with device(server, str(uuid4()), codec=codec) as bystander:
        for n in range(MUTATIONS):
            message = dice.choice([HEARTBEAT, HEARTBEAT, hello, {"type": "sync", "since": 0}, {"type": "ping"}])
            tree = with_other_values(dice, message) if n % 2 else message
            try:
                frame = json.dumps(tree).encode() if codec == JSON else msgpack.packb(tree)
            except OverflowError:
                continue
            if not n % 2:
                frame = with_other_bytes(dice, frame)
            async with connect(server.ws, subprotocols=[Subprotocol(codec)]) as socket:
                try:
                    if message is not hello:
                        await socket.send(json.dumps(hello) if codec == JSON else msgpack.packb(hello))
                    await socket.send(frame, text=codec == JSON)
                    ping = {"type": "ping"}
                    await socket.send(json.dumps(ping) if codec == JSON else msgpack.packb(ping))
                    kinds: list[str] = []
                    while kinds[-1:] != ["pong"]:
                        answer = await socket.recv()
                        tree = json.loads(answer) if isinstance(answer, str) else msgpack.unpackb(answer)
                        kinds.append(tree["type"])
                    codes.add(None)
                    assert set(kinds) <= {"welcome", "progress", "synced", "ack", "error", "pong"}
                except ConnectionClosed:
                    assert socket.close_code in (1007, 4008, 4501), frame
                    codes.add(socket.close_code)
        assert {None, 4501} <= codes, "the mutations reach both the codec and the models"
        assert (await bystander.play(V, 0, 1))["rejected"] == []
