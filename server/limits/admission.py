"""The open WebSockets of one process: how many there may be, and how fast they may connect.

The transport's own limit would count REST connections with them.
"""

import asyncio
from collections import Counter
from collections.abc import Collection
from typing import Protocol

from playhead.protocol.errors import CloseCode, PeerError, Problem
from playhead.server.clock import Clock
from playhead.server.limits.newcomers import Newcomers
from playhead.server.limits.rates import Buckets, ReconnectSlots
from playhead.server.settings import Settings


class Busy(PeerError):
    """Too many connections; the client may connect again after `retry_after_s`."""

    def __init__(self, detail: str, retry_after_s: float) -> None:
        super().__init__(Problem.BUSY, detail)
        self.retry_after_s = retry_after_s


class OpenSocket(Protocol):
    """An accepted WebSocket as admission and drain use it; `server/socket/channel.py` has the real one."""

    def give_way(self) -> None:
        """Close a socket that has not sent a valid hello, in favour of a younger one."""
        ...

    def hold(self) -> None:
        """Accept no more reports."""
        ...

    def end(self, problem: Problem, code: CloseCode, retry_after_s: float | None = None) -> None:
        """Send a goodbye and close."""
        ...

    def abort(self) -> None:
        """Cut the connection off."""
        ...


class Admission:
    """Admits WebSockets and counts them: all that are open, those without a valid hello, and the rest by address
    and by user.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._sockets: dict[OpenSocket, None] = {}
        """Every accepted socket that is not gone yet."""
        self._newcomers: Newcomers[OpenSocket] = Newcomers(settings.max_newcomers, settings.max_newcomers_per_address)
        self._joined = 0
        """Sockets that have sent a valid hello."""
        self._addresses: Counter[str] = Counter()
        self._users: Counter[str] = Counter()
        self._hellos = Buckets(settings.user_hellos_per_s, settings.user_hellos_burst, "hellos of one user")
        self._slots = ReconnectSlots(settings.hellos_per_s, settings.hellos_burst, self._now())
        self._stopped = False
        self._left = asyncio.Event()

    @property
    def sockets(self) -> Collection[OpenSocket]:
        """Every accepted socket that is not gone yet, the oldest first."""
        return self._sockets.keys()

    def stop(self) -> None:
        """Accept no more sockets: the process is about to end."""
        self._stopped = True

    async def wait_until_empty(self) -> None:
        """Wait until no socket is left."""
        while self._sockets:
            self._left.clear()
            await self._left.wait()

    def accept(self, socket: OpenSocket, address: str) -> None:
        """Count a socket whose handshake is answered; the oldest without a hello gives way where there are too many.
        `leave` must follow.

        Raises:
            PeerError: the process is about to end. The socket is not counted.
        """
        if self._stopped:
            raise PeerError(Problem.RESTARTING, "this process is about to end; connect again to reach another")
        self._sockets[socket] = None
        oldest = self._newcomers.enter(socket, address)
        if oldest is not None:
            oldest.give_way()

    def join(self, socket: OpenSocket, address: str, user_id: str) -> None:
        """Count a socket by its address and user once its hello is valid.

        The limits of one user and one address are checked first, and the shared rate last: a user who is refused
        anyway takes nothing from others.

        Raises:
            PeerError: too many of this process, address or user, or too often. The socket stays a newcomer.
        """
        settings, now = self._settings, self._now()
        caller = user_id if settings.auth else (address, user_id)
        self._hellos.take(caller, now)
        if self._users[user_id] >= settings.max_connections_per_user:
            raise PeerError(
                Problem.RATE,
                f"at most {settings.max_connections_per_user} connections of one user (max_connections_per_user)",
            )
        if self._addresses[address] >= settings.max_connections_per_address:
            most = settings.max_connections_per_address
            raise PeerError(Problem.RATE, f"at most {most} connections of one address (max_connections_per_address)")
        if self._joined >= settings.max_connections:
            raise PeerError(Problem.BUSY, f"at most {settings.max_connections} connections (max_connections)")
        if wait_s := self._slots.take(caller, now):
            raise Busy("too many connections at once (hellos_per_s, hellos_burst)", wait_s)
        self._newcomers.leave(socket)
        self._joined += 1
        self._addresses[address] += 1
        self._users[user_id] += 1

    def leave(self, socket: OpenSocket, address: str, user_id: str) -> None:
        """Forget a socket that is gone. `user_id` is empty where it never joined."""
        del self._sockets[socket]
        self._newcomers.leave(socket)
        if user_id:
            self._joined -= 1
            _decrement(self._addresses, address)
            _decrement(self._users, user_id)
        self._left.set()

    def _now(self) -> float:
        return self._clock().mono / 1_000


def _decrement(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
