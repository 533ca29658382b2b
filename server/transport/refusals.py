"""Says in the log who was refused before a conversation began, and which setting would let them in.

Whatever peers do, that is one line a reason in PERIOD_S. The first refusal is logged at once; the next line says how
many came in between. No path, query or body is in it, for those may hold what nobody else should read.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable

logger = logging.getLogger(__name__)

PERIOD_S = 60.0


class Refusals:
    """The lines of one process; `server/transport/counts.py` counts. Args: clock: s, monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._silent_until: dict[str, float] = {}
        self._unsaid: Counter[str] = Counter()

    def add(self, reason: str, message: str, *args: object) -> None:
        """Log it, unless a line of this reason was logged less than PERIOD_S ago.

        Args:
            reason: one of a few words of ours.
            message: as the logger takes it; names what was refused and what would change that.
        """
        now = self._clock()
        if now < self._silent_until.get(reason, -math.inf):
            self._unsaid[reason] += 1
            return
        self._silent_until[reason] = now + PERIOD_S
        unsaid = self._unsaid.pop(reason, 0)
        more = f" ({unsaid:,} more like this since the last such line)" if unsaid else ""
        logger.warning(message + "%s", *args, more)
