"""Whether a video's totals (on a cluster, a shard's) are the sum of its audience's entries; else makes them so.

Each script changes both by the same amount, so totals - sum is constant, but for us. It is enough to know it for one
moment, and to subtract it at any later one, once. A small audience is summed in one script. For a larger one
(SLICE_BYTES), and to mend, the first slice notes the totals and marks the video; from then on stage 2 keeps the old
entry of whatever it changes (`before`), so that each later slice sums what was there at that moment. Nothing blocks the
store for longer than a slice. As many entries as there were must have been summed: else the hash was resized meanwhile
and gave some twice, and it is done again. A mark whose recount has died expires within PAUSE_MS; one that was taken
over by another recount answers "over" to the first.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import msgpack

from playhead.storage.parts import Parts

SLICE_BYTES = 15_000
"""Of entries that one script sums, each with an overhead: 2 ms or so."""
SUMMARY, CURVE = 0, 1
_SUMMARY_FIELD, _CURVE_FIELD = re.compile(rb"viewers|completed|watched"), re.compile(rb"[sa][0-9]{1,9}")
_INTEGER = re.compile(rb"-?[0-9]{1,15}")
PAUSE_MS = 60_000
MAX_ATTEMPTS = 5
"""Recounts of one video that another recount, or a resized hash, may spoil."""
REPAIRS = 500
"""Fields of totals in one script."""


class Spoilt(Exception):
    """It could not be counted while it changed."""


class Recount:
    """Args: mend: False only says."""

    def __init__(self, parts: Parts, *, mend: bool) -> None:
        self._parts = parts
        self._keys = parts.keys
        self._mend = mend
        self._slice, self._adjust = parts.script("recount"), parts.script("adjust")

    async def drifted(self, shard: str) -> bool:
        """Whether the totals are not the sum; to mend them they are counted again, and then they are.

        Raises:
            Spoilt: MAX_ATTEMPTS times.
            StoreUnavailable: run it again.
        """
        marking = False
        for _ in range(MAX_ATTEMPTS):
            token = uuid4().hex
            count = await self._summed(shard, token, marking)
            if count is None:
                continue
            repairs = count.repairs()
            if repairs and self._mend and not count.marked:
                marking = True
                continue
            if count.marked and not await self._adjusted(shard, token, repairs if self._mend else []):
                continue
            return bool(repairs)
        raise Spoilt

    async def _summed(self, shard: str, token: str, marking: bool) -> "_Count | None":
        """All slices; None: it has to be done again."""
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
        """Make the repairs, and end the recount; False: it was over before."""
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
    """The totals of one moment, less the sum of the entries of that moment."""

    too_much: Counter[tuple[int, bytes]] = field(default_factory=Counter)
    """By key (SUMMARY, CURVE) and field."""
    strange: list[tuple[int, bytes]] = field(default_factory=list)
    """Fields that are not ours, or hold no integer."""
    missing: int = 0
    """Entries that are not summed yet."""
    marked: bool = False

    def add(self, summed: int, totals: list[int], seen: list[int], again: list[int], *first: Any) -> None:
        """What one slice answered; `first` only by the first: the size of the audience, summary and curve."""
        if first:
            self.missing = first[0]
            for where, known, flat in ((SUMMARY, _SUMMARY_FIELD, first[1]), (CURVE, _CURVE_FIELD, first[2])):
                for name, value in zip(flat[::2], flat[1::2], strict=True):
                    if known.fullmatch(name) and _INTEGER.fullmatch(value):
                        self.too_much[where, name] += int(value)
                    elif (where, name) != (SUMMARY, b"recount"):
                        self.strange.append((where, name))
        self.missing -= summed
        for name, by in zip((b"viewers", b"completed", b"watched"), totals, strict=True):
            self.too_much[SUMMARY, name] -= by
        for letter, points in ((b"s", seen), (b"a", again)):
            for second, by in zip(points[::2], points[1::2], strict=True):
                self.too_much[CURVE, letter + b"%d" % second] -= by

    def repairs(self) -> list[tuple[int, bytes, int | bool]]:
        """(key, field, by how much it is too large), False for a field that shall go."""
        gone = [(where, name, False) for where, name in self.strange]
        return [*gone, *((where, name, by) for (where, name), by in self.too_much.items() if by)]
