"""Subscriptions to the store's sharded channels: one connection to each server, owned by one task.

redis-py's own PubSub is reconnected silently by its next user, reader or subscriber, even by both at once. Here a
broken connection ends both directions, and every channel counts as unsubscribed until the store has confirmed it again;
the owner is then notified. So `is_confirmed` can be relied on.

A connection may also stay open and carry nothing, in one direction or both, for example when a firewall has forgotten
it or a machine has died. So there is always a command that the server has to answer, at least a PING (which RESP2 and
RESP3 allow among subscriptions), and the connection is closed when no answer arrives in time. Published messages do not
count as answers: they prove that the server reaches us, not that we reach the server.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Protocol

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ClusterDownError, MovedError, ResponseError

from playhead.storage.backoff import Backoff
from playhead.storage.connection.cancellation import kept_cancellation
from playhead.storage.connection.latch import Latch
from playhead.storage.outage import Outage

logger = logging.getLogger(__name__)

RECONNECT_S = 0.05, 2.0
"""The first delay and the longest. Retries never end; until one succeeds, devices get changes late or by reading."""
NAMES_PER_COMMAND = 500
CHECKS = 4
"""How often in one timeout the connection is checked for answers. Checks are counted instead of seconds, because a
process that was suspended has not read the answers that are there."""


class NoAnswer(Exception):
    """The server did not answer in time."""


class Subscriptions(Protocol):
    """The channels to which one process subscribes."""

    def is_confirmed(self, name: str) -> bool:
        """Whether the store has confirmed the subscription, so that messages on the channel arrive."""
        ...

    def subscribe(self, name: str) -> Latch:
        """Subscribe to a channel. The latch is set while the subscription is confirmed."""
        ...

    def unsubscribe(self, name: str) -> None:
        """Unsubscribe from a channel."""
        ...

    @property
    def resubscriptions(self) -> int:
        """How often subscriptions were lost or could not be made."""
        ...

    async def unconfirmed_primaries(self) -> list[str]:
        """The names of the primaries that do not confirm subscriptions now; each is probed for at most its timeout."""
        ...

    async def run(self) -> None:
        """Receive messages until cancelled."""
        ...


class ServerSubscriptions:
    """The subscriptions of one process at one server.

    Args:
        pool: makes the connection. It may be replaced by another pool for the same server.
        on_message: called with the channel's name and each message.
        on_confirmed: called with the channel's name when the store confirms a subscription, also after a reconnect.
        on_misplaced: called when this server of a cluster does not have some channels, or no longer; they are in
            `misplaced`.
        clustered: whether a command may only name channels of one slot.
        name: the server's name, "" for a single server.
        timeout_s: the longest wait for an answer.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        on_message: Callable[[str, bytes], None],
        on_confirmed: Callable[[str], None],
        on_misplaced: Callable[[], None] = lambda: None,
        clustered: bool = True,
        name: str = "",
        timeout_s: float = 5.0,
    ) -> None:
        self.name = name
        self.pool = pool
        self._timeout_s = timeout_s
        self._on_message = on_message
        self._on_confirmed = on_confirmed
        self._on_misplaced = on_misplaced
        self._clustered = clustered
        self.misplaced: set[str] = set()
        self._wanted: dict[str, Latch] = {}
        self._sent: deque[tuple[str, set[str]]] = deque()
        """Commands that are not fully answered yet, each with the names whose answers are due."""
        self._commands: list[tuple[str, str]] = []
        self._wake = asyncio.Event()
        self._pings = 0
        """The number of the last PING, over all connections; each PING carries its number."""
        self._probes: list[tuple[int, Latch]] = []
        """Callers of `probe`, each with the number of the PING that must be answered, that one or a later one."""
        self._answers = 0
        """Replies to commands of any kind."""
        self._unconfirmed: dict[str, int] = {}
        """SSUBSCRIBEs not confirmed yet for each channel: only the reply to the last of them confirms the channel."""
        self.backoff = Backoff(*RECONNECT_S)
        where = f" at {name}" if name else ""
        self.outage = Outage(
            logger,
            f"Lost the subscriptions to the store's channels{where}, resubscribing",
            f"Subscribed to the store's channels{where} again",
        )

    def is_confirmed(self, name: str) -> bool:
        event = self._wanted.get(name)
        return event is not None and event.is_set()

    @property
    def resubscriptions(self) -> int:
        return self.backoff.retries

    def __len__(self) -> int:
        return len(self._wanted)

    def subscribe(self, name: str, latch: Latch | None = None) -> Latch:
        """Like `Subscriptions.subscribe`; `latch` is that of a channel released by another server."""
        event = self._wanted.get(name)
        if event is None:
            event = self._wanted[name] = latch or Latch()
            self._queue("SSUBSCRIBE", name)
        return event

    def unsubscribe(self, name: str) -> None:
        if self._wanted.pop(name, None) is not None:
            self.misplaced.discard(name)
            self._queue("SUNSUBSCRIBE", name)

    def release(self, name: str) -> Latch:
        """Unsubscribe from a channel and return its latch, for the server that takes the channel over."""
        latch = self._wanted[name]
        latch.clear()
        self.unsubscribe(name)
        return latch

    async def probe(self) -> bool:
        """Whether the server answers a PING now, which it does after all earlier commands.

        If there is no connection at the moment, one may be made within the timeout.
        """
        answered = Latch()
        probe = (self._ping(), answered)
        self._probes.append(probe)
        try:
            async with asyncio.timeout(self._timeout_s):
                await answered.wait()
        except TimeoutError:
            return False
        finally:
            self._probes.remove(probe)
        return True

    async def unconfirmed_primaries(self) -> list[str]:
        return [] if await self.probe() else [self.name]

    async def run(self) -> None:
        while True:
            connection = self.pool.make_connection()  # type: ignore[no-untyped-call] # redis-py has no types here
            try:
                await self._converse(connection)
            except Exception as error:
                # A broken connection may make redis-py raise anything; it is logged and the loop reconnects.
                self.outage.failed(_named(error))
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
        self._commands = [("SSUBSCRIBE", name) for name in sorted(self._wanted)]
        self._sent.clear()
        self.misplaced.clear()
        self._ping()
        async with asyncio.TaskGroup() as all_:
            all_.create_task(self._read(connection))
            all_.create_task(self._write(connection))
            all_.create_task(self._watch())

    async def _read(self, connection: AbstractConnection) -> None:
        while True:
            try:
                reply = await connection.read_response(timeout=math.inf, disconnect_on_error=False, push_request=True)
            except ResponseError as error:
                self._answers += 1
                self._refused(error)
                continue
            kind, name = _kind_and_name(reply)
            if kind == b"smessage":
                self._on_message(name, reply[2])
                continue
            self._answers += 1
            if kind == b"pong":
                self._is_answered("PING", name)
                self._pong(int(name))
            elif kind == b"ssubscribe":
                self._is_answered("SSUBSCRIBE", name)
                self._confirm(name)
            elif kind == b"sunsubscribe" and not self._is_answered("SUNSUBSCRIBE", name):
                self._lose([name])

    async def _watch(self) -> None:
        """Raises NoAnswer if a command stays unanswered, whether or not messages arrive meanwhile."""
        checks = 0
        while True:
            answers, due = self._answers, len(self._sent) + len(self._commands)
            if not due:
                self._ping()
            await asyncio.sleep(self._timeout_s / CHECKS)
            checks = checks + 1 if self._answers == answers else 0
            if checks == CHECKS:
                raise NoAnswer(f"the server has not answered for {self._timeout_s:g} s")

    async def _write(self, connection: AbstractConnection) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            commands, self._commands = self._commands, []
            for command, names in _runs(commands, self._clustered):
                self._sent.append((command, set(names)))
                with kept_cancellation():
                    await connection.send_command(command, *names, check_health=False)

    def _is_answered(self, command: str, name: str) -> bool:
        """Whether this is the answer due next; if not, the server has dropped the channel by itself."""
        if not self._sent or self._sent[0][0] != command or name not in self._sent[0][1]:
            return False
        due = self._sent[0][1]
        due.remove(name)
        if not due:
            self._sent.popleft()
        return True

    def _refused(self, error: ResponseError) -> None:
        """Handle an error reply to the oldest command: its slot is not at this server, or PING is not permitted.

        Other errors are raised.
        """
        command, names = self._sent.popleft() if self._sent else ("", set[str]())
        if command == "PING":
            self._pong(int(names.pop()))
        elif not isinstance(error, MovedError | ClusterDownError):
            raise error
        elif command == "SSUBSCRIBE":
            for name in names:
                self._unconfirmed[name] = self._unconfirmed.get(name, 1) - 1
            self._lose(names)

    def _lose(self, names: Iterable[str]) -> None:
        lost = [name for name in names if name in self._wanted and not self._unconfirmed.get(name)]
        for name in lost:
            self._wanted[name].clear()
        if lost:
            self.misplaced.update(lost)
            self._on_misplaced()

    def _pong(self, number: int) -> None:
        """Handle the reply to a PING; all commands sent before it have been answered as well."""
        self.backoff.reset()
        self.outage.worked()
        for least, answered in self._probes:
            if least <= number:
                answered.set()

    def _ping(self) -> int:
        self._pings += 1
        self._queue("PING", str(self._pings))
        return self._pings

    def _confirm(self, name: str) -> None:
        left = self._unconfirmed.pop(name, 1) - 1
        if left:
            self._unconfirmed[name] = left
        elif (event := self._wanted.get(name)) is not None:
            event.set()
            self._on_confirmed(name)

    def _queue(self, command: str, name: str) -> None:
        if command == "SSUBSCRIBE":
            self._unconfirmed[name] = self._unconfirmed.get(name, 0) + 1
        self._commands.append((command, name))
        self._wake.set()


def _runs(commands: list[tuple[str, str]], clustered: bool) -> list[tuple[str, list[str]]]:
    """Merge adjacent commands of a kind, keeping the order; on a cluster only if their channels share a hash tag.

    PINGs are not merged.
    """
    runs: list[tuple[str, list[str]]] = []
    last = ("", "")
    for command, name in commands:
        kind = (command, name.partition("}")[0] if clustered else "")
        if kind != last or command == "PING" or len(runs[-1][1]) >= NAMES_PER_COMMAND:
            runs.append((command, []))
            last = kind
        runs[-1][1].append(name)
    return runs


def _kind_and_name(reply: Any) -> tuple[bytes, str]:
    """The kind and the channel, or the text of a PING, of a reply that is not an error.

    In RESP2 the reply to PING is [pong, text] on a connection with subscriptions, and the text alone without. In RESP3
    it is always the text alone.
    """
    return (b"pong", reply.decode()) if isinstance(reply, bytes) else (reply[0], reply[1].decode())


def _named(error: Exception) -> str:
    """Describe an error, or the cause inside a task group's exception."""
    cause = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
    return f"{type(cause).__name__}: {cause}"
