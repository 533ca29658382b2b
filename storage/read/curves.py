"""How many viewers saw each second of a video, from the difference arrays that `lua/videos.lua` keeps.

A video of 48 h has hundreds of thousands of points, so they are read in pages and may change meanwhile: a play that is
stored between two pages may be counted at its start and not at its end, in this answer only.
"""

import re
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate

from playhead.protocol.intervals import cell
from playhead.protocol.scalars import MAX_MEDIA_S
from playhead.storage.values.damage import Damaged

_POINT, _STEP = re.compile(rb"([sa])([0-9]{1,6})"), re.compile(rb"-?[0-9]{1,15}")


@dataclass(frozen=True, slots=True)
class Curve:
    """Viewers by second of the video, up to the last second that anybody saw."""

    viewers: list[int] = field(default_factory=list)
    replays: list[int] = field(default_factory=list)
    """Viewers who played the second at least twice; as long as `viewers`."""


class Points:
    """The sum of the points of all shards of a video."""

    def __init__(self) -> None:
        self._sums = {b"s": array("q"), b"a": array("q")}
        self._last: dict[int, dict[bytes, array[int]]] = {}
        """By shard, the points it has returned: a scan may return a point twice."""

    def add(self, shard: int, points: Mapping[bytes, bytes]) -> Damaged | None:
        """Add some points of a shard; Damaged if one is not a point."""
        last = self._last.setdefault(shard, {b"s": array("q"), b"a": array("q")})
        for name, by in points.items():
            point = _POINT.fullmatch(name)
            if point is None or int(point[2]) > MAX_MEDIA_S or not _STEP.fullmatch(by):
                return Damaged("a field of the curve is not a point")
            letter, second, step = point[1], int(point[2]), int(by)
            of_shard, sums = _with_room(last[letter], second), _with_room(self._sums[letter], second)
            sums[second] += step - of_shard[second]
            of_shard[second] = step
        return None

    def curve(self, duration_ms: int = 0) -> Curve:
        """Compute the prefix sums, up to the end of the video if `duration_ms` is known (not 0)."""
        seen, again, end = self._sums[b"s"], self._sums[b"a"], cell(duration_ms)
        if duration_ms and len(seen) > end:
            seen = array("q", [*seen[:end], sum(seen[end:])])
        length = len(seen) - 1
        while length > 0 and not seen[length]:
            length -= 1
        if length <= 0:
            return Curve()
        return Curve(list(accumulate(seen[:length])), list(accumulate(_with_room(again, length)[:length])))


def _with_room(steps: "array[int]", second: int) -> "array[int]":
    """Extend a difference array so that it contains `second`."""
    if len(steps) <= second:
        steps.frombytes(bytes(steps.itemsize * (second + 1 - len(steps))))
    return steps
