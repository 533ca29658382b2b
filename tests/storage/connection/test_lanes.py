"""Which lanes to the store work, on one server and on a cluster. tests/server/features/test_silent_store.py has what
/readyz makes of it when some are silent."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from playhead.storage.connection.lanes import Lane, lanes
from playhead.storage.connection.subscriptions import Subscriptions
from playhead.storage.parts import Parts
from tests.storage.conftest import NewStore, PrivateServer

TIMEOUT_S = 5.0


@contextlib.asynccontextmanager
async def subscribed(parts: Parts) -> AsyncIterator[Subscriptions]:
    subscriptions = parts.listen(lambda name, message: None, lambda name: None)
    running = asyncio.create_task(subscriptions.run())
    try:
        yield subscriptions
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_one_server_has_two_lanes(new_store: NewStore) -> None:
    parts: Parts = new_store(Parts)
    async with subscribed(parts) as subscriptions:
        found = await lanes(parts.link, parts.keys, subscriptions, TIMEOUT_S)
    assert found == [Lane("commands", True), Lane("subscriptions", True)]


@pytest.mark.stores("cluster")
async def test_a_cluster_has_two_lanes_for_each_primary(new_store: NewStore) -> None:
    """They are named by their slots, and the names hold no address."""
    parts: Parts = new_store(Parts)
    async with subscribed(parts) as subscriptions:
        found = await lanes(parts.link, parts.keys, subscriptions, TIMEOUT_S)
    primaries = await parts.link.primaries()
    assert len(found) == 2 * len(primaries)
    assert all(lane.works for lane in found)
    for kind in ("commands", "subscriptions"):
        assert len({lane.name for lane in found if lane.name.startswith(f"{kind} slots ")}) == len(primaries)
    assert not any("127.0.0.1" in lane.name for lane in found)


async def test_no_lane_works_while_the_server_is_silent(private_server: PrivateServer) -> None:
    parts = Parts(private_server.url, worker="w", timeout_s=0.3)
    try:
        async with subscribed(parts) as subscriptions:
            assert all(lane.works for lane in await lanes(parts.link, parts.keys, subscriptions, TIMEOUT_S))
            private_server.pause()
            try:
                found = await lanes(parts.link, parts.keys, subscriptions, 0.3)
            finally:
                private_server.resume()
            assert found == [Lane("commands", False), Lane("subscriptions", False)]
    finally:
        await parts.link.aclose()
