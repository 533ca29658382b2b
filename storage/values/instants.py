"""What is believed of the instants in the store: each was made by the clock of some process, right or wrong."""

from typing import NamedTuple

CLOCKS_APART_MS = 100
"""How far the clocks of two processes may lie apart: each has read the store's (server/clock.py)."""
RECEIPT_MS = 1_000
"""What may lie between a report's arrival, by which it is dated, and its place in the batch."""


class Instants(NamedTuple):
    """What a commit believes of the instants in stored records: the arguments of `protocol.record.believed`."""

    latest: int
    before: int

    @classmethod
    def of(cls, since: int, latest: int, now: int) -> "Instants":
        """For a batch of reports that arrived from `since` to `latest`, 0 where it has none.

        Args:
            now: ms since 1970, of this attempt: an earlier one may have failed long ago.
        """
        return cls(max(now, latest) + CLOCKS_APART_MS, max(2, min(since or now, now) - RECEIPT_MS))
