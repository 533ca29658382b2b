"""The totals and curves of a video, as stage 2 of a commit keeps them, and their recount from the audience."""

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import msgpack

from protocol.intervals import cell, pairs
from storage.instants import CLOCKS_APART_MS
from storage.keys import Keys
from storage.wire import Run

AUDIENCE_PAGE = 200


@dataclass(frozen=True, slots=True)
class Totals:
    """A viewer has at least 1 s watched."""

    viewers: int = 0
    completed: int = 0
    watched: int = 0
    """Whole s, of all viewers."""


@dataclass(frozen=True, slots=True)
class Curve:
    """By second of the video, up to the last that anybody saw."""

    viewers: list[int] = field(default_factory=list)
    replays: list[int] = field(default_factory=list)
    """Viewers who played the second at least twice; as long as `viewers`."""


class VideoTotals:
    """Reads what `lua/videos.lua` writes. Raises the store's StoreUnavailable.

    Until a new duration has reached every record, what is read here is held to it: nobody watched more, or beyond it.
    """

    def __init__(self, run: Run, keys: Keys, live_ms: int) -> None:
        self._run = run
        self._keys = keys
        self._live_ms = live_ms

    async def read(self, video_id: str) -> Totals:
        duration, *totals = await self._run([self._duration(video_id), *self._summaries(video_id)])
        return _totals(totals, duration)

    async def read_all(self, video_id: str, now: int) -> tuple[Totals, Curve, int]:
        """Totals, curve, and how many are watching at `now` (ms since 1970)."""
        shards = self._keys.shards(video_id)
        duration, *replies = await self._run(
            [
                self._duration(video_id),
                *self._summaries(video_id),
                *(("HGETALL", self._keys.curve(shard)) for shard in shards),
                *(("ZCOUNT", self._keys.live(shard), now - self._live_ms, now + CLOCKS_APART_MS) for shard in shards),
            ]
        )
        count = len(shards)
        totals, points, watching = replies[:count], replies[count : 2 * count], replies[2 * count :]
        return _totals(totals, duration), curve(points, int(duration or 0)), sum(watching)

    async def audience(self, video_id: str) -> AsyncIterator[list[str]]:
        """Everybody with an entry, some at a time; who comes or goes meanwhile may be in it, or not, or twice."""
        for shard in self._keys.shards(video_id):
            cursor, begun = 0, False
            while cursor or not begun:
                command = ("HSCAN", self._keys.audience(shard), cursor, "COUNT", AUDIENCE_PAGE)
                ((position, entries),) = await self._run([command])
                yield [user_id.decode() for user_id in entries]
                cursor, begun = int(position), True

    async def recount(self, video_id: str) -> tuple[Totals, Curve]:
        """The same from nothing but the audience: what the totals must always equal."""
        audiences = [("HGETALL", self._keys.audience(shard)) for shard in self._keys.shards(video_id)]
        duration, *replies = await self._run([self._duration(video_id), *audiences])
        viewers = completed = watched = 0
        points: dict[bytes, int] = {}
        for entry in (entry for audience in replies for entry in audience.values()):
            unpacker = msgpack.Unpacker()
            unpacker.feed(entry)
            _, (entry_watched, entry_completed, seen, again) = unpacker
            viewers += entry_watched > 0
            completed += entry_completed
            watched += entry_watched
            for letter, seconds in (("s", seen), ("a", again)):
                for start, end in pairs(seconds):
                    points[f"{letter}{start}".encode()] = points.get(f"{letter}{start}".encode(), 0) + 1
                    points[f"{letter}{end}".encode()] = points.get(f"{letter}{end}".encode(), 0) - 1
        return _totals([(viewers, completed, watched)], duration), curve([points], int(duration or 0))

    def _summaries(self, video_id: str) -> list[tuple[Any, ...]]:
        names = ("viewers", "completed", "watched")
        return [("HMGET", self._keys.summary(shard), *names) for shard in self._keys.shards(video_id)]

    def _duration(self, video_id: str) -> tuple[Any, ...]:
        return ("HGET", self._keys.catalogue(video_id), "duration_ms")


def _totals(shards: Iterable[Iterable[Any]], duration: Any) -> Totals:
    viewers, completed, watched = (sum(int(value or 0) for value in values) for values in zip(*shards, strict=True))
    duration_s = int(duration or 0) // 1_000
    return Totals(viewers, completed, min(watched, viewers * duration_s) if duration_s else watched)


def curve(shards: Iterable[Mapping[bytes, Any]], duration_ms: int = 0) -> Curve:
    """Prefix sums of the two difference arrays of all shards, up to the end of the video where that is known (0: it is
    not)."""
    end = cell(duration_ms)
    steps: dict[str, dict[int, int]] = {"s": {}, "a": {}}
    for name, by in (point for points in shards for point in points.items()):
        second = min(int(name[1:]), end) if duration_ms else int(name[1:])
        steps[chr(name[0])][second] = steps[chr(name[0])].get(second, 0) + int(by)
    length = max((second for second, by in steps["s"].items() if by), default=0)
    viewers, replays = (
        list(accumulate(steps[letter].get(second, 0) for second in range(length))) for letter in ("s", "a")
    )
    return Curve(viewers, replays)
