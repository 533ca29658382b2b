"""Stored values that cannot be read: their type, and the one place that counts and logs them.

A damaged value may affect only its own record or its own video, whatever its bytes are. So functions that decode stored
values return the value or `Damaged` and never raise, and the types make every caller handle both. The scripts accept
the same values as `storage/values/packing.py` and `storage/values/audience.py` (`lua/sound.lua`).
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from playhead.storage.errors import StoreUnavailable

logger = logging.getLogger(__name__)

LINES, LINES_PER_S = 20, 1 / 60
"""The burst and the rate of log lines; values beyond them are counted, not logged."""
MAX_KNOWN = 10_000
"""Logged values that are remembered, so that each is logged once."""
KINDS = ("record", "learner", "entry", "totals", "catalogue", "push", "ended", "epoch", "fence", "key")
"""Kinds of damaged values, as /metrics names them. learner: a learner's revision, or the key of all their records;
totals: a video's summary, curve, audience or live viewers as a whole; push: a message; key: a key name that Playhead
did not write."""


@dataclass(frozen=True, slots=True)
class Damaged:
    """A stored value that Playhead did not write, or that was changed since.

    `why` is for the log and contains no part of the value.
    """

    why: str


FOREIGN = Damaged("its key holds another Redis type")
"""The reply of a command whose key is not of the type that Playhead writes."""


class DamageLog:
    """The damaged values that one process has read.

    Args:
        clock: s, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.counts: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
        """By kind, how often a damaged value was read."""
        self._known: dict[tuple[str, str], None] = {}
        self._lines = float(LINES)
        self._at = clock()

    def found(self, kind: str, what: str, damaged: Damaged) -> None:
        """Count a damaged value, and log it once. `what` names the value, such as its user and video."""
        self.counts[kind] += 1
        if (kind, what) in self._known:
            return
        now = self._clock()
        self._lines = min(LINES, self._lines + (now - self._at) * LINES_PER_S)
        self._at = now
        if self._lines < 1:
            return
        self._lines -= 1
        while len(self._known) >= MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[kind, what] = None
        logger.error(
            "The stored %s of %.200s can't be read (%s); `playhead rebuild` repairs what it can",
            kind,
            what,
            damaged.why,
        )


def named(user_id: str, video_id: str) -> str:
    """The name of a record for `DamageLog.found`."""
    return f"user {user_id!r}, video {video_id!r}"


def is_foreign(reply: object) -> bool:
    """Whether a command failed because its key holds another Redis type."""
    error = reply.__cause__ if isinstance(reply, StoreUnavailable) else reply
    return isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE")


def or_damaged(replies: Iterable[Any]) -> list[Any]:
    """The replies, with FOREIGN in place of those whose key holds another type; other errors stay as they are."""
    return [FOREIGN if is_foreign(reply) else reply for reply in replies]
