"""Where the records are kept, as a parameter of a case.

A place can be killed, paused, restarted empty, and asked directly, past the relay. One more kind of store needs a class
with the same methods, and a line in PLACES (`places.py`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import redis

from tests.faults.relay import Relay

Change = Callable[[Path], None]
"""What happens to the store's directory while it is down."""
Admin = Callable[..., "redis.Redis"]
"""Makes clients of one server, past the relay."""


class Missing(Exception):
    """This machine has no such store."""


class Place(Protocol):
    name: str
    options: tuple[str, ...]
    """Of `playhead serve`."""
    relay: Relay | None
    """Between the service and the store, where one is possible."""
    url: str
    """Straight to the store, past the relay."""

    def pids(self) -> list[int]:
        """The store's processes."""
        ...

    def writers(self) -> list[Admin]:
        """The servers that take writes."""
        ...

    async def aiming(self) -> Relay:
        """The relay that all requests of the service go through from now on."""
        ...

    async def answers(self) -> None:
        """Wait until it does."""
        ...

    async def kill(self, change: Change | None = None) -> None:
        """SIGKILL, and back again, its files changed meanwhile. Returns when it answers."""
        ...


def throw_out(client: "redis.Redis") -> None:
    """All clients but this one, and servers."""
    for kind in ("pubsub", "normal"):
        client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")  # type: ignore[no-untyped-call] # redis-py has no types here
