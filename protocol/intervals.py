"""Sets of whole seconds as sorted, disjoint, half-open intervals in one flat list: [start, end, start, end, …].

The list is flat because it travels through msgpack into the store's Lua, where `storage/lua/intervals.lua` has the
same functions in the same order. Invariant: the values strictly increase, so intervals never touch ([0, 5, 5, 9] is
written [0, 9]).
"""

from collections.abc import Sequence

MAX_INTERVALS = 2_048
"""Most intervals in one set of a record. A report that would exceed it leaves the set as it is and is `capped`."""


def cell(ms: int) -> int:
    """The first second whose midpoint lies at or after `ms` of media time.

    A play [from, to) credits second c when from <= c + 0.5 < to, that is the seconds cell(from) to cell(to), the end
    excluded. Both edges follow the same rule, so a play that is cut anywhere, even at a midpoint, credits each second
    exactly once over its pieces.
    """
    return (ms + 499) // 1_000


def union(a: list[int], b: list[int]) -> list[int]:
    """Return the seconds in `a` or `b`."""
    if not a:
        return b
    if not b:
        return a
    out: list[int] = []
    i = j = 0
    while i < len(a) or j < len(b):
        if j >= len(b) or (i < len(a) and a[i] <= b[j]):
            start, end = a[i], a[i + 1]
            i += 2
        else:
            start, end = b[j], b[j + 1]
            j += 2
        if out and start <= out[-1]:
            if end > out[-1]:
                out[-1] = end
        else:
            out.append(start)
            out.append(end)
    return out


def intersection(a: list[int], b: list[int]) -> list[int]:
    """Return the seconds in both `a` and `b`."""
    out: list[int] = []
    i = j = 0
    while i < len(a) and j < len(b):
        start = max(a[i], b[j])
        end = min(a[i + 1], b[j + 1])
        if start < end:
            out.append(start)
            out.append(end)
        if a[i + 1] < b[j + 1]:
            i += 2
        else:
            j += 2
    return out


def size(a: list[int]) -> int:
    """Return the number of seconds in the set."""
    return sum(a[1::2]) - sum(a[::2])


def coverage(plays_ms: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Return the seconds played at least once, and those played at least twice.

    The edges are swept once; joining play by play would take quadratic time.

    Args:
        plays_ms: (from, to) of each play in ms of media time, in any order.
    """
    if len(plays_ms) == 1:  # nearly always
        start, end = cell(plays_ms[0][0]), cell(plays_ms[0][1])
        return ([start, end] if start < end else []), []
    steps: dict[int, int] = {}
    for start_ms, end_ms in plays_ms:
        start, end = cell(start_ms), cell(end_ms)
        steps[start] = steps.get(start, 0) + 1
        steps[end] = steps.get(end, 0) - 1
    once: list[int] = []
    twice: list[int] = []
    depth = 0
    for at in sorted(steps):
        after = depth + steps[at]
        for level, seconds in ((1, once), (2, twice)):
            if (depth >= level) != (after >= level):
                seconds.append(at)
        depth = after
    return once, twice


def pairs(a: list[int]) -> list[tuple[int, int]]:
    """Return the set as it is sent to clients: [(start, end), …]."""
    return list(zip(a[::2], a[1::2], strict=True))
