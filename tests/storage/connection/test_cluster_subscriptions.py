"""Subscriptions on a cluster, each at the primary of its slot. tests/storage/connection/test_cluster.py has slots that
move."""

import asyncio

import pytest

from playhead.storage.parts import Parts
from tests.storage.conftest import PATIENCE_S, NewStore

pytestmark = pytest.mark.stores("cluster")


@pytest.mark.parametrize("known", [True, False], ids=["topology known", "topology unknown"])
async def test_channels_are_subscribed_at_all_primaries(new_store: NewStore, known: bool) -> None:
    """A message on any of them arrives, and none after the channel is unsubscribed.

    If the topology is not known yet, any node is asked first, and redirects.
    """
    parts: Parts = new_store(Parts)
    if known:
        await parts.link.primaries()
    names = [parts.keys.push(f"u{number}") for number in range(60)]
    arrived: list[tuple[str, bytes]] = []
    subscriptions = parts.listen(lambda name, message: arrived.append((name, message)), lambda name: None)
    running = asyncio.create_task(subscriptions.run())
    try:
        async with asyncio.timeout(PATIENCE_S):
            for name in names:
                await subscriptions.subscribe(name).wait()
        assert {parts.link.primary_of(name) for name in names} == {p.name for p in await parts.link.primaries()}
        for name in names:
            assert await parts.run([("SPUBLISH", name, "x")]) == [1]
        async with asyncio.timeout(PATIENCE_S):
            while len(arrived) < len(names):  # noqa: ASYNC110 what is awaited is another process
                await asyncio.sleep(0.005)
        assert sorted(arrived) == sorted((name, b"x") for name in names)
        subscriptions.unsubscribe(names[0])
        assert not subscriptions.is_confirmed(names[0])
        async with asyncio.timeout(PATIENCE_S):
            while await parts.run([("SPUBLISH", names[0], "late")]) != [0]:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert subscriptions.resubscriptions == 0 or not known
        assert await subscriptions.unconfirmed_primaries() == [""], "no slot is without a primary here"
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
