"""How many may be connected, and how fast they may come. The transport's own limit would count REST with them."""

from collections import Counter
from typing import Protocol

from playhead.protocol.errors import PeerError, Problem
from playhead.server.clock import Clock
from playhead.server.limits.newcomers import Newcomers
from playhead.server.limits.rates import Buckets, ReconnectSlots
from playhead.server.settings import Settings


class Busy(PeerError):
    """Come back after `retry_after_s`, and not before."""

    def __init__(self, detail: str, retry_after_s: float) -> None:
        super().__init__(Problem.BUSY, detail)
        self.retry_after_s = retry_after_s


class Newcomer(Protocol):
    """A socket before its hello."""

    def give_way(self) -> None:
        """Close: a younger one needs the place."""


class Admission:
    """The WebSockets of one process: newcomers, and those that have said a valid hello, by address and by user."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._newcomers: Newcomers[Newcomer] = Newcomers(settings.max_newcomers, settings.max_newcomers_per_address)
        self._addresses: Counter[str] = Counter()
        self._users: Counter[str] = Counter()
        self._hellos = Buckets(settings.user_hellos_per_s, settings.user_hellos_burst, "hellos of one user")
        self._slots = ReconnectSlots(settings.hellos_per_s, settings.hellos_burst, self._now())
        self.connections = 0
        """That have said a valid hello."""

    def connect(self, newcomer: Newcomer, address: str) -> None:
        """Count a socket that was accepted; the oldest gives way where there are too many. `forget` must follow."""
        oldest = self._newcomers.enter(newcomer, address)
        if oldest is not None:
            oldest.give_way()

    def forget(self, newcomer: Newcomer) -> None:
        """It is gone, or has said a valid hello."""
        self._newcomers.leave(newcomer)

    def join(self, address: str, user_id: str) -> None:
        """Count a socket whose hello is valid; `leave` must follow.

        What concerns one user or address comes first, and what all share last: a user who is refused anyway takes
        nothing from others.

        Raises:
            PeerError: too many of this process, address or user, or too often. It is not counted.
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
        if self.connections >= settings.max_connections:
            raise PeerError(Problem.BUSY, f"at most {settings.max_connections} connections (max_connections)")
        if wait_s := self._slots.take(caller, now):
            raise Busy("too many come at once (hellos_per_s, hellos_burst)", wait_s)
        self.connections += 1
        self._addresses[address] += 1
        self._users[user_id] += 1

    def leave(self, address: str, user_id: str) -> None:
        self.connections -= 1
        _drop(self._addresses, address)
        _drop(self._users, user_id)

    def _now(self) -> float:
        return self._clock().mono / 1_000


def _drop(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
