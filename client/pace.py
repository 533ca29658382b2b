"""How fast and how soon: frames within the server's limits, and delays between attempts to connect. Times in s."""

import time
from collections.abc import Callable

FRAMES_PER_S = 15.0
FRAMES_BURST = 100.0
"""Below what a server allows a connection by default, 20 a second and 200 at once: pings and syncs need room too."""
SLOWEST = 1.0


class Pace:
    """Frames of one connection after the other; fewer for good when a server finds it too fast."""

    def __init__(self, per_s: float = FRAMES_PER_S, burst: float = FRAMES_BURST) -> None:
        self._per_s = per_s
        self._burst = burst
        self._tokens = burst
        self._at = self._started = 0.0

    def start(self, now: float) -> None:
        """A new connection."""
        self._tokens, self._at, self._started = self._burst, now, now

    def room(self, now: float) -> int:
        """How many frames may be sent."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_s)
        self._at = now
        return int(self._tokens)

    def sent(self, frames: int) -> None:
        """They were."""
        self._tokens -= frames

    def wait_s(self) -> float:
        """Until there is room for one."""
        return max(0.0, (1.0 - self._tokens) / self._per_s)

    def slow_down(self, now: float) -> None:
        """That was too fast: too much at once, where the connection is young, else too much in the long run."""
        if now - self._started < self._burst / self._per_s:
            self._burst = max(SLOWEST, self._burst / 2)
        else:
            self._per_s = max(SLOWEST, self._per_s / 2)


class Backoff:
    """Full jitter: anywhere from 0 to a bound that doubles, so that those who lost a server don't return as one.

    Args:
        first_s, most_s: the bound of the first attempt, and of all later ones.
        dice: a number in [0, 1).
    """

    def __init__(self, first_s: float, most_s: float, dice: Callable[[], float]) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._dice = dice
        self._attempts = 0

    def next_s(self, retry_after_s: float = 0.0) -> float:
        """The delay before the next attempt; never less than the server asked for."""
        bound = min(self._most_s, self._first_s * 2.0 ** min(self._attempts, 30))
        self._attempts += 1
        return retry_after_s + bound * self._dice()

    def reset(self) -> None:
        """A conversation came about."""
        self._attempts = 0


def steady_clock() -> Callable[[], int]:
    """A clock in ms since 1970 that nobody sets: it starts at the system's time and goes on through a suspend."""
    number: int | None = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))

    def elapsed() -> float:
        if number is None:
            return time.monotonic()
        seconds: float = time.clock_gettime(number)
        return seconds

    offset = time.time() - elapsed()
    return lambda: round((offset + elapsed()) * 1_000)
