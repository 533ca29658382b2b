"""The store's identity: while the epoch is the same, what devices know of the store is still true."""

import re
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from playhead.storage.connection.pipeline import Run
from playhead.storage.keys import Keys
from playhead.storage.values.damage import Damaged, DamageLog

GENERATION = 1 << 32
"""More revisions than a learner gets in one generation of the store; Lua writes those of 20,000 generations exactly."""
MAX_GENERATIONS = 1 << 20
"""Above it Lua could not count the revisions of a generation exactly; no store gets there."""
_EPOCH = re.compile(rb"[0-9a-f]{32}(?:\.([0-9]{1,7}))?")


class Epoch:
    """Created when the store is first used, gone when it loses its data, replaced when it was rolled back.

    An epoch that follows a loss ends in the number of its generation, .1, .2 and so on, and revisions continue from
    that number. So new revisions are higher than all lost ones, which other primaries may still know from the audiences
    of their videos. If the key is lost too, and the process that creates the next epoch did not know the old one, the
    next one looks like a first epoch, until a process that knew the old one detects the loss by its own commit.

    The process that creates an epoch publishes it on the channel of the key's name, since all processes hold state of
    the old one. A value that we did not write is replaced as if the store had been rolled back: nothing is known of it.

    Args:
        run, run_each: the store's round trips; every method here raises their StoreUnavailable.
    """

    def __init__(self, run: Run, run_each: Run, keys: Keys, damage: DamageLog) -> None:
        self._run = run
        self._run_each = run_each
        self._damage = damage
        self._key = keys.epoch
        self.known = ""
        """The epoch as this process knows it, from its last commit or the last call of `learn`."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when `known` has changed: what devices were sent belongs to another store."""
        self._committed = 0
        """The generation of this process' last commit, or the first one that it saw."""
        self._generation = 0
        """The newest generation that this process has seen."""

    @property
    def floor(self) -> int:
        """Every new revision is higher than this."""
        return self._generation * GENERATION

    async def current(self) -> str:
        """The store's epoch, created if it has none."""
        new = self._next() if self.known else uuid4().hex
        made, stored = await self._run_each([("SET", self._key, new, "NX"), ("GET", self._key)])
        if made:
            await self._run([("SPUBLISH", self._key, stored)])
        value = self._read(stored)
        value = await self._renew() if isinstance(value, Damaged) else self._note_generation(value)
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
        """The epoch of a store that answered `stored` to a read; a new one if there was none, or it is damaged."""
        value = None if stored is None else self._read(stored)
        return await self.current() if value is None or isinstance(value, Damaged) else value

    async def after_commit(self, stored: Any, *, rolled_back: bool) -> str:
        """The epoch of a store that answered `stored` to a commit; a new one if it has lost commits (`rolled_back`)."""
        value = None if stored is None else self._read(stored)
        if value is None:
            value = await self.current()
        elif isinstance(value, Damaged) or (rolled_back and _generation(value) <= self._committed):
            value = await self._renew()
        else:
            value = self._note_generation(value)
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
        return self._note_generation(epoch)

    def _next(self) -> str:
        return f"{uuid4().hex}.{self._generation + 1}"

    def _note_generation(self, epoch: str) -> str:
        self._generation = max(self._generation, _generation(epoch))
        return epoch


def parse_epoch(stored: bytes | Damaged) -> str | Damaged:
    """Parse a stored or published epoch."""
    if isinstance(stored, Damaged):
        return stored
    match = _EPOCH.fullmatch(stored)
    if match is None or int(match[1] or 0) > MAX_GENERATIONS:
        return Damaged("not an epoch")
    return stored.decode()


def _generation(epoch: str) -> int:
    return int(epoch.partition(".")[2] or 0)
