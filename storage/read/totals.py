"""The totals and curves of a video, as stage 2 of a commit keeps them, and their recount from the audience."""

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

from playhead.storage.connection.pipeline import Run
from playhead.storage.keys import Keys
from playhead.storage.read.catalogue import read_duration
from playhead.storage.read.curves import Curve as Curve
from playhead.storage.read.curves import Points
from playhead.storage.read.pieces import Pieces
from playhead.storage.values.damage import Damaged, DamageLog
from playhead.storage.values.instants import CLOCKS_APART_MS

AUDIENCE_PAGE = 200
POINTS_PAGE = 2_000
"""Of a curve, from all its shards together: a ms or two of the store, and of this process."""
P = TypeVar("P")
_TOTAL = re.compile(rb"-?[0-9]{1,15}")


@dataclass(frozen=True, slots=True)
class Totals:
    """A viewer has at least 1 s watched."""

    viewers: int = 0
    completed: int = 0
    watched: int = 0
    """Whole s, of all viewers."""


class VideoAnalytics(NamedTuple):
    """What instructors see of a video."""

    totals: Totals
    curve: Curve
    watching: int
    """Viewers who watch it now."""


class VideoTotals:
    """Reads what `lua/videos.lua` writes. Raises the store's StoreUnavailable.

    Until a new duration has reached every record, what is read here is held to it: nobody watched more, or beyond it.
    """

    def __init__(self, run_each: Run, keys: Keys, live_ms: int, damage: DamageLog, pieces: Pieces) -> None:
        self._run_each = run_each
        self._keys = keys
        self._live_ms = live_ms
        self._damage = damage
        self._pieces = pieces

    async def read(self, video_id: str) -> Totals | Damaged:
        stored, *summaries = await self._run_each([self._duration(video_id), *self._summaries(video_id)])
        return self._noted(video_id, read_totals(summaries, self._read_duration(video_id, stored)))

    async def read_all(self, video_id: str, now: int) -> VideoAnalytics | Damaged:
        """Totals, curve, and how many are watching at `now` (ms since 1970)."""
        shards = self._keys.shards(video_id)
        stored, *replies = await self._run_each(
            [
                self._duration(video_id),
                *self._summaries(video_id),
                *(("ZCOUNT", self._keys.live(shard), now - self._live_ms, now + CLOCKS_APART_MS) for shard in shards),
            ]
        )
        count, duration_ms = len(shards), self._read_duration(video_id, stored)
        watching = replies[count:]
        totals = read_totals(replies[:count], duration_ms)
        curve = await self._curve(shards, duration_ms)
        for part in (totals, curve, *watching):
            if isinstance(part, Damaged):
                return self._noted(video_id, part)
        assert isinstance(totals, Totals)  # noqa: S101 looked at above
        assert isinstance(curve, Curve)  # noqa: S101 so was this
        return VideoAnalytics(totals, curve, sum(watching))

    async def audience(self, video_id: str) -> AsyncIterator[list[str]]:
        """Everybody with an entry, some at a time; who comes or goes meanwhile may be in it, or not, or twice."""
        for shard in self._keys.shards(video_id):
            cursor, begun = 0, False
            while cursor or not begun:
                command = ("HSCAN", self._keys.audience(shard), cursor, "COUNT", AUDIENCE_PAGE)
                (reply,) = await self._run_each([command])
                if isinstance(reply, Damaged):
                    self._noted(video_id, reply)
                    break
                position, entries = reply
                yield [user_id for user_id in map(self._user, entries) if user_id]
                cursor, begun = int(position), True

    async def _curve(self, shards: Sequence[str], duration_ms: int) -> Curve | Damaged:
        points, cursors = Points(), dict.fromkeys(range(len(shards)), 0)
        while cursors:
            count = max(POINTS_PAGE // len(cursors), POINTS_PAGE // 16)
            commands = [("HSCAN", self._keys.curve(shards[n]), cursor, "COUNT", count) for n, cursor in cursors.items()]
            for n, reply in zip(list(cursors), await self._run_each(commands), strict=True):
                await self._pieces.next()
                if isinstance(reply, Damaged):
                    return reply
                if damaged := points.take(n, reply[1]):
                    return damaged
                if int(reply[0]):
                    cursors[n] = int(reply[0])
                else:
                    del cursors[n]
        return points.curve(duration_ms)

    def _user(self, name: bytes) -> str:
        """A userId of an audience; "" for bytes that are none."""
        try:
            return name.decode()
        except UnicodeDecodeError:
            self._damage.found("entry", f"user {name[:100]!r}", Damaged("no userId"))
            return ""

    def _read_duration(self, video_id: str, stored: Any) -> int:
        """ms; 0 where it is not known, or can't be read."""
        duration_ms = read_duration(stored)
        if isinstance(duration_ms, Damaged):
            self._damage.found("catalogue", f"video {video_id!r}", duration_ms)
            return 0
        return duration_ms

    def _noted(self, video_id: str, part: P) -> P:
        if isinstance(part, Damaged):
            self._damage.found("totals", f"video {video_id!r}", part)
        return part

    def _summaries(self, video_id: str) -> list[tuple[Any, ...]]:
        names = ("viewers", "completed", "watched")
        return [("HMGET", self._keys.summary(shard), *names) for shard in self._keys.shards(video_id)]

    def _duration(self, video_id: str) -> tuple[Any, ...]:
        return ("HGET", self._keys.catalogue(video_id), "duration_ms")


def read_totals(shards: Sequence[Any], duration_ms: int = 0) -> Totals | Damaged:
    """The sums of the summaries of all shards, (viewers, completed, watched) or Damaged each."""
    sums = [0, 0, 0]
    for summary in shards:
        if isinstance(summary, Damaged):
            return summary
        for place, value in enumerate(summary):
            if value is not None and not _TOTAL.fullmatch(value):
                return Damaged("a total is no integer")
            sums[place] += int(value or 0)
    return _held(Totals(*sums), duration_ms)


def _held(totals: Totals, duration_ms: int) -> Totals:
    most = totals.viewers * (duration_ms // 1_000)
    return replace(totals, watched=min(totals.watched, most)) if duration_ms else totals
