"""Durability levels: what the store must confirm before a commit counts as stored.

| level | a commit waits for | what may then be lost without harm |
|---|---|---|
| memory | the store's answer | our own processes |
| fsync | WAITAOF 1 0: the store's disk | power |
| replicas:N | WAITAOF 1 N: its disk and those of N replicas | the store's machine, with a replica in its place |

A level may be kept by other means than these only if that was found when the process started; `note` then says so.
Nothing is weakened later: if the store can no longer confirm a level, commits wait.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import NoPermissionError, ResponseError

from playhead.storage.connection.pipeline import Command, Run
from playhead.storage.errors import NotDurable, StoreUnavailable

MAX_REPLICAS = 99
FRESH_S = 3
"""Replicas report their position once a second; one that has not for this long counts as disconnected."""
_LEVEL = re.compile(r"memory|fsync|replicas:([1-9][0-9]?)")


@dataclass(frozen=True, slots=True)
class Level:
    """A level as configured: whether the store's own disk must have a commit, and how many replicas."""

    name: str
    disk: bool
    replicas: int

    @classmethod
    def parse(cls, text: str) -> "Level":
        """Raises ValueError: `text` is not memory, fsync or replicas:N."""
        match = _LEVEL.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not memory, fsync or replicas:N with N from 1 to {MAX_REPLICAS}")
        return cls(text, text != "memory", int(match[1] or 0))


class Durability:
    """Keeps one level on one store.

    Args:
        level: its name.
        timeout_s: how long to wait for an answer of the store.
    """

    def __init__(self, level: str, timeout_s: float) -> None:
        self.level = Level.parse(level)
        self.note: str | None = None
        """What operators should know about how the level is kept; None if it is kept as configured."""
        self._timeout_s = timeout_s
        self._waits_for_disk = self.level.disk
        self._waits_for_memory = 0
        """How many replicas must have a commit in memory, if the store can't wait for their disks."""

    async def settle(self, primaries: Sequence[Run]) -> None:
        """Find out by which commands this store, of one primary or several, can keep the level.

        Raises:
            StoreUnavailable: it can't, the primaries differ, or one does not answer.
        """
        if not self.level.disk:
            return
        means = set()
        for run in primaries:
            self._waits_for_disk, self._waits_for_memory = True, 0
            await self._settle(run)
            means.add((self._waits_for_disk, self._waits_for_memory))
        if len(means) > 1:
            raise StoreUnavailable(
                f"durability {self.level.name} would be kept in different ways by the primaries: configure them alike"
            )

    async def _settle(self, run: Run) -> None:
        try:
            await run([("WAITAOF", 1, self.level.replicas, 1)])
        except StoreUnavailable as error:
            why = _why_no_waitaof(error)
            if why is None:
                raise
            await (self._settle_for_memory(run, why) if self.level.replicas else self._settle_for_always(run, why))

    def wait(self) -> list[Command]:
        """Commands to send to each primary after its last write; `judge` takes the reply of the last one."""
        patience_ms = int(self._timeout_s * 900)  # less than the connection's own
        if self._waits_for_disk:
            return [("WAITAOF", 1, self.level.replicas, patience_ms)]
        if self._waits_for_memory:
            return [("WAIT", self._waits_for_memory, patience_ms)]
        return []

    def judge(self, reply: Any) -> None:
        """Raises NotDurable: the disk or the replicas did not confirm in time."""
        if self._waits_for_disk and reply[0] < 1:
            raise NotDurable("the store has not written to its disk in time")
        if self.level.replicas:
            confirmed = reply[1] if self._waits_for_disk else reply
            if confirmed < self.level.replicas:
                where = " on their disks" if self._waits_for_disk else ""
                raise NotDurable(f"{confirmed} of {self.level.replicas} replicas have it{where} in time")

    async def missing(self, run: Run) -> str | None:
        """Why replicas could not confirm a commit now; None if enough are connected, or the store does not allow INFO.

        Raises:
            StoreUnavailable: it does not answer.
        """
        if not self.level.replicas:
            return None
        try:
            (info,) = await run([("INFO", "replication")])
        except StoreUnavailable as error:
            if isinstance(error.__cause__, ResponseError):
                return None
            raise
        longest_s = max(FRESH_S, math.ceil(self._timeout_s))
        replicas = [value for name, value in info.items() if re.fullmatch(r"slave\d+", name)]
        there = sum(replica["state"] == "online" and int(replica["lag"]) <= longest_s for replica in replicas)
        if there >= self.level.replicas:
            return None
        return f"the store has {there} of {self.level.replicas} replicas that must have a record before it is acked"

    async def _settle_for_memory(self, run: Run, why: str) -> None:
        needs = f"durability {self.level.name} needs WAIT there"
        try:
            await run([("WAIT", 0, 1)])
        except StoreUnavailable as error:
            raise StoreUnavailable(f"{needs} ({error})") from None
        self._waits_for_disk, self._waits_for_memory = False, self.level.replicas
        self.note = f"durability {self.level.name} is kept in the memory of replicas and not on disks: {why}"

    async def _settle_for_always(self, run: Run, why: str) -> None:
        """Accept a store that syncs its append-only file before each answer: then no wait is needed."""
        try:
            on, policy = await run([("CONFIG GET", "appendonly"), ("CONFIG GET", "appendfsync")])
        except StoreUnavailable:
            on = policy = {}
        if on.get("appendonly") != "yes" or policy.get("appendfsync") != "always":
            raise StoreUnavailable(f"durability fsync needs WAITAOF and an append-only file there: {why}")
        self._waits_for_disk = False
        self.note = f"durability fsync relies on the store's own appendfsync always, which must not be changed: {why}"


def _why_no_waitaof(error: StoreUnavailable) -> str | None:
    """Why WAITAOF can't be used; None if the error has another reason."""
    cause = error.__cause__
    if isinstance(cause, NoPermissionError):
        return f"its user may not use WAITAOF ({cause})"
    if isinstance(cause, ResponseError) and "unknown command" in str(cause):
        return "it is too old for WAITAOF"
    if isinstance(cause, ResponseError) and "appendonly" in str(cause):
        return "its append-only file is off"
    return None
