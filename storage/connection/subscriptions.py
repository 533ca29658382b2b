"""Subscriptions to the store's channels, which are sharded: one connection to a server, owned by one task.

redis-py's own PubSub may be reconnected by whoever uses it next, reader or subscriber, both at once and without a
word. Here a broken connection ends both directions, everything counts as unsubscribed until the store has confirmed it
anew, and whoever listens is told: `is_confirmed` is honest.

A connection may also be open and carry nothing, in one direction or both: a firewall that has forgotten it, a machine
that is gone. So something is always under way that the server must answer, at least a PING (allowed among
subscriptions in RESP2 and RESP3), and where no answer comes in time the connection is given up. Messages are no
answer: they prove that the server reaches us, not that we reach it.
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
"""The first delay and the longest. It never gives up: until then devices are told of changes too late or by reading."""
NAMES_PER_COMMAND = 500
LOOKS = 4
"""How often within a timeout it is looked whether the server answers. What is counted is looks and not seconds: a
process that was held up has not read what is there."""


class Silent(Exception):
    """The server did not answer in time."""


class Listening(Protocol):
    """What one process listens to."""

    def is_confirmed(self, name: str) -> bool:
        """Whether the store sends us what is published there."""
        ...

    def want(self, name: str) -> Latch:
        """Subscribe; the latch is set while the subscription is confirmed."""
        ...

    def drop(self, name: str) -> None:
        """Unsubscribe."""
        ...

    @property
    def resubscriptions(self) -> int:
        """How often channels were lost, or could not be had."""
        ...

    async def unheard(self) -> list[str]:
        """Names of primaries that confirm no subscription now: asked anew, each given as long as its timeout."""
        ...

    async def run(self) -> None:
        """Listen for ever; cancel it to stop."""
        ...


class Channels:
    """What one process listens to at one server.

    Args:
        pool: whose connections are made like the one that is needed here; may be replaced by another to the server.
        on_message: told the channel's name and what was published.
        on_confirmed: told a name when the store has confirmed it; again after each lost connection.
        on_astray: told when the server, one of a cluster, has not or no longer some of the channels (`astray`).
        clustered: a command may only name channels of one slot.
        name: of the server, "" where there is one alone.
        timeout_s: the longest wait for an answer.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        on_message: Callable[[str, bytes], None],
        on_confirmed: Callable[[str], None],
        on_astray: Callable[[], None] = lambda: None,
        clustered: bool = True,
        name: str = "",
        timeout_s: float = 5.0,
    ) -> None:
        self.name = name
        self.pool = pool
        self._timeout_s = timeout_s
        self._on_message = on_message
        self._on_confirmed = on_confirmed
        self._on_astray = on_astray
        self._clustered = clustered
        self.astray: set[str] = set()
        self._wanted: dict[str, Latch] = {}
        self._sent: deque[tuple[str, set[str]]] = deque()
        """Commands that are not fully answered yet, and the names whose answers are due."""
        self._commands: list[tuple[str, str]] = []
        self._wake = asyncio.Event()
        self._pings = 0
        """Asked for, by all connections: a PING is known by its number."""
        self._probes: list[tuple[int, Latch]] = []
        """Who waits for which PING, or a later one, to be answered."""
        self._answers = 0
        """Of whatever kind, to commands."""
        self._unconfirmed: dict[str, int] = {}
        """SSUBSCRIBEs not confirmed yet: the confirmation of one that was dropped since proves nothing."""
        self.backoff = Backoff(*RECONNECT_S)
        where = f" at {name}" if name else ""
        self.outage = Outage(
            logger, f"Lost the store's channels{where}, subscribing again", f"Subscribed to the store's channels{where}"
        )

    def is_confirmed(self, name: str) -> bool:
        event = self._wanted.get(name)
        return event is not None and event.is_set()

    @property
    def resubscriptions(self) -> int:
        return self.backoff.retries

    def __len__(self) -> int:
        return len(self._wanted)

    def want(self, name: str, latch: Latch | None = None) -> Latch:
        """As `Listening.want`; `latch`: of one that was released elsewhere."""
        event = self._wanted.get(name)
        if event is None:
            event = self._wanted[name] = latch or Latch()
            self._queue("SSUBSCRIBE", name)
        return event

    def drop(self, name: str) -> None:
        if self._wanted.pop(name, None) is not None:
            self.astray.discard(name)
            self._queue("SUNSUBSCRIBE", name)

    def release(self, name: str) -> Latch:
        """Unsubscribe from one that is wanted, and let go of its latch: somebody else goes on with it."""
        latch = self._wanted[name]
        latch.clear()
        self.drop(name)
        return latch

    async def probe(self) -> bool:
        """Whether a subscription would be confirmed now: the server answers, and so it has all that was asked before.

        Where it has none just now, there is time for a connection.
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

    async def unheard(self) -> list[str]:
        return [] if await self.probe() else [self.name]

    async def run(self) -> None:
        while True:
            connection = self.pool.make_connection()  # type: ignore[no-untyped-call] # redis-py has no types here
            try:
                await self._converse(connection)
            except Exception as error:
                # Whatever a broken connection makes redis-py raise; the loop and its log are the handling.
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
        self.astray.clear()
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
        """Raises Silent: what is due has not been answered, however much is published meanwhile."""
        looks = 0
        while True:
            answers, due = self._answers, len(self._sent) + len(self._commands)
            if not due:
                self._ping()
            await asyncio.sleep(self._timeout_s / LOOKS)
            looks = looks + 1 if self._answers == answers else 0
            if looks == LOOKS:
                raise Silent(f"the server has not answered for {self._timeout_s:g} s")

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
        """Whether this is the answer that was due next: else the server has let the channel go by itself."""
        if not self._sent or self._sent[0][0] != command or name not in self._sent[0][1]:
            return False
        due = self._sent[0][1]
        due.remove(name)
        if not due:
            self._sent.popleft()
        return True

    def _refused(self, error: ResponseError) -> None:
        """The oldest command has failed: its slot is not, or not now, at this server, or a PING is not allowed.

        Raises whatever else it is.
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
            self.astray.update(lost)
            self._on_astray()

    def _pong(self, number: int) -> None:
        """All that was asked before this PING is answered too."""
        self.backoff.reset()
        self.outage.worked()
        for wanted, answered in self._probes:
            if wanted <= number:
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
    """Neighbouring commands of a kind as one, in order; on a cluster only where their names share a hash tag.

    A PING is one alone.
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
    """Of a reply that is no error; what answers PING has three forms.

    RESP2 answers [pong, text] on a connection with subscriptions and the text alone on one without, RESP3 always that.
    """
    return (b"pong", reply.decode()) if isinstance(reply, bytes) else (reply[0], reply[1].decode())


def _named(error: Exception) -> str:
    """The cause inside a task group's wrapping."""
    cause = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
    return f"{type(cause).__name__}: {cause}"
