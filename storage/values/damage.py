"""Stored values that can't be read: a type for them, and the one place that counts and logs them.

Whatever the store holds, of whatever bytes, may cost no more than its own record or its own video. So what decodes a
stored value answers it or `Damaged`, never an exception, and the types make each caller handle both. What scripts take
for sound is what `storage/values/packing.py` and `storage/values/audience.py` can read (`lua/sound.lua`).
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
"""Lines of the log at once, and from then on; what they can't tell is still counted."""
MAX_KNOWN = 10_000
"""Values that were logged and are remembered, so that each is logged once."""
KINDS = ("record", "learner", "entry", "totals", "catalogue", "push", "ended", "epoch", "fence", "key")
"""What can be damaged, as /metrics names it. learner: the revision, or the key of all records; totals: of a video, its
summary, curve, audience or live viewers as a whole; push: a message; key: a name that is not ours."""


@dataclass(frozen=True, slots=True)
class Damaged:
    """A stored value that we did not write, or that was changed since; `why` is for the log and names no content."""

    why: str


FOREIGN = Damaged("its key holds another Redis type")


class DamageLog:
    """What one process has met.

    Args:
        clock: s, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.counts: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
        """By kind, how often a damaged value was met."""
        self._known: dict[tuple[str, str], None] = {}
        self._lines = float(LINES)
        self._at = clock()

    def found(self, kind: str, what: str, damaged: Damaged) -> None:
        """Count it, and log it once: `what` names the value, such as its user and video."""
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
            "The stored %s of %.200s can't be read (%s); `playhead rebuild` mends what can be mended",
            kind,
            what,
            damaged.why,
        )


def named(user_id: str, video_id: str) -> str:
    """A record, as `DamageLog.found` is told of it."""
    return f"user {user_id!r}, video {video_id!r}"


def is_foreign(reply: object) -> bool:
    """Whether a command failed because its key holds another Redis type than ours."""
    error = reply.__cause__ if isinstance(reply, StoreUnavailable) else reply
    return isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE")


def or_damaged(replies: Iterable[Any]) -> list[Any]:
    """Replies, with FOREIGN in the place of those whose key holds another type; other errors are left as they are."""
    return [FOREIGN if is_foreign(reply) else reply for reply in replies]
