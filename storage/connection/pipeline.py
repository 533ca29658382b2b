"""Pipelines to the store: commands are packed in C, and their replies are read under one timer.

redis-py packs asyncio commands in Python, and creates a task for sending and a timer for each reply. That costs more
than the rest of a commit.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import hiredis
from redis.asyncio import ConnectionPool, Redis
from redis.exceptions import ConnectionError, ResponseError

Command = tuple[Any, ...]
Run = Callable[[list[Command]], Awaitable[list[Any]]]
"""Sends commands in one round trip and returns their replies."""


class _PipelineConnection:
    """A mixin for redis-py's connections that adds `exchange`. Bytes (RESP) and errors are the same as redis-py's.

    A connection that is given up, or whose pool is closed, is aborted without waiting. Otherwise its unsent data would
    stay in memory, and the connection open, for as long as the kernel tries to send to a dead peer.
    """

    closed = False
    """Whether the pool is closed; each pool has a connection class of its own."""

    async def _connect(self: Any) -> None:
        """Raises ConnectionError if the pool is closed, or was closed in the meantime. Nothing is left open."""
        if not self.closed:
            await super()._connect()  # type: ignore[misc] # defined by the class that this is mixed into
        if self.closed:
            await self.disconnect()
            raise ConnectionError("the connection pool is closed")

    async def _send_packed_command(self: Any, command: Iterable[bytes]) -> None:
        """Raises ConnectionError if the connection was closed in the meantime, for example with its pool."""
        if self._writer is None:
            raise ConnectionError("the connection was closed")
        await super()._send_packed_command(command)  # type: ignore[misc] # as above

    async def disconnect(self: Any, nowait: bool = False, **why: Any) -> None:
        if self._writer is not None and (nowait or self.closed):
            self._writer.transport.abort()
        await super().disconnect(nowait, **why)  # type: ignore[misc] # as above

    def pack_commands(self, commands: Iterable[Command]) -> list[bytes]:
        return [b"".join([hiredis.pack_command(_words(command)) for command in commands])]

    async def exchange(self: Any, commands: Sequence[Command]) -> list[Any]:
        """Send commands and return the replies, error replies included. Each reply may take the socket timeout."""
        loop, timeout_s = asyncio.get_running_loop(), self.socket_timeout
        replies: list[Any] = []
        try:
            await self.connect()  # reconnects after a failure
            async with asyncio.timeout(timeout_s) as deadline:
                await self._send_packed_command(self.pack_commands(commands))
                while len(replies) < len(commands):
                    try:
                        replies.append(await self.read_response(timeout=math.inf))
                    except ResponseError as error:
                        replies.append(error)
                    if timeout_s is not None:
                        deadline.reschedule(loop.time() + timeout_s)
        except BaseException as error:
            await self.disconnect(nowait=True)  # otherwise an unread reply would be taken for the next command's
            if isinstance(error, OSError | RuntimeError):  # TimeoutError; uvloop's error for a socket that was reset
                raise ConnectionError(f"{type(error).__name__}: {error}") from error
            raise
        return replies


async def run_pipeline(redis: Redis, commands: Sequence[Command]) -> list[Any]:
    """Run a pipeline on a pool prepared by `use_pipelining`. The replies are in redis-py's form, errors included.

    It is retried as the connection's `retry` says.

    Raises:
        RedisError, OSError: the store can't be reached, or does not answer in time.
    """
    pool, forms = redis.connection_pool, redis.response_callbacks
    connection: Any = await pool.get_connection()  # type: ignore[no-untyped-call] # redis-py has no types here
    try:
        replies: list[Any] = await connection.retry.call_with_retry(
            lambda: connection.exchange(commands), lambda error: connection.disconnect()
        )
    finally:
        await pool.release(connection)
    return [
        forms[command[0]](reply) if command[0] in forms and not isinstance(reply, Exception) else reply
        for command, reply in zip(commands, replies, strict=True)
    ]


def use_pipelining(pool: ConnectionPool) -> None:
    """Add `_PipelineConnection` to the pool's connection class, whatever that is."""
    pool.connection_class = type("Connection", (_PipelineConnection, pool.connection_class), {})


def close_pool(pool: ConnectionPool) -> None:
    """Refuse new connections of a pool prepared by `use_pipelining`, including those being established."""
    pool.connection_class.closed = True  # type: ignore[attr-defined] # one of _PipelineConnection


def _words(command: tuple[Any, ...]) -> tuple[Any, ...]:
    """Split the name of a two-word command, which redis-py passes as one argument."""
    name = command[0]
    return (*name.split(), *command[1:]) if isinstance(name, str) and " " in name else command
