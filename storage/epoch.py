"""The store's identity: while it stays, what a device was told of the store is true."""

from uuid import uuid4

from storage.keys import Keys
from storage.wire import Run


class Epoch:
    """Made when the store is first used, gone when it loses its data, replaced when it has gone back in time.

    Who makes one tells all processes, on the channel of the key's name: each holds what the old one knew.

    Args:
        run: the store's round trip; its StoreUnavailable comes out of every method here.
    """

    def __init__(self, run: Run, keys: Keys) -> None:
        self._run = run
        self._key = keys.epoch
        self.known = ""
        """The one that this process committed to last, or met first."""

    async def current(self) -> str:
        """The store's, made where it has none."""
        made, value = await self._run([("SET", self._key, uuid4().hex, "NX"), ("GET", self._key)])
        if made:
            await self._run([("SPUBLISH", self._key, value)])
        self.known = self.known or value.decode()
        return str(value.decode())

    async def recognise(self, stored: bytes | None, *, went_back: bool) -> str:
        """The epoch of a store that answered `stored`: a new one where it has lost what we knew it had."""
        if stored is None:
            self.known = await self.current()
        elif went_back and stored.decode() == self.known:
            self.known = await self._renew()
        else:
            self.known = stored.decode()
        return self.known

    async def _renew(self) -> str:
        epoch = uuid4().hex
        await self._run([("SET", self._key, epoch), ("SPUBLISH", self._key, epoch)])
        return epoch
