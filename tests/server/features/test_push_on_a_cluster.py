"""Pushes between two processes on a cluster while the primary of the learner's channel changes."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import pytest

from playhead.storage.keys import Keys
from tests.clustered import ClusterServers, Member, clustered, until
from tests.device import Device, device
from tests.serving import Running, serving

PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterServers]:
    """A cluster for these tests alone, because they damage it."""
    with clustered(tmp_path_factory.mktemp("cluster")) as servers:
        yield servers


def _is_subscribed(member: Member, channel: str) -> bool:
    return bool(member.ask("PUBSUB", "SHARDNUMSUB", channel)[1] == 1)


@pytest.fixture
async def processes(servers: ClusterServers, prefix: str) -> AsyncIterator[tuple[Running, Running]]:
    servers.heal()
    chosen: dict[str, Any] = {
        "redis_url": servers.url,
        "key_prefix": prefix,
        "flush_interval_s": 0.02,
        "store_timeout_s": 1.0,
    }
    async with serving(**chosen) as here, serving(**chosen) as there:
        yield here, there


async def assert_reaches(laptop: Device, phone: Device, second: int) -> None:
    """Check that a change on one device reaches the other, pushed or read."""
    video = str(uuid4())
    async with asyncio.timeout(PATIENCE_S):
        await laptop.play(video, second, second + 5)
        assert (await phone.pushed(video))["seen"] == [[second, second + 5]]


@pytest.mark.parametrize("what", ["planned failover", "killed primary", "moved slot"])
async def test_pushes_arrive_before_during_and_after_the_change(
    servers: ClusterServers, processes: tuple[Running, Running], prefix: str, what: str
) -> None:
    """Every change of one device reaches the other, without a reconnect."""
    user = str(uuid4())
    key = Keys(prefix).progress(user)
    async with device(processes[0], user) as laptop, device(processes[1], user) as phone:
        await assert_reaches(laptop, phone, 0)
        source = servers.primary_of(key)
        if what == "moved slot":
            target = next(member for member in servers.primaries() if member is not source)
            slot = int(source.ask("CLUSTER", "KEYSLOT", key))
            source.ask("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target.id())
        else:
            target = servers.replica_of(source)
            target.ask("CLUSTER", "FAILOVER") if what == "planned failover" else source.kill()
        await assert_reaches(laptop, phone, 10)
        await asyncio.to_thread(until, lambda: servers.primary_of(key) is target)
        for second in range(20, 80, 10):
            await assert_reaches(laptop, phone, second)
        channel = Keys(prefix).push(user)
        await asyncio.to_thread(until, lambda: target.ask("PUBSUB", "SHARDNUMSUB", channel)[1] == 2)
        assert laptop.welcome["epoch"] == phone.welcome["epoch"]


async def test_a_process_that_only_subscribes_follows_the_channel(
    servers: ClusterServers, processes: tuple[Running, Running], prefix: str
) -> None:
    """A primary that becomes a replica keeps its subscribers but sends them nothing, so they poll the topology."""
    users = [str(uuid4()) for _ in range(20)]
    async with contextlib.AsyncExitStack() as stack:
        for user in users:
            await stack.enter_async_context(device(processes[1], user))
        source = servers.primary_of(Keys(prefix).push(users[0]))
        target = servers.replica_of(source)
        target.ask("CLUSTER", "FAILOVER")
        await asyncio.to_thread(until, lambda: servers.primary_of(Keys(prefix).push(users[0])) is target)
        for channel in map(Keys(prefix).push, users):
            at = servers.primary_of(channel)
            await asyncio.to_thread(until, functools.partial(_is_subscribed, at, channel))
