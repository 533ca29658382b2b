"""The bounds of stored instants: each comes from the clock of some process, which may be wrong."""

from typing import NamedTuple

CLOCKS_APART_MS = 100
"""The largest difference between the clocks of two processes, which both follow the store's (server/clock.py)."""
RECEIPT_MS = 1_000
"""The longest time between a report's arrival, which dates it, and its entry into the batch."""


class Instants(NamedTuple):
    """The bounds for instants in stored records during a commit: the arguments of `protocol.record.clamp_instants`."""

    latest: int
    before: int

    @classmethod
    def of(cls, since: int, latest: int, now: int) -> "Instants":
        """The bounds for a batch of reports that arrived from `since` to `latest`; both are 0 for a batch without any.

        Args:
            now: ms since 1970 at this attempt; an earlier attempt may have failed long ago.
        """
        return cls(max(now, latest) + CLOCKS_APART_MS, max(2, min(since or now, now) - RECEIPT_MS))
