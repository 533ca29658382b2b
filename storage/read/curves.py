"""Who saw which second of a video, from the difference arrays that `lua/videos.lua` keeps.

A video of 48 h has hundreds of thousands of points, so they are taken some at a time. While they are read they may
change: a play that came in between may then be counted from its start and not to its end, in this answer only.
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
    """By second of the video, up to the last that anybody saw."""

    viewers: list[int] = field(default_factory=list)
    replays: list[int] = field(default_factory=list)
    """Viewers who played the second at least twice; as long as `viewers`."""


class Points:
    """The points of all shards of a video, added up."""

    def __init__(self) -> None:
        self._sums = {b"s": array("q"), b"a": array("q")}
        self._last: dict[int, dict[bytes, array[int]]] = {}
        """By shard, what it has said of each second: a scan may say the same twice."""

    def take(self, shard: int, points: Mapping[bytes, bytes]) -> Damaged | None:
        """Some points of a shard; Damaged where one is none."""
        said = self._last.setdefault(shard, {b"s": array("q"), b"a": array("q")})
        for name, by in points.items():
            point = _POINT.fullmatch(name)
            if point is None or int(point[2]) > MAX_MEDIA_S or not _STEP.fullmatch(by):
                return Damaged("a point of the curve is none")
            letter, second, step = point[1], int(point[2]), int(by)
            of_shard, sums = _as_long(said[letter], second), _as_long(self._sums[letter], second)
            sums[second] += step - of_shard[second]
            of_shard[second] = step
        return None

    def curve(self, duration_ms: int = 0) -> Curve:
        """Prefix sums, up to the end of the video where that is known (0: it is not)."""
        seen, again, end = self._sums[b"s"], self._sums[b"a"], cell(duration_ms)
        if duration_ms and len(seen) > end:
            seen = array("q", [*seen[:end], sum(seen[end:])])
        length = len(seen) - 1
        while length > 0 and not seen[length]:
            length -= 1
        if length <= 0:
            return Curve()
        return Curve(list(accumulate(seen[:length])), list(accumulate(_as_long(again, length)[:length])))


def _as_long(steps: "array[int]", second: int) -> "array[int]":
    """With room for a second."""
    if len(steps) <= second:
        steps.frombytes(bytes(steps.itemsize * (second + 1 - len(steps))))
    return steps
