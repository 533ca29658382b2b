"""Commands for the store, packed in C: redis-py packs for asyncio in Python, at more than the rest of a commit."""

from collections.abc import Iterable
from typing import Any

import hiredis
from redis.asyncio import ConnectionPool


class _PacksInC:
    """Of a connection, the method that a pipeline sends its commands by; the same bytes (RESP) as redis-py's own."""

    def pack_commands(self, commands: Iterable[tuple[Any, ...]]) -> list[bytes]:
        return [b"".join([hiredis.pack_command(_words(command)) for command in commands])]


def packs_in_c(pool: ConnectionPool) -> None:
    """Make the pool's connections, whatever their kind, pack in C."""
    pool.connection_class = type("Connection", (_PacksInC, pool.connection_class), {})


def _words(command: tuple[Any, ...]) -> tuple[Any, ...]:
    """redis-py writes some commands of two words as one argument."""
    name = command[0]
    return (*name.split(), *command[1:]) if isinstance(name, str) and " " in name else command
