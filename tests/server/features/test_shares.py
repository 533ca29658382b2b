"""The shares of one learner: reports that wait during an outage of the store, and request bodies."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from playhead.storage.embedded.valkey import EmbeddedValkey
from tests.conftest import StoreServer
from tests.device import PATIENCE_S, device
from tests.rest import ok, rest, scraped
from tests.security.attacker import Attacker, head, status
from tests.security.callers import bearer, guarded
from tests.security.issuer import token
from tests.serving import Running, serving

V = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
ROOM = 100
SHARE = ROOM // 4
KIB = 1_024

# Reports during an outage of the store


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(tmp_path, fsync=False) as running:
        yield running


@contextlib.asynccontextmanager
async def outage(valkey: EmbeddedValkey, api: httpx.AsyncClient) -> AsyncIterator[None]:
    """Pause the store during the block. Both lanes have a batch on its way, so later reports wait behind it."""
    assert valkey.pid is not None
    os.kill(valkey.pid, signal.SIGSTOP)
    requests = [asyncio.create_task(update(api, str(uuid4()), path)) for path in ("update", "realtime")]
    try:
        await reads(api, "playhead_retries_total{commit-requests}", 1)
        await reads(api, "playhead_retries_total{commit-heartbeats}", 1)
        yield
    finally:
        os.kill(valkey.pid, signal.SIGCONT)
        await asyncio.gather(*requests)


async def reads(api: httpx.AsyncClient, name: str, at_least: float) -> None:
    """Wait until a metric has at least this value."""
    async with asyncio.timeout(PATIENCE_S):
        while (await scraped(api))[name] < at_least:  # noqa: ASYNC110 no event tells
            await asyncio.sleep(0.01)


def report(user: str, video: str = V) -> dict[str, Any]:
    return {"userId": user, "videoId": video, "watchedDuration": 5, "lastWatched": "2024-05-01T10:00:00Z"}


async def update(api: httpx.AsyncClient, user: str, path: str = "update") -> httpx.Response:
    return await api.post(f"/progress/{path}", json=report(user))


async def test_one_learner_does_not_fill_the_shared_memory(valkey: EmbeddedValkey) -> None:
    """Eight sockets of one learner report at once: those over the share are asked to retry.

    The others stay, and everything is acked after the outage.
    """
    eager, users = str(uuid4()), [str(uuid4()) for _ in range(10)]
    settings: dict[str, Any] = {"redis_url": valkey.url, "store_timeout_s": 0.3, "max_pending_reports": ROOM}
    async with serving(**settings) as server, rest(server) as api, AsyncExitStack() as stack:
        others = [await stack.enter_async_context(device(server, user)) for user in users]
        crowd = [await stack.enter_async_context(device(server, eager)) for _ in range(8)]
        async with outage(valkey, api):
            for one in crowd:
                with contextlib.suppress(ConnectionClosed):
                    for _ in range(SHARE + 1):
                        await one.beat(str(uuid4()), played=[[0, 1]], position=1, state="playing")
                said = await one.until("goodbye")
                assert (said["code"], said["retryAfter"] > 0) == ("unavailable", True)
            assert (await scraped(api))["playhead_pending_reports{heartbeats}"] == SHARE
            for other in others:
                for _ in range(3):
                    await other.beat(str(uuid4()), played=[[0, 1]], position=1, state="playing")
                await other.send(type="ping")
                await other.until("pong")
        for other in others:
            assert (await other.acked())["rejected"] == []
        async with device(server, eager) as again:
            assert len(again.records) == SHARE, "what was accepted is stored"
            assert (await again.play(V, 0, 1))["rejected"] == []


@pytest.mark.parametrize("path", ["sync", "realtime"])
async def test_requests_of_one_learner_do_not_fill_the_shared_memory(valkey: EmbeddedValkey, path: str) -> None:
    """On either lane: 503 with a retry delay, and no effect. Requests of others wait for the store."""
    eager, other = str(uuid4()), str(uuid4())
    settings: dict[str, Any] = {"redis_url": valkey.url, "store_timeout_s": 0.3, "max_pending_reports": ROOM}
    bodies: dict[str, dict[str, Any]] = {
        "sync": {"userId": eager, "progressData": [{**report(eager, str(uuid4()))} for _ in range(SHARE)]},
        "realtime": {
            "userId": eager,
            "session": "page",
            "heartbeats": [{"seq": n + 1, "videoId": str(uuid4()), "played": [[0, 1]]} for n in range(SHARE)],
        },
    }
    for item in bodies["sync"]["progressData"]:
        del item["userId"]
    async with serving(**settings) as server, rest(server) as api:
        async with outage(valkey, api):
            waiting = asyncio.create_task(api.post(f"/progress/{path}", json=bodies[path]))
            lane = {"sync": "requests", "realtime": "heartbeats"}[path]
            await reads(api, f"playhead_pending_reports{{{lane}}}", SHARE)
            for _ in range(10):
                refused = await update(api, eager, {"sync": "update", "realtime": "realtime"}[path])
                assert (refused.status_code, int(refused.headers["retry-after"]) > 0) == (503, True)
            patient = asyncio.create_task(update(api, other, {"sync": "update", "realtime": "realtime"}[path]))
            await reads(api, f"playhead_pending_reports{{{lane}}}", SHARE + 1)
        ok(await waiting)
        ok(await patient)
        ok(await update(api, eager))


JUNK = [n + 0.5 for n in range(50_000)]
"""A block of memory for each, once they are read."""


@pytest.mark.parametrize("envelope", [True, False], ids=["envelope", "documented-body"])
async def test_no_body_stays_in_memory_while_its_request_waits_for_the_store(
    valkey: EmbeddedValkey, envelope: bool
) -> None:
    """A parsed body takes many times its size, and a learner may have many requests waiting."""
    users = [str(uuid4()) for _ in range(8)]
    async with serving(redis_url=valkey.url, store_timeout_s=0.3) as server, rest(server) as api:
        async with outage(valkey, api):
            before = sys.getallocatedblocks()
            waiting = []
            for user in users:
                beat = {"seq": 1, "videoId": V, "played": [[0, 1]], "junk": JUNK}
                body = {"userId": user, "session": "page", "heartbeats": [beat]} if envelope else report(user)
                waiting.append(asyncio.create_task(api.post("/progress/realtime", json={**body, "junk": JUNK})))
            await reads(api, "playhead_pending_reports{heartbeats}", len(users))
            grown = sys.getallocatedblocks() - before
            assert grown < 2 * len(JUNK), "not even those of two bodies"
        for request in waiting:
            ok(await request)


# Request bodies


def sync(user: str, size: int) -> bytes:
    """A sync with a body of this size."""
    body = json.dumps({"userId": user, "progressData": []}).encode()
    return body + b" " * (size - len(body))


def beacon(user: str, size: int) -> bytes:
    """The same as a beacon, with its token inside."""
    beat = {"seq": 1, "videoId": V, "position": 1}
    body = json.dumps({"userId": user, "session": uuid4().hex, "heartbeats": [beat], "token": token(user)}).encode()
    return body + b" " * (size - len(body))


async def half(server: Running, user: str | None, size: int, sent: int) -> Attacker:
    """A request that declares `size` bytes, of which `sent` are sent; without a user, one whose token is in the unsent
    part."""
    attacker = await Attacker.connect(server.port)
    path = "/progress/sync" if user is not None else "/progress/realtime"
    lines = [f"Authorization: Bearer {token(user)}"] if user is not None else []
    await attacker.send(
        head("POST", path, "Content-Type: application/json", f"Content-Length: {size}", *lines) + b" " * sent
    )
    return attacker


async def posted(api: httpx.AsyncClient, user: str, size: int) -> httpx.Response:
    headers = {"Content-Type": "application/json", **bearer(token(user))}
    return await api.post("/progress/sync", content=sync(user, size), headers=headers)


async def answers(crowd: list[Attacker], at_least: int) -> list[bytes]:
    """The answers to the first of them that are answered."""
    asking = [asyncio.create_task(attacker.until(b"}")) for attacker in crowd]
    try:
        answered: list[bytes] = []
        for answer in asyncio.as_completed(asking):
            answered.append(await answer)
            if len(answered) == at_least:
                break
        return answered
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


async def test_half_bodies_of_one_learner_are_bounded_and_affect_nobody_else(
    store_server: StoreServer, prefix: str
) -> None:
    """Of 150 requests, those that fit into the learner's share are awaited; the others are refused at once."""
    eager = str(uuid4())
    async with guarded(store_server, prefix, body_timeout_s=100) as server, rest(server) as api:
        crowd = [await half(server, eager, 1_024 * KIB, 512 * KIB) for _ in range(150)]
        answered = await answers(crowd, 150 - 4)
        assert {status(answer) for answer in answered} == {429}
        assert all(b"retry-after: " in answer.lower() for answer in answered)
        refused = await posted(api, eager, 1_024 * KIB)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) > 0
        ok(await posted(api, str(uuid4()), 900 * KIB))
        for attacker in crowd:
            attacker.reset()
        async with asyncio.timeout(PATIENCE_S):
            while (await posted(api, eager, 1_024 * KIB)).status_code != 200:  # noqa: ASYNC110 no event tells
                await asyncio.sleep(0.02)


async def test_half_bodies_of_strangers_lock_out_no_beacon(store_server: StoreServer, prefix: str) -> None:
    """The sender is unknown until a body is read. At the limit of an address, the body that began first is refused."""
    room = {"max_body_bytes": 128 * KIB, "max_arriving_bytes_per_address": 256 * KIB, "body_timeout_s": 100}
    async with guarded(store_server, prefix, **room) as server, rest(server) as api:
        crowd = [await half(server, None, 64 * KIB, 60 * KIB) for _ in range(20)]
        answered = await answers(crowd, 16)
        assert {status(answer) for answer in answered} == {503}
        assert all(b"retry-after: " in answer.lower() for answer in answered)
        for _ in range(3):
            user = str(uuid4())
            body = beacon(user, 60 * KIB)
            ok(await api.post("/progress/realtime", content=body, headers={"Content-Type": "text/plain"}))
        for attacker in crowd:
            attacker.close()


async def test_bodies_of_many_learners_are_bounded_in_total(store_server: StoreServer, prefix: str) -> None:
    """The body that began first is refused, so half bodies lock out no complete one."""
    room = {"max_arriving_bytes": 1_024 * KIB, "body_timeout_s": 100}
    async with guarded(store_server, prefix, **room) as server, rest(server) as api:
        crowd = [await half(server, str(uuid4()), 512 * KIB, 256 * KIB) for _ in range(12)]
        assert {status(answer) for answer in await answers(crowd, 8)} == {503}
        for _ in range(3):
            ok(await posted(api, str(uuid4()), 900 * KIB))
        for attacker in crowd:
            attacker.close()


ENDS: dict[str, tuple[bytes, int, int]] = {
    "whole": (sync("7d1a0e7c-0b1f-4b7e-9f6e-3f0a52a4c001", 600 * KIB), 600 * KIB, 200),
    "not-json": (b" " * 600 * KIB, 600 * KIB, 400),
    "not-valid": (b"[]" + b" " * (600 * KIB - 2), 600 * KIB, 422),
    "too-slow": (b" " * 600 * KIB, 700 * KIB, 408),
}


@pytest.mark.parametrize(("body", "size", "code"), ENDS.values(), ids=ENDS)
async def test_the_memory_of_a_body_is_released_however_it_ends(
    store_server: StoreServer, prefix: str, body: bytes, size: int, code: int
) -> None:
    user = "7d1a0e7c-0b1f-4b7e-9f6e-3f0a52a4c001"
    room = {"max_body_bytes": 800 * KIB, "max_arriving_bytes_per_user": 800 * KIB, "body_timeout_s": 0.5}
    async with guarded(store_server, prefix, **room) as server, rest(server) as api:
        for _ in range(3):
            attacker = await half(server, user, size, 0)
            await attacker.send(body)
            assert status(await attacker.until(b"}")) == code
            attacker.close()
        refused = await api.post(
            "/progress/sync", content=endless(), headers={"Content-Type": "application/json", **bearer(token(user))}
        )
        assert refused.status_code == 413
        ok(await posted(api, user, 800 * KIB))


async def endless() -> AsyncIterator[bytes]:
    """A chunked body that is slightly larger than the limit."""
    for _ in range(9):
        yield b" " * 100 * KIB
