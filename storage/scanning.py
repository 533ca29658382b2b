"""Walks through all that the store holds, a page at a time, while it serves.

What is there all the time comes at least once; what comes or goes meanwhile may be left out, or come twice. A cluster
has as many key spaces as primaries: there `keys` must go through each.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NamedTuple

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
    """Args: run: the store's round trip of commands; its StoreUnavailable comes out of every method here."""

    def __init__(self, run: Callable[[list[tuple[Any, ...]]], Awaitable[list[Any]]]) -> None:
        self._run = run

    async def keys(self, pattern: str, after: str = START) -> AsyncIterator[KeysPage]:
        """Names of keys. A place that the store does not know, as after its restart, means the start."""
        info, size = await self._run([("INFO", "server"), ("DBSIZE",)])
        run_id = str(info["run_id"])
        of, _, position = after.partition(":")
        cursor, pages = int(position) if of == run_id else 0, 0
        while True:
            ((cursor, names),) = await self._run([("SCAN", cursor, "MATCH", pattern, "COUNT", KEYS_PAGE)])
            pages += 1
            found = [name.decode() for name in names]
            if not cursor:
                yield KeysPage(found, START, 1.0)
                return
            yield KeysPage(found, f"{run_id}:{cursor}", min(0.99, pages * KEYS_PAGE / max(size, 1)))

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
