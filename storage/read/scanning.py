"""Scans everything in the store in pages, while it serves.

What exists during the whole scan is returned at least once; what is created or deleted meanwhile, or is in a slot that
moves, may be missing or returned twice. Each primary of a cluster has a key space of its own, which `keys` scans one
after another.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import NamedTuple

from playhead.storage.connection.pipeline import Run
from playhead.storage.values.damage import Damaged, DamageLog

START = ""
KEYS_PAGE = 200
FIELDS_PAGE = 100
HASHES_AT_ONCE = 50
"""Hashes scanned at a time: a page has at most this many times FIELDS_PAGE fields. A small hash comes whole."""


class KeysPage(NamedTuple):
    """A page of key names."""

    names: list[str]
    place: str
    """The place from which a scan can be continued after this page; START after the last."""
    part: float
    """The approximate part of the store that has been scanned, 0 to 1."""


class FieldsPage(NamedTuple):
    """A page of fields of hashes."""

    fields: list[tuple[str, bytes, bytes]]
    """(key, field, value)"""
    foreign: list[str]
    """Keys that are not hashes."""


class Scanner:
    """Scans one store. Every method raises StoreUnavailable if the store does not answer.

    Args:
        run_each: the round trip of `Parts`.
        primaries: a round trip to each primary, always in the same order.
    """

    def __init__(self, run_each: Run, primaries: Callable[[], Awaitable[Sequence[Run]]], damage: DamageLog) -> None:
        self._run_each = run_each
        self._primaries = primaries
        self._damage = damage

    async def keys(self, pattern: str, after: str = START) -> AsyncIterator[KeysPage]:
        """Iterate over the names of keys.

        If the store does not know the place `after`, as after a restart, the scan starts from the beginning.
        """
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
        """Iterate over all fields of these hashes."""
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
        """Decode a key name (prefix, {partition}, kind, id); "" if Playhead did not write it."""
        name = found.decode(errors="replace")
        if name.count(":") < 3 or "\ufffd" in name:
            self._damage.found("key", f"name {found[:100]!r}", Damaged("it is not a key of Playhead"))
            return ""
        return name
