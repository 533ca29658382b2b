"""Each store that the documents describe, as a place: with the ACL files of examples/, and without a relay."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.configurations import CONFIGURATIONS, Kind
from tests.configured import Nodes, Stores, configured
from tests.faults.place import Admin, Change, Place
from tests.faults.relay import Relay


class Configured:
    """A store of one configuration and one kind of server."""

    relay: Relay | None = None

    def __init__(self, name: str, stores: Stores) -> None:
        self.name = name
        self.stores = stores
        self.url = stores.url
        durability = stores.configuration.durability(stores.kind)
        self.options: tuple[str, ...] = ("--redis-url", stores.url, "--durability", durability)

    def pids(self) -> list[int]:
        if isinstance(self.stores, Nodes):
            return [server.pid for server in self.stores.servers if server.is_running]
        return [member.pid for member in self.stores.members.members if member.is_running]

    def writers(self) -> list[Admin]:
        assert isinstance(self.stores, Nodes)
        return [self.stores.primary().admin]

    async def aiming(self) -> Relay:
        raise AssertionError("this place has no relay")

    async def answers(self) -> None:
        await asyncio.to_thread(self.stores.until_whole)

    async def kill(self, change: Change | None = None) -> None:
        """Kill one server, change its files, and start it again."""
        assert isinstance(self.stores, Nodes)
        victim = self.stores.primary()
        victim.end()
        if change is not None:
            change(victim.directory)
        await asyncio.to_thread(victim.start)
        await self.answers()


@contextlib.asynccontextmanager
async def _opened(name: str, configuration: str, kind: Kind) -> AsyncIterator[Configured]:
    """Run a store. It is started in a thread, because other cases may be running."""
    with TemporaryDirectory(prefix="faults-") as directory:
        stores = configured(configuration, kind, Path(directory))
        running = await asyncio.to_thread(stores.__enter__)
        try:
            yield Configured(name, running)
        finally:
            await asyncio.to_thread(running.end)


PLACES: dict[str, Callable[[], contextlib.AbstractAsyncContextManager[Place]]] = {
    f"{configuration.name}-{kind}": functools.partial(_opened, f"{configuration.name}-{kind}", configuration.name, kind)
    for configuration in CONFIGURATIONS.values()
    for kind in configuration.kinds
}
