"""Counts that show attacks to operators: responses by route and status, refusals by reason, closed WebSockets."""

import asyncio
import json
from importlib.metadata import version
from platform import python_version
from typing import Any
from uuid import uuid4

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from playhead.server.transport.counts import CODES, METHODS, REASONS, TrafficCounts
from tests.conftest import StoreServer
from tests.device import JSON, PATIENCE_S
from tests.rest import rest, scraped
from tests.security.callers import USER, VIDEO, bearer, close_code, guarded, learner, say_hello, socket
from tests.security.issuer import claims, token
from tests.serving import Running, serving

pytestmark = pytest.mark.parametrize("store_server", ["valkey"], indirect=True)
"""Nothing here depends on the store's version."""

SERVICE = bearer(token(USER, scope="analytics progress:any"))


def counts(found: dict[str, float], name: str) -> dict[str, float]:
    """Samples by their labels."""
    start = f"playhead_{name}_total{{"
    return {sample[len(start) : -1]: value for sample, value in found.items() if sample.startswith(start)}


async def counted(api: httpx.AsyncClient, name: str, **expected: float) -> dict[str, float]:
    """Wait until all of these are counted; `__` stands for a comma between labels."""
    wanted = {label.replace("__", ","): value for label, value in expected.items()}
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = counts(await scraped(api), name)
            if {label: found.get(label) for label in wanted} == wanted:
                return found
            await asyncio.sleep(0.01)


async def test_requests_are_counted_by_the_template_of_their_route(store_server: StoreServer, prefix: str) -> None:
    """Whatever ids, paths and methods peers invent."""
    async with guarded(store_server, prefix) as server, rest(server) as api:
        api.headers.update(SERVICE)
        for _ in range(20):
            await api.get(f"/progress/{uuid4()}")
            await api.get(f"/progress/{uuid4()}/{uuid4()}")
            await api.get(f"/nowhere/{uuid4()}")
            await api.request("PROPFIND", f"/progress/{uuid4()}")
            await api.request("PATCH", f"/videos/{uuid4()}")
        await api.get(f"/progress/{USER}/x")
        await api.delete(f"/sessions/{USER}")
        await api.get("/client/playhead.js")
        await api.head("/livez")
        found = counts(await scraped(api), "requests")
        assert {label: value for label, value in found.items() if value == 20} == {
            "GET,/progress/{userId},200": 20,
            "GET,/progress/{userId}/{videoId},404": 20,
            "GET,none,404": 20,
            "other,/progress/{userId},405": 20,
            "PATCH,/videos/{videoId},405": 20,
        }
        assert found["GET,/progress/{userId}/{videoId},422"] == 1
        assert found["DELETE,/sessions/{userId},200"] == 1
        assert found["GET,/client/playhead.js,200"] == 1
        assert found["HEAD,/livez,200"] == 1
        assert len(found) < 12


async def test_refusals_are_counted_by_reason(store_server: StoreServer, prefix: str) -> None:
    """On REST routes, before routing, before a request is complete, before a WebSocket is accepted, and on one."""
    expired = token(USER, exp=claims(USER)["iat"] - 60)
    async with guarded(store_server, prefix, address_requests_burst=1_000) as server, rest(server) as api:
        await api.get(f"/progress/{USER}")
        await api.get(f"/progress/{USER}", headers=bearer(expired))
        await api.get(f"/progress/{VIDEO}", headers=bearer(token(USER)))
        await api.get("/livez", headers={"Origin": "https://evil.example"})
        for raw in (b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nx: " + 40_000 * b"y" + b"\r\n\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(raw)
            await reader.read()
            writer.close()
        with pytest.raises(InvalidStatus):
            async with connect(server.ws, origin="https://evil.example", subprotocols=[JSON], proxy=None):  # type: ignore[arg-type,list-item] # names of types
                pass
        for made in ("no token", expired):
            async with socket(server) as opened:
                await say_hello(opened, made)
                await close_code(opened)
        async with learner(server, token(USER)) as player:
            await player.send(type="auth", token=expired)
            assert (await player.receive())["code"] == "token_expired"

        api.headers.update(SERVICE)
        found = await counted(api, "refusals", unauthorized__websocket=1, token_expired__websocket=2)
        assert found == {
            "unauthorized,http": 1,
            "token_expired,http": 1,
            "forbidden,http": 1,
            "origin,http": 1,
            "not_http,http": 1,
            "headers_too_large,http": 1,
            "origin,websocket": 1,
            "unauthorized,websocket": 1,
            "token_expired,websocket": 2,
        }


async def test_closed_websockets_are_counted_by_side_and_code(store_server: StoreServer, prefix: str) -> None:
    async with guarded(store_server, prefix) as server, rest(server) as api:
        api.headers.update(SERVICE)
        async with learner(server, token(USER)):
            pass  # the client closes, with 1000
        async with learner(server, token(USER)) as player:
            await player.socket.close(4_321)
        async with learner(server, token(USER)) as player:
            player.socket.transport.abort()
        async with learner(server, token(USER)) as player:
            await player.socket.send("x" * 100_000)
            assert await close_code(player.socket) == 1009
        async with learner(server, token(USER)) as player:
            await player.socket.send("not a message")
            assert await close_code(player.socket) == 4501
        async with learner(server, token(USER)) as player:
            await api.delete(f"/sessions/{USER}")
            assert await close_code(player.socket) == 4500
        expected = {
            "client__1000": 1,
            "client__other": 1,
            "network__1006": 1,
            "server__1009": 1,
            "server__4501": 1,
            "server__4500": 1,
        }
        found = await counted(api, "closes", **expected)
        assert found == {label.replace("__", ","): value for label, value in expected.items()}
        reasons = counts(await scraped(api), "refusals")
        assert (reasons["bad_frame,websocket"], reasons["ended,websocket"]) == (1, 1)


async def test_a_flood_that_is_cut_off_is_counted(store_server: StoreServer, prefix: str) -> None:
    settings: dict[str, Any] = {"frames_burst": 5, "frames_per_s": 1}
    async with serving(redis_url=store_server.url, key_prefix=prefix, **settings) as server, rest(server) as api:
        async with connect(server.ws, origin=server.http, subprotocols=[JSON], proxy=None) as flood:  # type: ignore[arg-type,list-item] # names of types
            for _ in range(40):
                await flood.ping()
            assert await close_code(flood) == 4003
        await counted(api, "closes", server__4003=1)
        await counted(api, "refusals", rate__websocket=1)


async def test_the_running_version_is_exported(server: Running) -> None:
    async with rest(server) as api:
        (build,) = [name for name in await scraped(api) if name.startswith("playhead_build_info{")]
        assert build == f"playhead_build_info{{{python_version()},{version('playhead')}}}"


async def test_a_heartbeat_is_not_counted(server: Running) -> None:
    """Heartbeats cost nothing here: no sample changes while a learner plays."""
    async with rest(server) as api, connect(server.ws, origin=server.http, subprotocols=[JSON], proxy=None) as opened:  # type: ignore[arg-type,list-item] # names of types
        assert (await say_hello(opened, userId=str(uuid4())))["type"] == "welcome"
        await scraped(api)
        before = await scraped(api)
        for seq in range(1, 20):
            await opened.send(
                json.dumps({"type": "heartbeat", "seq": seq, "videoId": VIDEO, "played": [[seq, seq + 1]]})
            )
        async with asyncio.timeout(PATIENCE_S):
            while json.loads(await opened.recv()).get("seq") != 19:
                pass
        after = await scraped(api)
    for name in ("requests", "refusals", "closes"):
        changed = {label for label, value in counts(after, name).items() if counts(before, name).get(label) != value}
        assert changed <= {"GET,/metrics,200"}


def test_labels_come_from_bounded_sets(store_server: StoreServer) -> None:
    counts = TrafficCounts()
    for code in range(1_000, 5_000):
        counts.count_close("client", code, f"reason {code}")
        counts.count_close("server", code, f"reason {code}")
    assert len(counts.closed) <= 2 * (len(CODES) + 1)
    assert not counts.refused
    assert len(METHODS) < 10
    assert "unauthorized" in REASONS
