"""One line in the log when something fails, and one when it works again, however often it is tried in between."""

import logging
import time
from collections.abc import Callable


class Outage:
    """What a loop that tries again and again tells the log.

    Args:
        logger: of the module that the loop is in.
        failing: the first line, which the reason follows.
        working: the last line, which the duration and the number of failures follow.
    """

    def __init__(
        self, logger: logging.Logger, failing: str, working: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger = logger
        self._failing = failing
        self._working = working
        self._clock = clock
        self._since = 0.0
        self._failures = 0

    @property
    def lasts(self) -> bool:
        """Whether the last attempt failed."""
        return self._failures > 0

    def failed(self, why: object) -> None:
        """One more attempt failed. `why` is logged as it is: it holds no secret."""
        self._failures += 1
        if self._failures == 1:
            self._since = self._clock()
            self._logger.warning("%s: %s", self._failing, why)

    def worked(self) -> None:
        """An attempt worked."""
        if self._failures:
            took_s, failures, self._failures = self._clock() - self._since, self._failures, 0
            plural = "" if failures == 1 else "s"
            self._logger.warning("%s (after %.1f s and %d failure%s)", self._working, took_s, failures, plural)
