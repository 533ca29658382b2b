"""Subscriptions to the store's channels: one connection, owned by one task.

redis-py's own PubSub may be reconnected by whoever uses it next, reader or subscriber, both at once and without a
word. Here a broken connection ends both directions, everything counts as unsubscribed until the store has confirmed it
anew, and whoever listens is told: `is_confirmed` is honest.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from contextlib import suppress

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection

from storage.backoff import Backoff
from storage.cancellation import kept_cancellation
from storage.latch import Latch

logger = logging.getLogger(__name__)

RECONNECT_S = 0.05, 2.0
"""The first delay and the longest. It never gives up: until then devices are told of changes too late or by reading."""
NAMES_PER_COMMAND = 500


class Channels:
    """What one process listens to.

    Args:
        pool: whose connections are made like the one that is needed here.
        on_message: told the channel's name and what was published.
        on_confirmed: told a name when the store has confirmed it; again after each lost connection.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        on_message: Callable[[str, bytes], None],
        on_confirmed: Callable[[str], None],
    ) -> None:
        self._pool = pool
        self._on_message = on_message
        self._on_confirmed = on_confirmed
        self._wanted: dict[str, Latch] = {}
        self._commands: list[tuple[str, str]] = []
        self._wake = asyncio.Event()
        self._unconfirmed: dict[str, int] = {}
        """SUBSCRIBEs not confirmed yet: the confirmation of one that was dropped since proves nothing."""
        self.backoff = Backoff(*RECONNECT_S)

    def is_confirmed(self, name: str) -> bool:
        """Whether the store sends us what is published there."""
        event = self._wanted.get(name)
        return event is not None and event.is_set()

    def want(self, name: str) -> Latch:
        """Subscribe; the latch is set while the subscription is confirmed."""
        event = self._wanted.get(name)
        if event is None:
            event = self._wanted[name] = Latch()
            self._queue("SUBSCRIBE", name)
        return event

    def drop(self, name: str) -> None:
        """Unsubscribe."""
        if self._wanted.pop(name, None) is not None:
            self._queue("UNSUBSCRIBE", name)

    async def run(self) -> None:
        """Listen for ever; cancel it to stop."""
        while True:
            connection = self._pool.make_connection()  # type: ignore[no-untyped-call] # redis-py has no types here
            try:
                await self._converse(connection)
            except Exception as error:
                # Whatever a broken connection makes redis-py raise; the loop and its log are the handling.
                logger.warning("Lost the store's channels, subscribing again: %r", _first(error))
            finally:
                with suppress(Exception):
                    await connection.disconnect(nowait=True)
            for event in self._wanted.values():
                event.clear()
            await self.backoff.wait()

    async def _converse(self, connection: AbstractConnection) -> None:
        with kept_cancellation():
            await connection.connect()  # type: ignore[no-untyped-call] # nor here
        self._unconfirmed = dict.fromkeys(self._wanted, 1)
        self._commands = [("SUBSCRIBE", name) for name in self._wanted]
        self._wake.set()
        async with asyncio.TaskGroup() as both:
            both.create_task(self._read(connection))
            both.create_task(self._write(connection))

    async def _read(self, connection: AbstractConnection) -> None:
        while True:
            reply = await connection.read_response(timeout=math.inf, disconnect_on_error=False, push_request=True)
            kind, name = reply[0], reply[1].decode()
            if kind == b"message":
                self._on_message(name, reply[2])
            elif kind == b"subscribe":
                self._confirm(name)

    async def _write(self, connection: AbstractConnection) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            commands, self._commands = self._commands, []
            for command, names in _runs(commands):
                with kept_cancellation():
                    await connection.send_command(command, *names, check_health=False)

    def _confirm(self, name: str) -> None:
        self.backoff.reset()
        left = self._unconfirmed.pop(name, 1) - 1
        if left:
            self._unconfirmed[name] = left
        elif (event := self._wanted.get(name)) is not None:
            event.set()
            self._on_confirmed(name)

    def _queue(self, command: str, name: str) -> None:
        if command == "SUBSCRIBE":
            self._unconfirmed[name] = self._unconfirmed.get(name, 0) + 1
        self._commands.append((command, name))
        self._wake.set()


def _runs(commands: list[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """Neighbouring commands of a kind as one, in order."""
    runs: list[tuple[str, list[str]]] = []
    for command, name in commands:
        if not runs or runs[-1][0] != command or len(runs[-1][1]) >= NAMES_PER_COMMAND:
            runs.append((command, []))
        runs[-1][1].append(name)
    return runs


def _first(error: Exception) -> BaseException:
    """The cause inside a task group's wrapping."""
    return error.exceptions[0] if isinstance(error, ExceptionGroup) else error
