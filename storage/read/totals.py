"""Totals and curves of a video, as stage 2 of a commit maintains them."""

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

from playhead.storage.connection.pipeline import Run
from playhead.storage.keys import Keys
from playhead.storage.read.catalogue import read_duration
from playhead.storage.read.curves import Curve as Curve
from playhead.storage.read.curves import Points
from playhead.storage.read.time_slices import TimeSlices
from playhead.storage.values.damage import Damaged, DamageLog
from playhead.storage.values.instants import CLOCKS_APART_MS

AUDIENCE_PAGE = 200
POINTS_PAGE = 2_000
"""Points of a curve that are read at a time, from all shards together: 1 to 2 ms of the store and of this process."""
P = TypeVar("P")
_TOTAL = re.compile(rb"-?[0-9]{1,15}")


@dataclass(frozen=True, slots=True)
class Totals:
    """Totals of a video. A viewer is somebody who has watched at least 1 s."""

    viewers: int = 0
    completed: int = 0
    watched: int = 0
    """Whole seconds, the sum over all viewers."""


class VideoAnalytics(NamedTuple):
    """What instructors see of a video."""

    totals: Totals
    curve: Curve
    watching: int
    """Viewers who watch it now."""


class VideoTotals:
    """Reads the totals that `lua/videos.lua` writes. Every method raises StoreUnavailable if the store does not answer.

    Until a new duration has reached every record, the totals are capped to it: nobody watched more, or beyond it.
    """

    def __init__(self, run_each: Run, keys: Keys, live_ms: int, damage: DamageLog, time_slices: TimeSlices) -> None:
        self._run_each = run_each
        self._keys = keys
        self._live_ms = live_ms
        self._damage = damage
        self._time_slices = time_slices

    async def read(self, video_id: str) -> Totals | Damaged:
        """Read the current totals."""
        stored, *summaries = await self._run_each([self._duration(video_id), *self._summaries(video_id)])
        return self._reported(video_id, read_totals(summaries, self._read_duration(video_id, stored)))

    async def analytics(self, video_id: str, now: int) -> VideoAnalytics | Damaged:
        """Read totals, curve, and the number of viewers who are watching at `now` (ms since 1970)."""
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
                return self._reported(video_id, part)
        assert isinstance(totals, Totals)  # noqa: S101 checked above
        assert isinstance(curve, Curve)  # noqa: S101 checked above
        return VideoAnalytics(totals, curve, sum(watching))

    async def viewers(self, video_id: str) -> AsyncIterator[list[str]]:
        """Iterate over the userIds of the audience, in pages.

        Viewers who come or go meanwhile may be missing or appear twice.
        """
        for shard in self._keys.shards(video_id):
            cursor, started = 0, False
            while cursor or not started:
                command = ("HSCAN", self._keys.audience(shard), cursor, "COUNT", AUDIENCE_PAGE)
                (reply,) = await self._run_each([command])
                if isinstance(reply, Damaged):
                    self._reported(video_id, reply)
                    break
                position, entries = reply
                yield [user_id for user_id in map(self._user, entries) if user_id]
                cursor, started = int(position), True

    async def _curve(self, shards: Sequence[str], duration_ms: int) -> Curve | Damaged:
        points, cursors = Points(), dict.fromkeys(range(len(shards)), 0)
        while cursors:
            count = max(POINTS_PAGE // len(cursors), POINTS_PAGE // 16)
            commands = [("HSCAN", self._keys.curve(shards[n]), cursor, "COUNT", count) for n, cursor in cursors.items()]
            for n, reply in zip(list(cursors), await self._run_each(commands), strict=True):
                await self._time_slices.next()
                if isinstance(reply, Damaged):
                    return reply
                if damaged := points.add(n, reply[1]):
                    return damaged
                if int(reply[0]):
                    cursors[n] = int(reply[0])
                else:
                    del cursors[n]
        return points.curve(duration_ms)

    def _user(self, name: bytes) -> str:
        """Decode a userId of an audience; "" if it is not UTF-8."""
        try:
            return name.decode()
        except UnicodeDecodeError:
            self._damage.found("entry", f"user {name[:100]!r}", Damaged("the userId is not UTF-8"))
            return ""

    def _read_duration(self, video_id: str, stored: Any) -> int:
        """Decode a duration, ms; 0 if it is unknown or cannot be read."""
        duration_ms = read_duration(stored)
        if isinstance(duration_ms, Damaged):
            self._damage.found("catalogue", f"video {video_id!r}", duration_ms)
            return 0
        return duration_ms

    def _reported(self, video_id: str, part: P) -> P:
        if isinstance(part, Damaged):
            self._damage.found("totals", f"video {video_id!r}", part)
        return part

    def _summaries(self, video_id: str) -> list[tuple[Any, ...]]:
        names = ("viewers", "completed", "watched")
        return [("HMGET", self._keys.summary(shard), *names) for shard in self._keys.shards(video_id)]

    def _duration(self, video_id: str) -> tuple[Any, ...]:
        return ("HGET", self._keys.catalogue(video_id), "duration_ms")


def read_totals(shards: Sequence[Any], duration_ms: int = 0) -> Totals | Damaged:
    """Add up the summaries of all shards, each (viewers, completed, watched) or Damaged."""
    sums = [0, 0, 0]
    for summary in shards:
        if isinstance(summary, Damaged):
            return summary
        for place, value in enumerate(summary):
            if value is not None and not _TOTAL.fullmatch(value):
                return Damaged("a total is not an integer")
            sums[place] += int(value or 0)
    return _capped(Totals(*sums), duration_ms)


def _capped(totals: Totals, duration_ms: int) -> Totals:
    most = totals.viewers * (duration_ms // 1_000)
    return replace(totals, watched=min(totals.watched, most)) if duration_ms else totals
