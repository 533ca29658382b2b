"""Subscriptions on a cluster: each channel is subscribed at the primary of its slot, and moves with the slot.

Invariant: a channel counts as confirmed only at the server where the scripts that publish to it run. A primary that
becomes a replica keeps subscribers connected without notice, so the topology is refreshed regularly.
"""

import asyncio
import itertools
from collections.abc import Callable
from contextlib import suppress

from playhead.storage.backoff import Backoff
from playhead.storage.connection.cluster import Cluster
from playhead.storage.connection.latch import Latch
from playhead.storage.connection.subscriptions import ServerSubscriptions
from playhead.storage.errors import StoreUnavailable

PAUSE_S = 0.1, 1.0
"""The first pause and the longest before channels that a server has dropped are subscribed again. Retries never end."""
AT_ONCE = 1_000
"""Channels that are checked before other tasks run."""


class ClusterSubscriptions:
    """The subscriptions of one process; for the arguments see `ServerSubscriptions`."""

    def __init__(
        self, cluster: Cluster, on_message: Callable[[str, bytes], None], on_confirmed: Callable[[str], None]
    ) -> None:
        self._cluster = cluster
        self._on_message = on_message
        self._on_confirmed = on_confirmed
        self._homes: dict[str, str] = {}
        """The node at which each channel is subscribed."""
        self._servers: dict[str, ServerSubscriptions] = {}
        self._conversations: dict[str, asyncio.Task[None]] = {}
        self._followed = 0
        """The number of topology changes that the subscriptions have followed."""
        self._resubscriptions = 0
        """Resubscriptions at servers that are no longer used."""
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

    def subscribe(self, name: str) -> Latch:
        home = self._homes.get(name)
        if home is None:
            home = self._homes[name] = self._cluster.node_for(name)
        return self._server(home).subscribe(name)

    def unsubscribe(self, name: str) -> None:
        home = self._homes.pop(name, None)
        if home is not None:
            self._servers[home].unsubscribe(name)

    async def unconfirmed_primaries(self) -> list[str]:
        """ "" stands for slots without a primary."""
        names = list(self._cluster.locations())
        unconfirmed = await asyncio.gather(*(self._server(name).unconfirmed_primaries() for name in names if name))
        return [*itertools.chain(*unconfirmed), ""]

    async def run(self) -> None:
        self._cluster.on_change.append(self._wake.set)
        try:
            async with asyncio.TaskGroup() as self._tasks:
                for name in self._servers:
                    self._start(name)
                self._connect_everywhere()
                try:
                    await self._follow_topology()
                finally:
                    self._tasks = None
        finally:
            self._cluster.on_change.remove(self._wake.set)

    async def _follow_topology(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._cluster.timeout_s):
                    await self._wake.wait()
            self._wake.clear()
            with suppress(StoreUnavailable):
                await self._cluster.refresh_topology()
            if await self._move_channels():
                await self._backoff.wait()
            else:
                self._backoff.reset()
                await asyncio.sleep(PAUSE_S[0])

    async def _move_channels(self) -> bool:
        """Move each channel to its slot's primary, and disconnect from servers without channels.

        Returns:
            Whether a server had dropped channels.
        """
        changes = self._cluster.changes
        lost = {name for server in self._servers.values() for name in server.misplaced}
        names = lost if changes == self._followed else list(self._homes)
        self._followed = changes
        for done, name in enumerate(names, 1):
            if not done % AT_ONCE:
                await asyncio.sleep(0)
            home, now = self._homes.get(name), self._cluster.node_for(name)
            if home is None:
                continue  # unsubscribed in the meantime
            server = self._servers[home]
            if now != home or name in server.misplaced:
                latch = server.release(name)
                self._homes[name] = now
                self._server(now).subscribe(name, latch)
        primaries = self._connect_everywhere()
        for name in [name for name, server in self._servers.items() if not len(server) and name not in primaries]:
            self._resubscriptions += self._servers.pop(name).resubscriptions
            if name in self._conversations:
                self._conversations.pop(name).cancel()
        return bool(lost)

    def _connect_everywhere(self) -> set[str]:
        """Connect to every primary, including those without channels, where the next learner's channel may be.

        Returns:
            The names of the primaries.
        """
        primaries = self._cluster.locations().keys() - {""}
        for name in primaries:
            self._server(name)
        return primaries

    def _server(self, name: str) -> ServerSubscriptions:
        pool = self._cluster.primary(name).pool
        found = self._servers.get(name)
        if found is None:
            found = ServerSubscriptions(
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
        found.pool = pool  # a node that left the cluster and has returned has a new pool
        return found

    def _start(self, name: str) -> None:
        assert self._tasks is not None  # noqa: S101 checked by the callers
        self._conversations[name] = self._tasks.create_task(self._servers[name].run())
