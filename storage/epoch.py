"""The store's identity: while it stays, what a device was told of the store is true."""

from uuid import uuid4

from storage.keys import Keys
from storage.wire import Run

GENERATION = 1 << 32
"""More revisions than a learner has in one generation of the store; and Lua writes those of 20,000 in full."""


class Epoch:
    """Made when the store is first used, gone when it loses its data, replaced when it has gone back in time.

    Each that follows a loss ends in the number of its generation, .1, .2 and so on, from which revisions count on. So
    what is new is newer than all that was lost: of that other primaries may still know, in audiences of its videos.
    Where the key is gone, too, and who makes the next one did not know it, that is as the first; until somebody who
    knew it misses a commit there.

    Who makes one tells all processes, on the channel of the key's name: each holds what the old one knew.

    Args:
        run: the store's round trip; its StoreUnavailable comes out of every method here.
    """

    def __init__(self, run: Run, keys: Keys) -> None:
        self._run = run
        self._key = keys.epoch
        self.known = ""
        """The one that this process committed to last, or met first."""
        self._generation = 0
        """The newest that was met."""

    @property
    def floor(self) -> int:
        """Each revision that is counted from now on is higher than this."""
        return self._generation * GENERATION

    async def current(self) -> str:
        """The store's, made where it has none."""
        new = self._next() if self.known else uuid4().hex
        made, stored = await self._run([("SET", self._key, new, "NX"), ("GET", self._key)])
        if made:
            await self._run([("SPUBLISH", self._key, stored)])
        value = self._met(stored.decode())
        self.known = self.known or value
        return value

    async def recognise(self, stored: bytes | None, *, went_back: bool) -> str:
        """The epoch of a store that answered `stored`: a new one where it has lost what we knew it had."""
        if stored is None:
            self.known = await self.current()
        elif went_back and _generation(stored.decode()) <= _generation(self.known):
            self.known = await self._renew()
        else:
            self.known = self._met(stored.decode())
        return self.known

    async def _renew(self) -> str:
        epoch = self._next()
        await self._run([("SET", self._key, epoch), ("SPUBLISH", self._key, epoch)])
        return self._met(epoch)

    def _next(self) -> str:
        return f"{uuid4().hex}.{self._generation + 1}"

    def _met(self, epoch: str) -> str:
        self._generation = max(self._generation, _generation(epoch))
        return epoch


def _generation(epoch: str) -> int:
    number = epoch.partition(".")[2]
    return int(number) if number.isdecimal() else 0
