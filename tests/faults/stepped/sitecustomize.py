"""A wall clock that can be set: with this folder on PYTHONPATH, SIGUSR1 puts it an hour on, SIGUSR2 an hour back."""

import signal
import time

HOUR_S = 3_600
_offset_s = 0
_time, _time_ns = time.time, time.time_ns


def _step(number: int, _: object) -> None:
    global _offset_s
    _offset_s += HOUR_S if number == signal.SIGUSR1 else -HOUR_S


time.time = lambda: _time() + _offset_s
time.time_ns = lambda: _time_ns() + _offset_s * 1_000_000_000
signal.signal(signal.SIGUSR1, _step)
signal.signal(signal.SIGUSR2, _step)
