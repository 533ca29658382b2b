"""Sleep by select(): libfaketime 0.9.10 refuses clock_nanosleep() with an absolute time, by which Python sleeps."""

import select
import time
from typing import SupportsIndex


def _sleep(seconds: float | SupportsIndex, /) -> None:
    select.select((), (), (), float(seconds))


time.sleep = _sleep
