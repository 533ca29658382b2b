"""Commands for the store, packed in C and exchanged under one timer.

redis-py packs for asyncio in Python, makes a task for what it sends and a timer for each reply: more than the rest of
a commit.
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
"""A round trip: the replies of some commands."""


class _Exchanging:
    """Of a connection, how a pipeline goes; the same bytes (RESP) and errors as by redis-py's own.

    And how it ends: one that is given up, or whose pool is closed, is cut and not waited for. What it had not sent yet
    would else stay in memory, and the connection open, for as long as the kernel tries to send to a peer that is gone.
    """

    closed = False
    """Of the pool, whose connections have a class of their own."""

    async def _connect(self: Any) -> None:
        """Raises ConnectionError: the pool is closed, perhaps while this took place; nothing is left open."""
        if not self.closed:
            await super()._connect()  # type: ignore[misc] # of the class that this is mixed into
        if self.closed:
            await self.disconnect()
            raise ConnectionError("its pool is closed")

    async def _send_packed_command(self: Any, command: Iterable[bytes]) -> None:
        """Raises ConnectionError: somebody has ended the connection meanwhile, such as who closes the pool."""
        if self._writer is None:
            raise ConnectionError("it was disconnected")
        await super()._send_packed_command(command)  # type: ignore[misc] # as above

    async def disconnect(self: Any, nowait: bool = False, **why: Any) -> None:
        if self._writer is not None and (nowait or self.closed):
            self._writer.transport.abort()
        await super().disconnect(nowait, **why)  # type: ignore[misc] # as above

    def pack_commands(self, commands: Iterable[Command]) -> list[bytes]:
        return [b"".join([hiredis.pack_command(_words(command)) for command in commands])]

    async def exchange(self: Any, commands: Sequence[Command]) -> list[Any]:
        """The replies; an error that the store answers is among them. Each is waited for as long as redis-py would."""
        loop, timeout_s = asyncio.get_running_loop(), self.socket_timeout
        replies: list[Any] = []
        try:
            await self.connect()  # again, after a failure
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
            await self.disconnect(nowait=True)  # a reply that nobody has read would be the next command's
            if isinstance(error, OSError | RuntimeError):  # a TimeoutError; uvloop, of a socket that was just reset
                raise ConnectionError(f"{type(error).__name__}: {error}") from error
            raise
        return replies


async def exchange(redis: Redis, commands: Sequence[Command]) -> list[Any]:
    """A pipeline on a pool that `exchanging` was told of: the replies as redis-py gives them, errors among them.

    Tried as often as the connection's `retry` says.

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


def exchanging(pool: ConnectionPool) -> None:
    """Make the pool's connections, whatever their kind, do so."""
    pool.connection_class = type("Connection", (_Exchanging, pool.connection_class), {})


def closing(pool: ConnectionPool) -> None:
    """From now on nothing is connected any more by a pool that `exchanging` was told of, nor by whoever waits for a
    connection that is on its way."""
    pool.connection_class.closed = True  # type: ignore[attr-defined] # one of _Exchanging


def _words(command: tuple[Any, ...]) -> tuple[Any, ...]:
    """redis-py writes some commands of two words as one argument."""
    name = command[0]
    return (*name.split(), *command[1:]) if isinstance(name, str) and " " in name else command
