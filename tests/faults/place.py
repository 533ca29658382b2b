"""The store of a case, as a parameter.

A place can be killed, paused, restarted empty, and reached directly, without the relay. A further kind of store needs a
class with the same methods, and a line in PLACES (`places.py`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import redis

from tests.faults.relay import Relay

Change = Callable[[Path], None]
"""Changes the store's directory while it is down."""
Admin = Callable[..., "redis.Redis"]
"""Makes clients of one server that do not use the relay."""


class Missing(Exception):
    """The store is not installed on this machine."""


class Place(Protocol):
    name: str
    options: tuple[str, ...]
    """Command-line options of `playhead serve`."""
    relay: Relay | None
    """The relay between the service and the store, if the place can have one."""
    url: str
    """The store's address without the relay."""

    def pids(self) -> list[int]:
        """The store's processes."""
        ...

    def writers(self) -> list[Admin]:
        """Clients of the servers that accept writes."""
        ...

    async def aiming(self) -> Relay:
        """Route all requests of the service through the relay from now on, and return it."""
        ...

    async def answers(self) -> None:
        """Wait until the store answers."""
        ...

    async def kill(self, change: Change | None = None) -> None:
        """Kill the store, change its files, start it again, and wait until it answers."""
        ...


def throw_out(client: "redis.Redis") -> None:
    """Close the connections of all clients except this one; replicas keep theirs."""
    for kind in ("pubsub", "normal"):
        client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")  # type: ignore[no-untyped-call] # redis-py has no types here
