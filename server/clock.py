"""The server's two clocks, passed to whatever needs the time."""

import time
from collections.abc import Callable

from protocol.session import Now

Clock = Callable[[], Now]


def system_clock() -> Now:
    """The machine's wall clock and its monotonic clock, ms."""
    return Now(time.time_ns() // 1_000_000, time.monotonic_ns() // 1_000_000)
