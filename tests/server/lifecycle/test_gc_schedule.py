"""Frequent operations create no reference cycles, so the garbage collector can run rarely."""

import gc
from collections import Counter
from collections.abc import Iterator
from uuid import uuid4

import pytest

from playhead.server.lifecycle.gc_schedule import SPARE_BLOCKS, GcSchedule
from tests.conftest import StoreServer
from tests.device import JSON, MSGPACK, device
from tests.rest import ok, rest
from tests.serving import Running, serving

V = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
OURS = ("playhead.", "uvicorn.", "starlette.", "httptools.", "websockets.server")


@pytest.fixture
def kept_garbage() -> Iterator[list[object]]:
    """Disable Python's own collections, and keep what only a collection could free, for inspection."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    yield gc.garbage
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


async def used(server: Running, times: int) -> None:
    """Connect, play, sync and disconnect; with some refusals and requests."""
    async with rest(server) as api:
        for n in range(times):
            user = str(uuid4())
            async with device(server, user, codec=(JSON, MSGPACK)[n % 2]) as player:
                await player.play(V, 0, 5)
                await player.send(type="sync", since=0)
                await player.until("synced")
                if n % 3 == 0:
                    await player.send(type="dance")
            ok(await api.get(f"/progress/{user}/{V}"))
            assert (await api.post("/progress/update", json={"userId": 1})).status_code == 422


async def test_connections_and_requests_leave_no_cycles(
    store_server: StoreServer, prefix: str, kept_garbage: list[object]
) -> None:
    """No object of the service, of the server or of a library is left for the collector."""
    async with serving(redis_url=store_server.url, key_prefix=prefix) as server:
        await used(server, 5)
        gc.collect()
        kept_garbage.clear()
        await used(server, 20)
        gc.collect()
        kinds = Counter(f"{type(thing).__module__}.{type(thing).__qualname__}" for thing in kept_garbage)
    assert {kind: n for kind, n in kinds.items() if kind.startswith(OURS)} == {}


def test_it_collects_only_when_memory_has_grown() -> None:
    """And it frees the garbage that there is."""
    schedule = GcSchedule()
    try:
        assert not schedule.collect_if_grown()
        for _ in range(SPARE_BLOCKS):
            ring: list[object] = []
            ring.append(ring)
        schedule._blocks = 0
        assert schedule.collect_if_grown()
        assert not schedule.collect_if_grown()
    finally:
        gc.enable()
        gc.unfreeze()
