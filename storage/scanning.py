"""Walks through all that the store holds, a page at a time, while it serves.

What is there all the time comes at least once; what comes or goes meanwhile may be left out, or come twice. A cluster
has as many key spaces as primaries, which `keys` goes through one after another; so may what is in a slot that moves.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import NamedTuple

from storage.wire import Run

START = ""
KEYS_PAGE = 200
FIELDS_PAGE = 100
HASHES_AT_ONCE = 50
"""A page of fields is at most this many times FIELDS_PAGE; a small hash comes whole."""


class KeysPage(NamedTuple):
    names: list[str]
    place: str
    """Where a scan can go on after this page; START at the end."""
    part: float
    """How much of the store has been walked through by now, about; 0 to 1."""


class Scanning:
    """Raises the store's StoreUnavailable.

    Args:
        run: its round trip of commands.
        primaries: the same to each of its primaries, in an order that stays.
    """

    def __init__(self, run: Run, primaries: Callable[[], Awaitable[Sequence[Run]]]) -> None:
        self._run = run
        self._primaries = primaries

    async def keys(self, pattern: str, after: str = START) -> AsyncIterator[KeysPage]:
        """Names of keys. A place that the store does not know, as after its restart, means the start."""
        runs = await self._primaries()
        about = [await run([("INFO", "server"), ("DBSIZE",)]) for run in runs]
        ids = [str(info["run_id"]) for info, _ in about]
        of, _, position = after.partition(":")
        first, cursor = (ids.index(of), int(position)) if of in ids else (0, 0)
        pages, pages_of_all = 0, max(1, sum(size for _, size in about)) / KEYS_PAGE
        for number in range(first, len(runs)):
            while True:
                ((cursor, names),) = await runs[number]([("SCAN", cursor, "MATCH", pattern, "COUNT", KEYS_PAGE)])
                pages += 1
                if not cursor:
                    break
                place = f"{ids[number]}:{cursor}"
                yield KeysPage([name.decode() for name in names], place, min(0.99, pages / pages_of_all))
            place, part = START, 1.0
            if number + 1 < len(runs):
                place, part = f"{ids[number + 1]}:0", min(0.99, pages / pages_of_all)
            yield KeysPage([name.decode() for name in names], place, part)

    async def fields(self, keys: Sequence[str]) -> AsyncIterator[list[tuple[str, bytes, bytes]]]:
        """All fields of these hashes: (key, field, value)."""
        cursors = dict.fromkeys(keys, 0)
        while cursors:
            asked = list(cursors.items())[:HASHES_AT_ONCE]
            replies = await self._run([("HSCAN", key, cursor, "COUNT", FIELDS_PAGE) for key, cursor in asked])
            page: list[tuple[str, bytes, bytes]] = []
            for (key, _), (cursor, values) in zip(asked, replies, strict=True):
                page += [(key, field, value) for field, value in values.items()]
                if cursor:
                    cursors[key] = cursor
                else:
                    del cursors[key]
            yield page
