"""Checks that a video's totals (on a cluster, a shard's) are the sum of its audience's entries, and repairs them.

Each script changes both by the same amount, so the difference between totals and sum changes only by a repair. It is
enough to know it at one moment, and to subtract it once at any later one. A small audience is summed by one script
call. For a larger one (SLICE_BYTES), and for a repair, the first slice notes the totals and marks the video; from then
on stage 2 keeps the old entry of whatever it changes (`before`), so that each later slice sums the entries of the first
moment. The store is never blocked for longer than one slice. The number of summed entries must equal the size of the
audience at the first moment; otherwise the hash was resized meanwhile and returned some twice, and the recount starts
again. The mark of a recount that died expires within PAUSE_MS; a recount whose mark was taken over by another one
learns that it is over.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import msgpack

from playhead.storage.parts import Parts

SLICE_BYTES = 15_000
"""Bytes of entries that one script call sums, each with an overhead: about 2 ms."""
SUMMARY, CURVE = 0, 1
_SUMMARY_FIELD, _CURVE_FIELD = re.compile(rb"viewers|completed|watched"), re.compile(rb"[sa][0-9]{1,9}")
_INTEGER = re.compile(rb"-?[0-9]{1,15}")
PAUSE_MS = 60_000
"""The longest pause between two slices."""
MAX_ATTEMPTS = 5
"""Recounts of one video that another recount, or a resized hash, may disturb."""
REPAIRS = 500
"""Fields of totals that one script call repairs."""


class Disturbed(Exception):
    """A video could not be counted because it changed too often."""


class Recount:
    """The recounts of one rebuild.

    Args:
        repair: False only reports.
    """

    def __init__(self, parts: Parts, *, repair: bool) -> None:
        self._parts = parts
        self._keys = parts.keys
        self._repairs = repair
        self._slice, self._adjust = parts.script("recount"), parts.script("adjust")

    async def drifted(self, shard: str) -> bool:
        """Whether the totals differ from the sum. If `repair`, they are counted once more and corrected.

        Raises:
            Disturbed: MAX_ATTEMPTS recounts were disturbed.
            StoreUnavailable: run it again.
        """
        marking = False
        for _ in range(MAX_ATTEMPTS):
            token = uuid4().hex
            count = await self._summed(shard, token, marking)
            if count is None:
                continue
            repairs = count.repairs()
            if repairs and self._repairs and not count.marked:
                marking = True
                continue
            if count.marked and not await self._adjusted(shard, token, repairs if self._repairs else []):
                continue
            return bool(repairs)
        raise Disturbed

    async def _summed(self, shard: str, token: str, marking: bool) -> "_Count | None":
        """Sum all slices; None if the recount was disturbed."""
        audience, summary, curve, _ = self._keys.of_shard(shard)
        keys = [audience, summary, curve, self._keys.before(shard)]
        cursor, count = b"", _Count()
        while cursor != b"0":
            call = self._slice.call(keys, token, cursor, SLICE_BYTES, 1 if marking else 0, PAUSE_MS)
            (answer,) = await self._parts.run([call])
            if not answer:
                return None
            cursor, *sums = msgpack.unpackb(answer, raw=True)
            count.marked = count.marked or marking or cursor != b"0"
            count.add(*sums)
        return count if count.missing == 0 else None

    async def _adjusted(self, shard: str, token: str, repairs: list[tuple[int, bytes, int | bool]]) -> bool:
        """Apply the repairs and end the recount; False if it was over before."""
        _, summary, curve, _ = self._keys.of_shard(shard)
        keys = [summary, curve, self._keys.before(shard)]
        parts = [repairs[first : first + REPAIRS] for first in range(0, len(repairs) or 1, REPAIRS)]
        for number, part in enumerate(parts):
            fields = [[value for where, *pair in part if where == key for value in pair] for key in (SUMMARY, CURVE)]
            last = 1 if number == len(parts) - 1 else 0
            packed = msgpack.packb(fields, use_bin_type=False)
            (done,) = await self._parts.run([self._adjust.call(keys, token, number, packed, last)])
            if not done:
                return False
        return True


@dataclass
class _Count:
    """The totals at one moment, minus the sum of the entries at that moment."""

    excess: Counter[tuple[int, bytes]] = field(default_factory=Counter)
    """By key (SUMMARY, CURVE) and field."""
    foreign: list[tuple[int, bytes]] = field(default_factory=list)
    """Fields that Playhead did not write, or that are not integers."""
    missing: int = 0
    """Entries that have not been summed yet."""
    marked: bool = False
    """Whether the video is marked, so that stage 2 keeps old entries."""

    def add(self, summed: int, totals: list[int], seen: list[int], again: list[int], *first: Any) -> None:
        """Add the answer of one slice; the first one also has `first`: the size of the audience, summary and curve."""
        if first:
            self.missing = first[0]
            for where, known, flat in ((SUMMARY, _SUMMARY_FIELD, first[1]), (CURVE, _CURVE_FIELD, first[2])):
                for name, value in zip(flat[::2], flat[1::2], strict=True):
                    if known.fullmatch(name) and _INTEGER.fullmatch(value):
                        self.excess[where, name] += int(value)
                    elif (where, name) != (SUMMARY, b"recount"):
                        self.foreign.append((where, name))
        self.missing -= summed
        for name, by in zip((b"viewers", b"completed", b"watched"), totals, strict=True):
            self.excess[SUMMARY, name] -= by
        for letter, points in ((b"s", seen), (b"a", again)):
            for second, by in zip(points[::2], points[1::2], strict=True):
                self.excess[CURVE, letter + b"%d" % second] -= by

    def repairs(self) -> list[tuple[int, bytes, int | bool]]:
        """(key, field, excess) of all fields to repair; the excess is False for a field to remove."""
        gone = [(where, name, False) for where, name in self.foreign]
        return [*gone, *((where, name, by) for (where, name), by in self.excess.items() if by)]
