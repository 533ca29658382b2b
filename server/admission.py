"""How many may be connected, and how fast they may come. The transport's own limit would count REST with them."""

from collections import Counter

from protocol.errors import PeerError, Problem
from server.clock import Clock
from server.limits import Slots
from server.settings import Settings


class Busy(PeerError):
    """Come back after `retry_after_s`, and not before."""

    def __init__(self, detail: str, retry_after_s: float) -> None:
        super().__init__(Problem.BUSY, detail)
        self.retry_after_s = retry_after_s


class Admission:
    """The WebSockets of one process, by address and by user."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._addresses: Counter[str] = Counter()
        self._users: Counter[str] = Counter()
        self._slots = Slots(settings.hellos_per_s, settings.hellos_burst, self._now())
        self.connections = 0

    def connect(self, address: str) -> None:
        """Count a socket; `disconnect` must follow.

        Raises:
            PeerError: too many of this process or of this address. It is not counted.
        """
        settings = self._settings
        if self.connections >= settings.max_connections:
            raise PeerError(Problem.BUSY, f"at most {settings.max_connections} connections")
        if self._addresses[address] >= settings.max_connections_per_address:
            raise PeerError(Problem.RATE, f"at most {settings.max_connections_per_address} connections of one address")
        self.connections += 1
        self._addresses[address] += 1

    def disconnect(self, address: str) -> None:
        self.connections -= 1
        _drop(self._addresses, address)

    def greet(self) -> None:
        """Raises Busy where more say hello than can be brought up to date; each is given a slot of its own."""
        wait_s = self._slots.take(self._now())
        if wait_s:
            raise Busy("too many come at once", wait_s)

    def join(self, user_id: str) -> None:
        """Count a user's socket; `leave` must follow. Raises PeerError: too many. It is not counted."""
        if self._users[user_id] >= self._settings.max_connections_per_user:
            raise PeerError(Problem.RATE, f"at most {self._settings.max_connections_per_user} connections of one user")
        self._users[user_id] += 1

    def leave(self, user_id: str) -> None:
        _drop(self._users, user_id)

    def _now(self) -> float:
        return self._clock().mono / 1_000


def _drop(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
