"""Sends commands to the servers that have their keys: one interface for a single server and for a cluster."""

from collections.abc import Iterable
from typing import Any, Protocol

from redis.exceptions import RedisError

from playhead.storage.connection.pipeline import Command
from playhead.storage.connection.primary import Primary
from playhead.storage.errors import StoreUnavailable


class StageGuard(Protocol):
    """Commands that end a stage of a commit at each primary, on the same connection, and the check of their replies."""

    def commands(self, primary: str) -> list[Command]:
        """The commands to append at this primary."""
        ...

    def check(self, primary: str, replies: list[Any]) -> None:
        """Check the replies to the commands. Raises StoreUnavailable if the stage does not count as committed."""
        ...


class Link(Protocol):
    """One server, or the primaries of a cluster."""

    tags: tuple[str, ...]
    """The hash tags of which the keys of one script call must share one; if there are none, a call may use any keys."""

    retries: int
    """How often commands were sent again, because they had reached the wrong server or came too early."""

    async def ask(
        self, commands: list[Command], guard: StageGuard | None = None, also: Iterable[str] = ()
    ) -> list[Any]:
        """Send commands and return their replies in order. The reply to a failed command is the error.

        Args:
            guard: applied at every primary that receives commands, and at those in `also`.

        Raises:
            StoreUnavailable: there was no answer in time, or the guard's check failed. Any of the commands may have
                been executed.
        """
        ...

    def primary_of(self, key: str) -> str:
        """The name of the primary that has the key, by the last known topology."""
        ...

    async def primaries(self) -> list[Primary]:
        """All primaries. Raises StoreUnavailable."""
        ...

    async def primary_for(self, key: str) -> Primary:
        """The primary that has the key, by the last known topology. Raises StoreUnavailable if none is known."""

    def locations(self) -> dict[str, str]:
        """For each known primary, by its name: a description that contains no address, so that anyone may see it."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


def checked(replies: list[Any]) -> list[Any]:
    """Return the replies. Raises StoreUnavailable if one of them is an error."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise unavailable(reply)
    return replies


def unavailable(error: Exception) -> StoreUnavailable:
    """The StoreUnavailable for a reply that is an error."""
    if isinstance(error, StoreUnavailable):
        return error
    raised = StoreUnavailable(str(error))
    raised.__cause__ = error
    return raised


class Single:
    """The link to a single server."""

    tags: tuple[str, ...] = ()
    retries = 0

    def __init__(self, primary: Primary) -> None:
        self.primary = primary

    async def ask(
        self, commands: list[Command], guard: StageGuard | None = None, also: Iterable[str] = ()
    ) -> list[Any]:
        ends = guard.commands("") if guard is not None else []
        try:
            replies = await self.primary.ask(commands + ends)
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"{type(error).__name__}: {error}") from error
        if guard is not None:
            guard.check("", replies[len(commands) :])
        return replies[: len(commands)]

    def primary_of(self, key: str) -> str:
        return ""

    async def primaries(self) -> list[Primary]:
        return [self.primary]

    async def primary_for(self, key: str) -> Primary:
        return self.primary

    def locations(self) -> dict[str, str]:
        return {"": ""}

    async def aclose(self) -> None:
        await self.primary.aclose()
