"""The rate of frames, within the server's limits, and the delays between attempts to connect. Times in s."""

import time
from collections.abc import Callable

FRAMES_PER_S = 15.0
FRAMES_BURST = 100.0
"""Below a server's default limits of 20 per second and 200 at once, because pings and syncs count too."""
SLOWEST = 1.0


class Pace:
    """A rate limit for frames. It stays lower for later connections after a server has found it too fast."""

    def __init__(self, per_s: float = FRAMES_PER_S, burst: float = FRAMES_BURST) -> None:
        self._per_s = per_s
        self._burst = burst
        self._tokens = burst
        self._at = self._started = 0.0

    def start(self, now: float) -> None:
        """Begin a new connection with a full burst."""
        self._tokens, self._at, self._started = self._burst, now, now

    def room(self, now: float) -> int:
        """The number of frames that may be sent now."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_s)
        self._at = now
        return int(self._tokens)

    def sent(self, frames: int) -> None:
        """Count frames that were sent."""
        self._tokens -= frames

    def wait_s(self) -> float:
        """The time until one frame may be sent."""
        return max(0.0, (1.0 - self._tokens) / self._per_s)

    def slow_down(self, now: float) -> None:
        """Halve the burst if the connection is young, else the rate: the server has found it too fast."""
        if now - self._started < self._burst / self._per_s:
            self._burst = max(SLOWEST, self._burst / 2)
        else:
            self._per_s = max(SLOWEST, self._per_s / 2)


class Backoff:
    """Delays with full jitter: random between 0 and a bound that doubles, so that clients of a lost server spread out.

    Args:
        first_s, most_s: the bound before the first attempt, and the largest bound.
        uniform: a random number in [0, 1).
    """

    def __init__(self, first_s: float, most_s: float, uniform: Callable[[], float]) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._uniform = uniform
        self._attempts = 0

    def next_s(self, retry_after_s: float = 0.0) -> float:
        """The delay before the next attempt; never less than the server has asked for."""
        bound = min(self._most_s, self._first_s * 2.0 ** min(self._attempts, 30))
        self._attempts += 1
        return retry_after_s + bound * self._uniform()

    def reset(self) -> None:
        """Start again with the first bound, after a success."""
        self._attempts = 0


def steady_clock() -> Callable[[], int]:
    """A monotonic clock in ms since 1970: it starts at the system's time and continues through a suspend."""
    number: int | None = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))

    def elapsed() -> float:
        if number is None:
            return time.monotonic()
        seconds: float = time.clock_gettime(number)
        return seconds

    offset = time.time() - elapsed()
    return lambda: round((offset + elapsed()) * 1_000)
