"""Users whose sessions an operator has ended: published to every process, and kept for processes that missed that."""

import re

from playhead.storage.connection.pipeline import Run
from playhead.storage.keys import Keys
from playhead.storage.values.damage import FOREIGN, Damaged, DamageLog
from playhead.storage.values.instants import CLOCKS_APART_MS

KEEP_MS = 3_600_000
"""Longer than a process can lose its subscriptions and still hold its connections: pings close those."""
_PUBLISHED = re.compile(r"([0-9]{1,15}) (.+)")


class EndedSessions:
    """The users whose sessions were ended in the last KEEP_MS.

    Args:
        run_each: the store's round trip of commands.
    """

    def __init__(self, run_each: Run, keys: Keys, damage: DamageLog) -> None:
        self._run_each = run_each
        self._damage = damage
        self.channel = keys.ended

    async def add(self, user_id: str, at: int) -> Damaged | None:
        """End every session of the user that started at `at`, ms since 1970, or before.

        Returns:
            Damaged if the key holds another type. All subscribed processes received the event, but no other process
            can read it later.

        Raises:
            StoreUnavailable: possibly not every process received the event; repeat the call.
        """
        replies = await self._run_each(
            [
                ("ZADD", self.channel, "GT", at, user_id),
                ("ZREMRANGEBYSCORE", self.channel, 0, at - KEEP_MS),
                ("PEXPIRE", self.channel, KEEP_MS),
                ("SPUBLISH", self.channel, f"{at} {user_id}"),
            ]
        )
        if FOREIGN in replies:
            self._damage.found("ended", "all users", FOREIGN)
            return FOREIGN
        return None

    async def until(self, now: int) -> list[tuple[str, int]]:
        """(userId, at) of all stored entries, none later than `now`, ms since 1970.

        A later one was added by a clock that was ahead, and would end every new session until then. It is moved to
        `now`, also for the other processes, and so ends only the sessions that exist.

        Raises:
            StoreUnavailable.
        """
        found = await self.recent()
        if late := {user_id for user_id, at in found if at > now + CLOCKS_APART_MS}:
            await self._run_each([("ZADD", self.channel, "XX", "LT", now, user_id) for user_id in late])
        return [(user_id, now if user_id in late else at) for user_id, at in found]

    async def recent(self) -> list[tuple[str, int]]:
        """(userId, at) of all stored entries that are not damaged. Raises StoreUnavailable."""
        (flat,) = await self._run_each([("ZRANGE", self.channel, 0, -1, "WITHSCORES")])
        if isinstance(flat, Damaged):
            self._damage.found("ended", "all users", flat)
            return []
        pairs = flat if flat and isinstance(flat[0], list) else zip(flat[::2], flat[1::2], strict=True)
        found = []
        for member, score in pairs:
            try:
                user_id, at = member.decode(), int(float(score))
            except (ValueError, OverflowError):
                self._damage.found("ended", f"user {member[:100]!r}", Damaged("not text, or an infinite instant"))
            else:
                found.append((user_id, at))
        return found


def parse_ending(data: bytes) -> tuple[str, int] | Damaged:
    """(userId, at) of a message that `add` published."""
    match = _PUBLISHED.fullmatch(data.decode(errors="replace"))
    return (match[2], int(match[1])) if match else Damaged("not a message that Playhead published")
