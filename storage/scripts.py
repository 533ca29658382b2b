"""The store's scripts, put together from the Lua files beside this one, and called by their SHA-1.

A script consists of its parts, one after the other, and the file of its name. Values and orders that Lua shares with
Python (limits, outcomes, the fields of a record and of a report) are names in the Lua files. They are replaced here by
the values from the code that defines them, so that nothing is written twice. They are not declared as local variables
at the beginning: Lua allows 200 of these in a script, and reading one takes time. With 40 declarations the store spent
2 % more on each record.
"""

import importlib.resources
import re
from dataclasses import fields
from functools import cache
from hashlib import sha1
from typing import Any

from playhead.protocol.intervals import MAX_INTERVALS
from playhead.protocol.record import ABSENT, IN_SYNC, MAX_SESSIONS, SETTLE_MS, Guard, Outcome, Record, Report
from playhead.protocol.scalars import MAX_INSTANT, MAX_MEDIA_S, MAX_SEQ
from playhead.storage.values.packing import MAX_REV, MAX_VALUE, VALUE_HEAD

PARTS = {
    "users": ("intervals", "order", "guards", "sound", "packing", "record", "progress", "push_messages"),
    "videos": ("curve",),
    "changes": ("progress",),
    "swap": ("progress", "push_messages"),
    "raise": ("progress",),
    "recount": ("sound", "entry", "curve"),
    "forget": ("sound", "entry", "curve"),
    "adjust": (),
    "release": (),
    "fence": (),
}
"""Every script, with the files that come before its own."""
BEHIND, NO_COUNT = -1, -2
"""Replies of `lua/fence.lua` that stand for errors instead of a count."""
_RECORD = {field.name: getattr(Record(), field.name) for field in fields(Record) if field.name != "rev"}
_GUARD = [field.name for field in fields(Guard)]
SHARED = {
    "MAX_INTERVALS": MAX_INTERVALS,
    "MAX_SESSIONS": MAX_SESSIONS,
    "SETTLE_MS": SETTLE_MS,
    "ABSENT": ABSENT,
    "IN_SYNC": IN_SYNC,
    "MAX_INSTANT": MAX_INSTANT,
    "MAX_MEDIA_S": MAX_MEDIA_S,
    "MAX_SEQ": MAX_SEQ,
    "MAX_REV": MAX_REV,
    "MAX_VALUE": MAX_VALUE,
    "VALUE_HEAD": VALUE_HEAD,
    "BEHIND": BEHIND,
    "NO_COUNT": NO_COUNT,
    **{outcome.name: int(outcome) for outcome in Outcome},
    # The index of each field in the array of a record, which starts at 1.
    **{name.upper(): index for index, name in enumerate(_RECORD, 1)},
    "RECORD_FIELDS": len(_RECORD),
    "EMPTY_RECORD": ", ".join("{}" if value == [] else str(value) for value in _RECORD.values()),
    # A record holds all its guards in one array: offsets from the first field of a guard, its session.
    **{f"GUARD_{name.upper()}": offset for offset, name in enumerate(_GUARD) if offset},
    "GUARD_FIELDS": len(_GUARD),
    "GUARD": ", ".join(_GUARD),
    "REPORT_FIELDS": len(Report.__struct_fields__),
    "REPORT": ", ".join(Report.__struct_fields__),
}
"""The text that replaces each name in the code of a Lua file. GUARD and REPORT stand for the names of all fields, in
order, as parameters and local variables."""
_WORD = re.compile(r"'[^'\n]*'|--.*|\b[A-Z][A-Z_]+\b")
"""A string, a comment, or a name in capitals."""


class Script:
    """One script.

    Raises:
        KeyError: there is no script of this name.
    """

    def __init__(self, name: str) -> None:
        files = (*PARTS[name], name)
        self.text = "".join(map(_source, files))
        self.sha = sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        self._lines = [(file, number) for file in files for number in range(1, _source(file).count("\n") + 1)]

    def call(self, keys: list[str], *args: Any) -> tuple[Any, ...]:
        return ("EVALSHA", self.sha, len(keys), *keys, *args)

    def line(self, number: int) -> tuple[str, str]:
        """The place in the Lua files, and the text, of the line with this number in the store's errors."""
        file, number_in_file = self._lines[number - 1]
        return f"{file}.lua, line {number_in_file}", self.text.splitlines()[number - 1]


@cache
def _source(file: str) -> str:
    """A Lua file, with the names in SHARED replaced."""
    text = importlib.resources.files("playhead.storage").joinpath("lua", f"{file}.lua").read_text("utf-8")
    return _WORD.sub(lambda found: str(SHARED.get(found[0], found[0])), text)
