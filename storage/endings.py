"""Users whose sessions an operator has ended: told to every process, kept a while for one that was not listening."""

from storage.instants import CLOCKS_APART_MS
from storage.keys import Keys
from storage.wire import Run

KEEP_MS = 3_600_000
"""Longer than any process can be without the store's channels and still hold its connections: pings close those."""


class Endings:
    """Args: run: the store's round trip of commands."""

    def __init__(self, run: Run, keys: Keys) -> None:
        self._run = run
        self.channel = keys.ended

    async def add(self, user_id: str, at: int) -> None:
        """End every session of the user that began at `at`, ms since 1970, or before.

        Raises:
            StoreUnavailable: not every process was told; do it again.
        """
        await self._run(
            [
                ("ZADD", self.channel, "GT", at, user_id),
                ("ZREMRANGEBYSCORE", self.channel, 0, at - KEEP_MS),
                ("PEXPIRE", self.channel, KEEP_MS),
                ("SPUBLISH", self.channel, f"{at} {user_id}"),
            ]
        )

    async def until(self, now: int) -> list[tuple[str, int]]:
        """(userId, at) of all that are kept, none later than now, ms since 1970.

        One that is later was added by a clock that was ahead, and would end each new session until then: it is moved to
        `now`, for the other processes as well, and so ends once what there is.

        Raises:
            StoreUnavailable.
        """
        found = await self.recent()
        if late := {user_id for user_id, at in found if at > now + CLOCKS_APART_MS}:
            await self._run([("ZADD", self.channel, "XX", "LT", now, user_id) for user_id in late])
        return [(user_id, now if user_id in late else at) for user_id, at in found]

    async def recent(self) -> list[tuple[str, int]]:
        """(userId, at) of all that are kept, as they are. Raises StoreUnavailable."""
        (flat,) = await self._run([("ZRANGE", self.channel, 0, -1, "WITHSCORES")])
        pairs = flat if flat and isinstance(flat[0], list) else zip(flat[::2], flat[1::2], strict=True)
        return [(user_id.decode(), int(float(at))) for user_id, at in pairs]


def parse_ending(data: bytes) -> tuple[str, int]:
    """(userId, at) of what `add` published."""
    at, _, user_id = data.decode().partition(" ")
    return user_id, int(at)
