"""How commands get to the servers that answer them: the same questions for one server and for a cluster."""

from collections.abc import Iterable
from typing import Any, Protocol

from redis.exceptions import RedisError

from playhead.storage.connection.pipeline import Command
from playhead.storage.connection.primary import Primary
from playhead.storage.errors import StoreUnavailable


class Seal(Protocol):
    """What a round trip of a commit ends with at each primary, on the connection that its commands took."""

    def at(self, primary: str) -> list[Command]:
        """Commands to send there."""
        ...

    def read(self, primary: str, replies: list[Any]) -> None:
        """Their replies. Raises StoreUnavailable: it is not sealed."""
        ...


class Link(Protocol):
    """One server, or the primaries of a cluster."""

    tags: tuple[str, ...]
    """Hash tags that keys of one call must share; without any, a call may touch all keys."""

    retries: int
    """How often commands had to be sent again because they were at the wrong server, or too early."""

    async def ask(self, commands: list[Command], seal: Seal | None = None, also: Iterable[str] = ()) -> list[Any]:
        """Replies in the order of the commands, each of them an error where its command failed.

        Args:
            seal: applied to every primary that was sent something, and to those of `also`.

        Raises:
            StoreUnavailable: no answer, not in time, or not sealed; any of the commands may have been carried out.
        """
        ...

    def primary_of(self, key: str) -> str:
        """The name of who has the key, as far as we know."""
        ...

    async def primaries(self) -> list[Primary]:
        """All of them. Raises StoreUnavailable."""
        ...

    async def home(self, key: str) -> Primary:
        """Who has the key, as far as we know. Raises StoreUnavailable: nobody is known to."""

    def places(self) -> dict[str, str]:
        """By the name of each primary, as far as we know, what everybody may be told of where it is: no address."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


def checked(replies: list[Any]) -> list[Any]:
    """Raises StoreUnavailable: one of them is an error."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise unavailable(reply)
    return replies


def unavailable(error: Exception) -> StoreUnavailable:
    """What a reply that is an error comes to."""
    if isinstance(error, StoreUnavailable):
        return error
    raised = StoreUnavailable(str(error))
    raised.__cause__ = error
    return raised


class Single:
    """One server."""

    tags: tuple[str, ...] = ()
    retries = 0

    def __init__(self, primary: Primary) -> None:
        self.primary = primary

    async def ask(self, commands: list[Command], seal: Seal | None = None, also: Iterable[str] = ()) -> list[Any]:
        ends = seal.at("") if seal is not None else []
        try:
            replies = await self.primary.ask(commands + ends)
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"{type(error).__name__}: {error}") from error
        if seal is not None:
            seal.read("", replies[len(commands) :])
        return replies[: len(commands)]

    def primary_of(self, key: str) -> str:
        return ""

    async def primaries(self) -> list[Primary]:
        return [self.primary]

    async def home(self, key: str) -> Primary:
        return self.primary

    def places(self) -> dict[str, str]:
        return {"": ""}

    async def aclose(self) -> None:
        await self.primary.aclose()
