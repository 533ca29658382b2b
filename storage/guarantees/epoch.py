"""The store's identity: while it stays, what a device was told of the store is true."""

import re
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from playhead.storage.connection.pipeline import Run
from playhead.storage.keys import Keys
from playhead.storage.values.damage import Damaged, DamageLog

GENERATION = 1 << 32
"""More revisions than a learner has in one generation of the store; and Lua writes those of 20,000 in full."""

MAX_GENERATIONS = 1 << 20
"""Beyond it Lua could not count the revisions of a generation exactly; none gets there."""
_EPOCH = re.compile(rb"[0-9a-f]{32}(?:\.([0-9]{1,7}))?")


class Epoch:
    """Made when the store is first used, gone when it loses its data, replaced when it has gone back in time.

    Each that follows a loss ends in the number of its generation, .1, .2 and so on, from which revisions count on. So
    what is new is newer than all that was lost: of that other primaries may still know, in audiences of its videos.
    Where the key is gone, too, and who makes the next one did not know it, that is as the first; until somebody who
    knew it misses a commit there.

    Who makes one tells all processes, on the channel of the key's name: each holds what the old one knew. A value that
    is none of ours is replaced like that of a store that has gone back in time: what it was is not known.

    Args:
        run, run_each: the store's round trips; their StoreUnavailable comes out of every method here.
    """

    def __init__(self, run: Run, run_each: Run, keys: Keys, damage: DamageLog) -> None:
        self._run = run
        self._run_each = run_each
        self._damage = damage
        self._key = keys.epoch
        self.known = ""
        """The store's, as this process knows it: by its last commit, or by `learn` since."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when `known` has changed: whatever devices were sent is of another store."""
        self._committed = 0
        """The generation that this process committed to last, or met first."""
        self._generation = 0
        """The newest that was met."""

    @property
    def floor(self) -> int:
        """Each revision that is counted from now on is higher than this."""
        return self._generation * GENERATION

    async def current(self) -> str:
        """The store's, made where it has none."""
        new = self._next() if self.known else uuid4().hex
        made, stored = await self._run_each([("SET", self._key, new, "NX"), ("GET", self._key)])
        if made:
            await self._run([("SPUBLISH", self._key, stored)])
        value = self._read(stored)
        value = await self._renew() if isinstance(value, Damaged) else self._met(value)
        if not self.known:
            self._committed = _generation(value)
            self.learn(value)
        return value

    def learn(self, epoch: str) -> None:
        """Note the store's epoch, which another process published or a read found."""
        changed = self.known not in ("", epoch)
        self.known = epoch
        if changed:
            self.on_change()

    async def found(self, stored: Any) -> str:
        """The epoch of a store that answered `stored` to a read: made where it has none, or one that can't be read."""
        value = None if stored is None else self._read(stored)
        return await self.current() if value is None or isinstance(value, Damaged) else value

    async def recognise(self, stored: Any, *, went_back: bool) -> str:
        """The epoch of a store that answered `stored` to a commit: a new one where it has lost what we knew it had."""
        value = None if stored is None else self._read(stored)
        if value is None:
            value = await self.current()
        elif isinstance(value, Damaged) or (went_back and _generation(value) <= self._committed):
            value = await self._renew()
        else:
            value = self._met(value)
        self._committed = _generation(value)
        self.learn(value)
        return value

    def _read(self, stored: Any) -> str | Damaged:
        value = parse_epoch(stored)
        if isinstance(value, Damaged):
            self._damage.found("epoch", self._key, value)
        return value

    async def _renew(self) -> str:
        epoch = self._next()
        await self._run([("SET", self._key, epoch), ("SPUBLISH", self._key, epoch)])
        return self._met(epoch)

    def _next(self) -> str:
        return f"{uuid4().hex}.{self._generation + 1}"

    def _met(self, epoch: str) -> str:
        self._generation = max(self._generation, _generation(epoch))
        return epoch


def parse_epoch(stored: bytes | Damaged) -> str | Damaged:
    """A stored epoch, or one that was published."""
    if isinstance(stored, Damaged):
        return stored
    match = _EPOCH.fullmatch(stored)
    if match is None or int(match[1] or 0) > MAX_GENERATIONS:
        return Damaged("it is none of ours")
    return stored.decode()


def _generation(epoch: str) -> int:
    return int(epoch.partition(".")[2] or 0)
