"""A cluster as a place."""

import asyncio
import contextlib
import functools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import redis

from tests.clustered import PRIMARIES, ClusterServers, Member, until
from tests.faults.damage import wipe
from tests.faults.place import Admin, Change
from tests.faults.relay import Relay, relay


class Clustered:
    """Three primaries with a replica each; an ack waits for the disks of the primary and of its replica.

    The relay is in front of every server, because the nodes announce the relay's ports to each other and to clients.
    """

    name = "cluster"

    def __init__(self, servers: ClusterServers, between: Relay) -> None:
        self.servers = servers
        self.relay: Relay | None = between
        self.url = servers.url
        self.options: tuple[str, ...] = ("--redis-url", servers.url, "--durability", "replicas:1")

    def pids(self) -> list[int]:
        return [member.pid for member in self.servers.members if member.is_running]

    def writers(self) -> list[Admin]:
        return [functools.partial(redis.Redis, port=each.port, socket_timeout=10) for each in self.servers.primaries()]

    async def aiming(self) -> Relay:
        assert self.relay is not None
        return self.relay

    async def answers(self) -> None:
        """Wait until every slot has a primary, and every primary its replica."""
        await asyncio.to_thread(self.servers.heal)

    async def kill(self, change: Change | None = None) -> None:
        """Kill one primary of the complete cluster, and start it again when its replica has taken over."""
        assert change is None, "a cluster has several directories: see lose"
        await self.answers()
        victim = random.choice(self.servers.primaries())
        victim.kill()
        await self.taken_over(victim)
        victim.start()

    async def lose(self, shards: Mapping[Member, Member], change: Callable[[list[Path]], Awaitable[None]]) -> None:
        """Kill these primaries and their replicas, call `change` with the directories of the primaries, and start all
        again; the replicas are empty."""
        for member in (*shards, *shards.values()):
            member.kill()
        await change([primary.directory for primary in shards])
        for primary, replica in shards.items():
            wipe(replica.directory)
            primary.start()
        await asyncio.to_thread(until, self.servers.is_covered)  # otherwise an empty replica might take over
        await self.answers()

    async def taken_over(self, victim: Member) -> None:
        """Wait until another server has all slots of a primary that has ended or is silent."""
        others = [member for member in self.servers.members if member is not victim and member.is_running]
        await asyncio.to_thread(until, lambda: sum(m.replication()["role"] == "master" for m in others) == PRIMARIES)


@contextlib.asynccontextmanager
async def cluster() -> AsyncIterator[Clustered]:
    """Run a cluster. It is formed in a thread, because other cases may be running."""
    with TemporaryDirectory(prefix="faults-") as directory:
        servers = ClusterServers(Path(directory), "--appendonly", "yes", "--appendfsync", "always")
        try:
            async with relay(*(member.port for member in servers.members)) as between:
                await asyncio.to_thread(servers.form, between.ports)
                yield Clustered(servers, between)
        finally:
            servers.end()
