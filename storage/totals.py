"""The totals and curves of a video, as stage 2 of a commit keeps them, and their recount from the audience."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import msgpack

from protocol.intervals import pairs
from storage.keys import Keys


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
    """Reads what `lua/videos.lua` writes. Raises the store's StoreUnavailable."""

    def __init__(self, run: Callable[[list[tuple[Any, ...]]], Awaitable[list[Any]]], keys: Keys, live_ms: int) -> None:
        self._run = run
        self._keys = keys
        self._live_ms = live_ms

    async def read(self, video_id: str) -> Totals:
        (reply,) = await self._run([self._totals(video_id)])
        return Totals(*(int(value or 0) for value in reply))

    async def read_all(self, video_id: str, now: int) -> tuple[Totals, Curve, int]:
        """Totals, curve, and how many are watching at `now` (ms since 1970)."""
        totals, points, watching = await self._run(
            [
                self._totals(video_id),
                ("HGETALL", self._keys.curve(video_id)),
                ("ZCOUNT", self._keys.live(video_id), now - self._live_ms, "+inf"),
            ]
        )
        return Totals(*(int(value or 0) for value in totals)), curve(points), watching

    async def recount(self, video_id: str) -> tuple[Totals, Curve]:
        """The same from nothing but the audience: what the totals must always equal."""
        (audience,) = await self._run([("HGETALL", self._keys.audience(video_id))])
        viewers = completed = watched = 0
        points: dict[bytes, int] = {}
        for entry in audience.values():
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
        return Totals(viewers, completed, watched), curve(points)

    def _totals(self, video_id: str) -> tuple[Any, ...]:
        return ("HMGET", self._keys.summary(video_id), "viewers", "completed", "watched")


def curve(points: Mapping[bytes, Any]) -> Curve:
    """Prefix sums of the two difference arrays."""
    steps: dict[str, dict[int, int]] = {"s": {}, "a": {}}
    for name, by in points.items():
        steps[chr(name[0])][int(name[1:])] = int(by)
    length = max(steps["s"], default=0)
    viewers, replays = (
        list(accumulate(steps[letter].get(second, 0) for second in range(length))) for letter in ("s", "a")
    )
    return Curve(viewers, replays)
