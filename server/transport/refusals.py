"""Logs which connections were refused before a conversation started, and which setting would admit them.

Whatever peers do, there is at most one line for each reason in PERIOD_S. The first refusal is logged immediately; the
next line has the number of refusals in between. No line contains a path, query or body, which may be confidential.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable

logger = logging.getLogger(__name__)

PERIOD_S = 60.0


class Refusals:
    """Logs the refusals of one process; `counts.py` counts them.

    Args:
        clock: s, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._silent_until: dict[str, float] = {}
        self._suppressed: Counter[str] = Counter()

    def add(self, reason: str, message: str, *args: object) -> None:
        """Log a refusal, unless one for the same reason was logged less than PERIOD_S ago.

        Args:
            reason: one of a fixed set of words.
            message: the logger's format string; says what was refused, and what would change that.
        """
        now = self._clock()
        if now < self._silent_until.get(reason, -math.inf):
            self._suppressed[reason] += 1
            return
        self._silent_until[reason] = now + PERIOD_S
        suppressed = self._suppressed.pop(reason, 0)
        more = f" ({suppressed:,} more like this since the last such line)" if suppressed else ""
        logger.warning(message + "%s", *args, more)
