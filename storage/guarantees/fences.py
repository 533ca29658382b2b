"""Detects primaries that were rolled back: to a snapshot, or to a replica that lagged when it took over.

Each process counts its own commits at each primary, in a key that is stored there. A stored count below the last one
that was answered means that the primary has lost commits that it had confirmed to this process. The store then gets a
new epoch, so that all devices reconnect and read everything again.

Guarantee: whatever a primary has lost of the commits that it confirmed to a running process is detected by the next
commit of that process that reaches the primary, or by the next one after the primary's slots are seen to have another
primary (subscriptions look every few seconds), and before that commit counts as stored. A primary loses its newest
writes, equally in all of its slots, so one key for each primary is enough; the key belongs to a slot and moves with it.
Not detected: the loss of commits that were confirmed to a process that has ended since, and the loss of a slot that was
moved between the last commit and the loss. Preventing loss is the task of the durability level (`durability.py`).
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

from playhead.storage.connection.link import Link, checked
from playhead.storage.connection.pipeline import Command
from playhead.storage.keys import Keys
from playhead.storage.scripts import BEHIND, NO_COUNT, Script
from playhead.storage.values.damage import Damaged, DamageLog

KEEP_S = 86_400
"""How long the count of a process is kept after its last commit."""


class Fence:
    """The count of one process at one primary.

    Attributes:
        known: the highest count that was answered.
        at: when that was, s of the monotonic clock.
        primary: the primary that answered.
    """

    __slots__ = ("at", "key", "known", "primary")

    def __init__(self, key: str) -> None:
        self.key = key
        self.known = 0
        self.at = 0.0
        self.primary = ""

    def learn(self, count: int, primary: str) -> None:
        """Note an answer of the script."""
        if count == NO_COUNT:
            self.known = self.proven() + 1
        else:
            self.known = 0 if count == BEHIND else max(self.known, count)
        self.at = time.monotonic()
        self.primary = primary

    def proven(self) -> int:
        """The lowest count that the store must have; 0 if the key may have expired."""
        return self.known if time.monotonic() - self.at < KEEP_S / 2 else 0


class Fences:
    """All fences of one process."""

    def __init__(self, keys: Keys, worker: str, link: Link, script: Script, damage: DamageLog) -> None:
        self._link = link
        self._damage = damage
        self._script = script
        self._new = {tag: keys.fence(worker, tag) for tag in link.tags or ("",)}
        self._fences: list[Fence] = []
        self.rolled_back = False
        """Whether a primary has lost commits that it had confirmed; set until the store has a new epoch."""

    def moved(self) -> set[str]:
        """Primaries that have taken over a fence since it was last read: they may have lost commits."""
        current = ((fence, self._link.primary_of(fence.key)) for fence in self._fences)
        return {primary for fence, primary in current if primary not in ("", fence.primary)}

    def at(self, primary: str) -> list[Fence]:
        """The fences at this primary, at least one if the process has a key for one of its slots."""
        found = [fence for fence in self._fences if self._link.primary_of(fence.key) == primary]
        if not found:
            tag = next((tag for tag, key in self._new.items() if self._link.primary_of(key) == primary), None)
            if tag is not None:
                found = [Fence(self._new.pop(tag))]
                self._fences += found
        return found

    def learn(self, fence: Fence, count: int, primary: str) -> None:
        """Note what the command of `count` answered at this primary."""
        self.rolled_back |= count == BEHIND
        if count == NO_COUNT:
            self._damage.found("fence", fence.key, Damaged("not a count"))
        fence.learn(count, primary)

    def count(self, fence: Fence) -> Command:
        """The command that counts a commit."""
        return self._script.call([fence.key], fence.proven(), 1_000 * KEEP_S)


class FenceGuard:
    """The `StageGuard` of one stage of a commit: it counts the commit, then waits until the stage is durable.

    Args:
        wait: commands to send after the count, such as WAITAOF. That waits for the last write of its own connection,
            and so for all writes before it, on any connection.
        judge: called with the reply of the last command; raises StoreUnavailable if that is not enough.
    """

    def __init__(
        self, fences: Fences, wait: Sequence[Command] = (), judge: Callable[[Any], None] | None = None
    ) -> None:
        self._fences = fences
        self._wait = list(wait)
        self._judge = judge
        self._sent: dict[str, list[Fence]] = {}

    def commands(self, primary: str) -> list[Command]:
        fences = self._sent[primary] = self._fences.at(primary)
        return [self._fences.count(fence) for fence in fences] + self._wait

    def check(self, primary: str, replies: list[Any]) -> None:
        checked(replies)
        for fence, count in zip(self._sent[primary], replies, strict=False):
            self._fences.learn(fence, count, primary)
        if self._judge is not None:
            self._judge(replies[-1])
