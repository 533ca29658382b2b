"""One log line when an operation starts to fail and one when it succeeds again, however many attempts are between."""

import logging
import time
from collections.abc import Callable


class Outage:
    """The log lines of a retry loop.

    Args:
        logger: the logger of the loop's module.
        failing: the first line, followed by the reason.
        working: the last line, followed by the duration and the number of failures.
        clock: s, monotonic.
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
    def is_ongoing(self) -> bool:
        """Whether the last attempt failed."""
        return self._failures > 0

    def failed(self, why: object) -> None:
        """Count a failed attempt. `why` is logged as it is, so it must contain no secret."""
        self._failures += 1
        if self._failures == 1:
            self._since = self._clock()
            self._logger.warning("%s: %s", self._failing, why)

    def worked(self) -> None:
        """Note that an attempt succeeded."""
        if self._failures:
            took_s, failures, self._failures = self._clock() - self._since, self._failures, 0
            plural = "" if failures == 1 else "s"
            self._logger.warning("%s (after %.1f s and %d failure%s)", self._working, took_s, failures, plural)
