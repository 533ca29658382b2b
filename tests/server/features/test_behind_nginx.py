"""The service behind a real nginx: request bodies keep their limits, idle connections are not closed too early, sockets
pass."""

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from playhead.server.rest.bodies import BodyReader
from playhead.server.settings import Settings
from tests.conftest import StoreServer
from tests.device import PATIENCE_S, device
from tests.nginx import nginx
from tests.rest import ok, rest
from tests.server.features.test_upgrade import IGNORED, V, update
from tests.server.peer import head, peer, request
from tests.serving import Running, serving

pytestmark = pytest.mark.parametrize("store_server", ["valkey"], indirect=True)  # independent of the store
KEPT_S = {"nginx, to us": 60, "nginx, to its clients": 75, "Traefik": 90, "Caddy": 120}
"""How long proxies keep an idle connection by default."""
JSON_TYPE = {"Content-Type": "application/json"}


@pytest.mark.parametrize("name", ["h2c", "a WebSocket elsewhere"])
async def test_no_request_is_smuggled_past_nginx(
    store_server: StoreServer,
    prefix: str,
    tmp_path: Path,
    read_apart: list[int],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """nginx refuses DELETE.

    A DELETE in the body of a POST with an Upgrade, sent separately from its head, is not executed. The POST is answered
    once both have arrived, as a busy server would: nginx sends no body after an answer.
    """
    user, both_arrived, tree = str(uuid4()), asyncio.Event(), BodyReader.tree

    async def busy(*args: Any, **options: Any) -> Any:
        async with asyncio.timeout(PATIENCE_S):
            await both_arrived.wait()
        return await tree(*args, **options)

    async def read_more() -> None:
        before = sum(read_apart)
        async with asyncio.timeout(PATIENCE_S):
            while sum(read_apart) == before:  # noqa: ASYNC110 nothing tells of a read
                await asyncio.sleep(0.002)

    async with (
        serving(redis_url=store_server.url, key_prefix=prefix) as server,
        nginx(tmp_path, server.port) as port,
        rest(server) as api,
    ):
        proxied = Running(port, server.settings)
        ok(await api.post("/progress/update", content=update(60, user), headers=JSON_TYPE))
        async with rest(proxied) as outside:
            assert (await outside.delete(f"/progress/{user}/{V}")).status_code == 403
        start, end = request("POST", "/progress/update", *IGNORED[name], body=head("DELETE", f"/progress/{user}/{V}"))
        monkeypatch.setattr(BodyReader, "tree", busy)
        async with peer(proxied) as opened:
            for segment in (start, end):
                reading = asyncio.create_task(read_more())
                await asyncio.sleep(0)
                await opened.send(segment)
                await reading
            both_arrived.set()
            assert (await opened.answer())[0] == 400
        async with rest(proxied) as outside:
            assert ok(await outside.get(f"/progress/{user}/{V}"))["watchedDuration"] == 60


async def test_an_upgrade_keeps_its_body(store_server: StoreServer, prefix: str, tmp_path: Path) -> None:
    """With a length and in chunks, each is answered as without the Upgrade, on connections that nginx keeps."""
    async with serving(redis_url=store_server.url, key_prefix=prefix) as server, nginx(tmp_path, server.port) as port:
        user = str(uuid4())
        for n, (framing, lines) in enumerate([(f, IGNORED["h2c"]) for f in ("length", "chunks")] * 5, 1):
            async with peer(Running(port, server.settings)) as opened:
                start, end = request("POST", "/progress/update", *lines, body=update(n, user), framing=framing)
                await opened.send(start + end)
                async with asyncio.timeout(PATIENCE_S):
                    answered = await opened.reader.readuntil(b"\r\n\r\n")
                    assert answered.startswith(b"HTTP/1.1 200 ")
                    assert f'"watchedDuration":{n}'.encode() in await opened.reader.readuntil(b"}")


async def test_a_device_plays_through_nginx(store_server: StoreServer, prefix: str, tmp_path: Path) -> None:
    async with (
        serving(redis_url=store_server.url, key_prefix=prefix) as server,
        nginx(tmp_path, server.port) as port,
        device(Running(port, server.settings), str(uuid4())) as player,
    ):
        assert (await player.play(V, 0, 5))["rejected"] == []


async def test_a_connection_that_nginx_keeps_is_not_closed_by_the_service(
    store_server: StoreServer, prefix: str, tmp_path: Path
) -> None:
    """POSTs at intervals around nginx's keep-alive time, which is the shorter one: none fails."""
    kept_s, crowd = 1.0, 20
    async with (
        serving(redis_url=store_server.url, key_prefix=prefix, keep_alive_s=10 * kept_s) as server,
        nginx(tmp_path, server.port, kept=f"{kept_s:g}s") as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=PATIENCE_S) as client,
    ):

        async def posts(gap_s: float) -> list[int]:
            statuses = []
            for _ in range(3):
                body = json.loads(update(60, str(uuid4())))
                statuses.append((await client.post("/progress/update", json=body)).status_code)
                await asyncio.sleep(gap_s)
            return statuses

        gaps = [kept_s * (0.95 + 0.1 * n / crowd) for n in range(crowd)]
        assert await asyncio.gather(*map(posts, gaps)) == [[200] * 3] * crowd


async def test_an_idle_connection_is_closed_after_its_time(store_server: StoreServer, prefix: str) -> None:
    """The time is that of the setting, not uvicorn's 5 s. By default it is longer than that of any proxy."""
    assert Settings().keep_alive_s > max(KEPT_S.values())
    async with (
        serving(redis_url=store_server.url, key_prefix=prefix, keep_alive_s=0.1) as server,
        peer(server) as opened,
        asyncio.timeout(4),
    ):
        await opened.send(head("GET", "/livez"))
        assert (await opened.answer())[0] == 200
        assert await opened.rest() == b""
