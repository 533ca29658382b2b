"""Whether the store's own restart would bring back what it has in its append-only file.

Redis (7.0.15 and 8.2.3 were tried) and Valkey before 9.1.2 replay that file as the default user. What a script wrote
stands in it as a transaction, and the commands of a transaction are checked against that user's rights once more. What
they do not allow is dropped, with a line in the store's log and no other sign; devices have long forgotten it, for it
was acked. So it must be known before the restart: by ACL DRYRUN, which shows no password and has no effect.
"""

import time
from collections.abc import Callable
from typing import Any

from redis.exceptions import RedisError, ResponseError

from playhead.storage.connection.link import Link
from playhead.storage.connection.pipeline import Command
from playhead.storage.connection.primary import Primary
from playhead.storage.errors import StoreUnavailable
from playhead.storage.keys import Keys

UNCHECKED_SINCE = (9, 1, 2)
"""Of Valkey: from here on a replay checks nobody's rights."""
FRESH_S = 60.0
"""For how long an answer is believed. The rights change with ACL LOAD, and with a replica that takes over."""

REPLAYED: tuple[tuple[str, ...], ...] = (
    ("DEL",),
    ("HDEL", "f"),
    ("HINCRBY", "f", "1"),
    ("HSET", "f", "v"),
    ("HSETNX", "f", "v"),
    ("INCR",),
    ("PEXPIREAT", "1"),
    ("ZADD", "1", "m"),
    ("ZREM", "m"),
)
"""The commands that stand in transactions of an append-only file, and what follows their key: those of our scripts, and
what the store makes of them."""

WOULD_DROP = (
    "The store's next restart drops records that are in its append-only file: it replays what scripts wrote as its "
    "default user, who may not use {} there. Give that user the rights and no way in, as examples/playhead.acl does: "
    "user default off resetpass ~* &* +@all"
)
NOT_SHOWN = (
    "The store does not show whether its default user may replay its append-only file; if not, its next restart drops "
    "records. Compare its users with examples/playhead.acl, which allows the look (+acl|dryrun)."
)

Clock = Callable[[], float]


class Replay:
    """Looks at each primary, and remembers for a while what it saw.

    Args:
        now: seconds, of a clock that never goes back.
    """

    def __init__(self, link: Link, keys: Keys, now: Clock = time.monotonic) -> None:
        self._link, self._keys, self._now = link, keys, now
        self._note: str | None = None
        self._until = float("-inf")

    async def note(self) -> str | None:
        """What an operator should know about it; None where nothing would be dropped. Names no address.

        Where the store does not answer this is what it said last.
        """
        if self._now() >= self._until:
            try:
                self._note = await self._look()
            except (StoreUnavailable, RedisError, OSError):
                return self._note
            self._until = self._now() + FRESH_S
        return self._note

    async def _look(self) -> str | None:
        for primary in await self._link.primaries():
            if note := await self._look_at(primary):
                return note
        return None

    async def _look_at(self, primary: Primary) -> str | None:
        key = self._keys.progress("replay")
        dry_runs: list[Command] = [("ACL DRYRUN", "default", name, key, *rest) for name, *rest in REPLAYED]
        replies = await primary.pipeline([("INFO", "persistence"), ("INFO", "server"), *dry_runs])
        for reply in replies:
            if isinstance(reply, Exception) and not isinstance(reply, ResponseError):
                raise reply
        persistence, server, *answers = replies
        if isinstance(persistence, dict) and not persistence.get("aof_enabled"):
            return None
        if isinstance(server, dict) and not replay_checks_rights(server):
            return None
        if any(isinstance(answer, ResponseError) for answer in answers):
            return None if _is_default(primary) else NOT_SHOWN
        refused = [name for (name, *_), answer in zip(REPLAYED, answers, strict=True) if answer not in (b"OK", "OK")]
        return WOULD_DROP.format(", ".join(refused)) if refused else None


def replay_checks_rights(server: dict[str, Any]) -> bool:
    """Whether a store checks the default user's rights when it replays its file, by its INFO; yes if unclear."""
    version = str(server.get("valkey_version", "0")).split(".")
    return tuple(int(part) for part in version if part.isdigit()) < UNCHECKED_SINCE


def _is_default(primary: Primary) -> bool:
    """Whether we are that user, who then has at least the rights that we use."""
    options = primary.pool.connection_kwargs
    return options.get("credential_provider") is None and options.get("username") in (None, "", "default")
