"""Whether a primary has gone back in time: to a snapshot, or to a replica that lagged when it took over.

Each process counts its own commits at each primary, in a key that lives there. A count that has fallen behind what was
answered before means that this primary has lost commits which the process was told it had: the store then gets a new
epoch, so that all devices come back and read everything anew.

What is promised: of what a living process was told, whatever a primary has lost is noticed with the first commit of
that process that reaches it, or that follows when its slots are seen to have another primary (somebody who listens
looks every few seconds), and before that commit is told stored. A primary loses its newest writes, of all its slots
alike, so one key for each primary is enough; the key belongs to a slot and goes where the slot goes. Not noticed is the
loss of what a process was told that has ended since, nor that of a slot that was moved between its last commit and the
loss. That nothing is lost is the durability's part.
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
"""How long the count of a process outlives its last commit."""


class Fence:
    """One key. `known`: the highest count that was answered; `at`: when; `primary`: where."""

    __slots__ = ("at", "key", "known", "primary")

    def __init__(self, key: str) -> None:
        self.key = key
        self.known = 0
        self.at = 0.0
        self.primary = ""

    def learn(self, count: int, primary: str) -> None:
        if count == NO_COUNT:
            self.known = self.proven() + 1
        else:
            self.known = 0 if count == BEHIND else max(self.known, count)
        self.at = time.monotonic()
        self.primary = primary

    def proven(self) -> int:
        """What the count must not be behind: nothing, where the key may have come to its end by itself."""
        return self.known if time.monotonic() - self.at < KEEP_S / 2 else 0


class Fences:
    """The counts of one process."""

    def __init__(self, keys: Keys, worker: str, link: Link, script: Script, damage: DamageLog) -> None:
        self._link = link
        self._damage = damage
        self._script = script
        self._new = {tag: keys.fence(worker, tag) for tag in link.tags or ("",)}
        self._fences: list[Fence] = []
        self.went_back = False
        """Some primary has lost what this process was told it had; so it stays until there is a new epoch."""

    def moved(self) -> set[str]:
        """Primaries of fences that another had when they were read: they may have lost something."""
        current = ((fence, self._link.primary_of(fence.key)) for fence in self._fences)
        return {primary for fence, primary in current if primary not in ("", fence.primary)}

    def at(self, primary: str) -> list[Fence]:
        """Those that live there, at least one if that is possible."""
        found = [fence for fence in self._fences if self._link.primary_of(fence.key) == primary]
        if not found:
            tag = next((tag for tag, key in self._new.items() if self._link.primary_of(key) == primary), None)
            if tag is not None:
                found = [Fence(self._new.pop(tag))]
                self._fences += found
        return found

    def learn(self, fence: Fence, count: int, primary: str) -> None:
        """What `count` answered there."""
        self.went_back |= count == BEHIND
        if count == NO_COUNT:
            self._damage.found("fence", fence.key, Damaged("it is no count"))
        fence.learn(count, primary)

    def count(self, fence: Fence) -> Command:
        return self._script.call([fence.key], fence.proven(), 1_000 * KEEP_S)


class FenceGuard:
    """Counts one stage of a commit (a `StageGuard`).

    Args:
        wait: what to send behind the count, such as WAITAOF: it waits for the last write of its own connection, and
            with that for all that came before, on whatever connection.
        judge: told the last reply of it; raises StoreUnavailable where that is not enough.
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
