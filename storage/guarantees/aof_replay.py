"""Checks whether a restart of the store would restore everything in its append-only file.

Redis (7.0.15 and 8.2.3 were tested) and Valkey before 9.1.2 replay that file as the default user. The writes of a
script are a transaction in it, and the commands of a transaction are checked against that user's permissions again.
Commands that these do not allow are dropped, with nothing but a line in the store's log; devices no longer have the
data, since it was acked. So operators must know before the restart. ACL DRYRUN tells: it shows no password and has no
effect.
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
"""The version of Valkey from which a replay does not check permissions."""
FRESH_S = 60.0
"""How long a result is reused. Permissions change with ACL LOAD, and when a replica takes over."""

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
"""The commands in the transactions of an append-only file, with the arguments after the key: those of our scripts, as
the store writes them."""

WOULD_DROP = (
    "The next restart of the store drops records that are in its append-only file: it replays the writes of scripts as "
    "its default user, who may not use {} there. Give that user these permissions and no way to log in, as "
    "examples/playhead.acl does: "
    "user default off resetpass ~* &* +@all"
)
NOT_SHOWN = (
    "The store does not show whether its default user may replay its append-only file; if not, its next restart drops "
    "records. Compare its users with examples/playhead.acl, which allows this check (+acl|dryrun)."
)

Clock = Callable[[], float]


class ReplayCheck:
    """Checks every primary, and reuses the result for FRESH_S.

    Args:
        now: s, monotonic.
    """

    def __init__(self, link: Link, keys: Keys, now: Clock = time.monotonic) -> None:
        self._link, self._keys, self._now = link, keys, now
        self._note: str | None = None
        self._until = float("-inf")

    async def note(self) -> str | None:
        """What operators should know about it; None if nothing would be dropped. Contains no address.

        If the store does not answer, the last result stays.
        """
        if self._now() >= self._until:
            try:
                self._note = await self._check()
            except (StoreUnavailable, RedisError, OSError):
                return self._note
            self._until = self._now() + FRESH_S
        return self._note

    async def _check(self) -> str | None:
        for primary in await self._link.primaries():
            if note := await self._check_primary(primary):
                return note
        return None

    async def _check_primary(self, primary: Primary) -> str | None:
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
    """Whether a store checks the default user's permissions during a replay, by its INFO; True if unclear."""
    version = str(server.get("valkey_version", "0")).split(".")
    return tuple(int(part) for part in version if part.isdigit()) < UNCHECKED_SINCE


def _is_default(primary: Primary) -> bool:
    """Whether we connect as that user, who then has at least the permissions that we need."""
    options = primary.pool.connection_kwargs
    return options.get("credential_provider") is None and options.get("username") in (None, "", "default")
