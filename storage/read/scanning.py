"""Walks through all that the store holds, a page at a time, while it serves.

What is there all the time comes at least once; what comes or goes meanwhile may be left out, or come twice. A cluster
has as many key spaces as primaries, which `keys` goes through one after another; so may what is in a slot that moves.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import NamedTuple

from playhead.storage.connection.pipeline import Run
from playhead.storage.values.damage import Damaged, DamageLog

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


class FieldsPage(NamedTuple):
    fields: list[tuple[str, bytes, bytes]]
    """(key, field, value)"""
    foreign: list[str]
    """Keys that are no hashes."""


class Scanning:
    """Raises the store's StoreUnavailable.

    Args:
        run_each: its round trip of commands.
        primaries: the same to each of its primaries, in an order that stays.
    """

    def __init__(self, run_each: Run, primaries: Callable[[], Awaitable[Sequence[Run]]], damage: DamageLog) -> None:
        self._run_each = run_each
        self._primaries = primaries
        self._damage = damage

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
                ((cursor, found),) = await runs[number]([("SCAN", cursor, "MATCH", pattern, "COUNT", KEYS_PAGE)])
                names = [name for name in map(self._name, found) if name]
                pages += 1
                if not cursor:
                    break
                place = f"{ids[number]}:{cursor}"
                yield KeysPage(names, place, min(0.99, pages / pages_of_all))
            place, part = START, 1.0
            if number + 1 < len(runs):
                place, part = f"{ids[number + 1]}:0", min(0.99, pages / pages_of_all)
            yield KeysPage(names, place, part)

    async def fields(self, keys: Sequence[str]) -> AsyncIterator[FieldsPage]:
        """All fields of these hashes."""
        cursors = dict.fromkeys(keys, 0)
        while cursors:
            asked = list(cursors.items())[:HASHES_AT_ONCE]
            replies = await self._run_each([("HSCAN", key, cursor, "COUNT", FIELDS_PAGE) for key, cursor in asked])
            page = FieldsPage([], [])
            for (key, _), reply in zip(asked, replies, strict=True):
                if isinstance(reply, Damaged):
                    page.foreign.append(key)
                    del cursors[key]
                    continue
                cursor, values = reply
                page.fields.extend((key, field, value) for field, value in values.items())
                if cursor:
                    cursors[key] = cursor
                else:
                    del cursors[key]
            yield page

    def _name(self, found: bytes) -> str:
        """The name of a key of ours: prefix, {partition}, kind and id; "" for one that is none."""
        name = found.decode(errors="replace")
        if name.count(":") < 3 or "\ufffd" in name:
            self._damage.found("key", f"name {found[:100]!r}", Damaged("no name of ours"))
            return ""
        return name
