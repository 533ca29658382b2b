"""Subscriptions on a cluster: each channel at the primary of its slot, and after it when the slot moves.

Invariant: a channel counts as confirmed only where the scripts that publish to it run. A primary that has become a
replica keeps our connection and says nothing, so the topology is looked at now and then even where all is quiet.
"""

import asyncio
import itertools
from collections.abc import Callable
from contextlib import suppress

from playhead.storage.backoff import Backoff
from playhead.storage.connection.cluster import Cluster
from playhead.storage.connection.latch import Latch
from playhead.storage.connection.subscriptions import Channels
from playhead.storage.errors import StoreUnavailable

PAUSE_S = 0.1, 1.0
"""The first and the longest before a channel that its server has let go is looked for again. It never gives up."""
AT_ONCE = 1_000
"""Channels that are looked at without a break."""


class ClusterChannels:
    """What one process listens to; the arguments as in `Channels`."""

    def __init__(
        self, cluster: Cluster, on_message: Callable[[str, bytes], None], on_confirmed: Callable[[str], None]
    ) -> None:
        self._cluster = cluster
        self._on_message = on_message
        self._on_confirmed = on_confirmed
        self._homes: dict[str, str] = {}
        """By channel, the node that we ask for it."""
        self._servers: dict[str, Channels] = {}
        self._conversations: dict[str, asyncio.Task[None]] = {}
        self._followed = 0
        """Changes of the cluster that our channels have followed."""
        self._resubscriptions = 0
        """At servers that were left since."""
        self._backoff = Backoff(*PAUSE_S)
        self._tasks: asyncio.TaskGroup | None = None
        self._wake = asyncio.Event()

    @property
    def resubscriptions(self) -> int:
        here = sum(server.resubscriptions for server in self._servers.values())
        return self._backoff.retries + self._resubscriptions + here

    def is_confirmed(self, name: str) -> bool:
        home = self._homes.get(name)
        return home is not None and self._servers[home].is_confirmed(name)

    def want(self, name: str) -> Latch:
        home = self._homes.get(name)
        if home is None:
            home = self._homes[name] = self._cluster.home_of(name)
        return self._server(home).want(name)

    def drop(self, name: str) -> None:
        home = self._homes.pop(name, None)
        if home is not None:
            self._servers[home].drop(name)

    async def unheard(self) -> list[str]:
        """ "" stands for slots that have no primary."""
        names = list(self._cluster.places())
        unheard = await asyncio.gather(*(self._server(name).unheard() for name in names if name))
        return [*itertools.chain(*unheard), ""]

    async def run(self) -> None:
        self._cluster.on_change.append(self._wake.set)
        try:
            async with asyncio.TaskGroup() as self._tasks:
                for name in self._servers:
                    self._start(name)
                self._listen_everywhere()
                try:
                    await self._go_on_following()
                finally:
                    self._tasks = None
        finally:
            self._cluster.on_change.remove(self._wake.set)

    async def _go_on_following(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._cluster.timeout_s):
                    await self._wake.wait()
            self._wake.clear()
            with suppress(StoreUnavailable):
                await self._cluster.look()
            if await self._follow():
                await self._backoff.wait()
            else:
                self._backoff.reset()
                await asyncio.sleep(PAUSE_S[0])

    async def _follow(self) -> bool:
        """Bring each channel to its slot's primary, and leave servers that have none any more; whether some were where
        they could not stay."""
        changes = self._cluster.changes
        lost = {name for server in self._servers.values() for name in server.astray}
        names = lost if changes == self._followed else list(self._homes)
        self._followed = changes
        for done, name in enumerate(names, 1):
            if not done % AT_ONCE:
                await asyncio.sleep(0)
            home, now = self._homes.get(name), self._cluster.home_of(name)
            if home is None:
                continue  # dropped meanwhile
            server = self._servers[home]
            if now != home or name in server.astray:
                latch = server.release(name)
                self._homes[name] = now
                self._server(now).want(name, latch)
        primaries = self._listen_everywhere()
        for name in [name for name, server in self._servers.items() if not len(server) and name not in primaries]:
            self._resubscriptions += self._servers.pop(name).resubscriptions
            if name in self._conversations:
                self._conversations.pop(name).cancel()
        return bool(lost)

    def _listen_everywhere(self) -> set[str]:
        """At every primary, also those that have no channel of ours yet: the next learner's may be there. Their
        names."""
        primaries = self._cluster.places().keys() - {""}
        for name in primaries:
            self._server(name)
        return primaries

    def _server(self, name: str) -> Channels:
        pool = self._cluster.primary(name).pool
        found = self._servers.get(name)
        if found is None:
            found = Channels(
                pool,
                self._on_message,
                self._on_confirmed,
                self._wake.set,
                name=name,
                timeout_s=self._cluster.timeout_s,
            )
            self._servers[name] = found
            if self._tasks is not None:
                self._start(name)
        found.pool = pool  # a node that had left the cluster and is back has a new one
        return found

    def _start(self, name: str) -> None:
        assert self._tasks is not None  # noqa: S101 by its callers
        self._conversations[name] = self._tasks.create_task(self._servers[name].run())
