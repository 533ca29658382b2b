"""The running batch: what has been reported and not yet stored, by learner and video.

Reports of one record wait side by side, so that the store can tell a repeat from news seq by seq; past MAX_WAITING
neighbours of one session are joined into one. Memory is thus bounded by who is connected, not by what they send.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from protocol.record import Outcome, Report

MAX_WAITING = 8
"""Reports of one record that wait apart."""

Key = tuple[str, str]
"""(userId, videoId)"""


class Origin(Protocol):
    """Who sent reports and waits to hear that they are stored: a connection or a request."""

    def taken(self) -> None:
        """The running batch, with all that came so far, is on its way to the store."""

    def outcome(self, op: Report | int, outcome: Outcome) -> None:
        """The store's word on one op of the batch on its way, perhaps another's, where it is not "joined"."""

    def stored(self, committed: Committed) -> None:
        """The batch on its way is stored."""


class Full(Exception):
    """No room for another record before the next flush. Nothing was taken."""


@dataclass(frozen=True, slots=True)
class Result:
    """One record after the commit."""

    value: bytes
    """As stored (`unpack_record` reads it); empty where there is no record."""
    outcomes: tuple[int, ...]
    """(index of the op, its Outcome, …), for those that are not JOINED."""


@dataclass(slots=True)
class Committed:
    """What the store said to a batch."""

    epoch: str
    results: dict[Key, Result] = field(default_factory=dict)
    revs: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By userId: the user's revision before and after; nobody else's changes lie between the two."""


@dataclass(slots=True)
class Delta:
    """What waits for one record: reports, and deletions by their instant (ms), in the order they came."""

    ops: list[Report | int] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)
    """Without repeats; a handful at most."""

    def add(self, op: Report | int, origin: Origin) -> None:
        self.ops.append(op)
        if origin not in self.origins:
            self.origins.append(origin)
        if len(self.ops) > MAX_WAITING and isinstance(op, Report):
            self._join_two()

    def _join_two(self) -> None:
        """Join the first neighbours of one session. Not across a deletion, and not REST's: each wants its own word."""
        first: dict[str, int] = {}
        for j, later in enumerate(self.ops):
            if isinstance(later, int):
                first.clear()
            elif later.session:
                i = first.get(later.session)
                earlier = self.ops[i] if i is not None else None
                if i is not None and isinstance(earlier, Report) and later.first_seq > earlier.seq:
                    self.ops[i] = earlier.then(later)
                    del self.ops[j]
                    return
                first[later.session] = j


@dataclass(slots=True)
class Batch:
    """All that one flush stores."""

    deltas: dict[Key, Delta] = field(default_factory=dict)
    origins: dict[Origin, None] = field(default_factory=dict)
    """Everyone who is owed a word after the flush, in the order they came."""

    def __bool__(self) -> bool:
        return bool(self.origins or self.deltas)


class Pending:
    """Collects the next batch."""

    def __init__(self, max_records: int) -> None:
        self._max_records = max_records
        self._batch = Batch()

    def __len__(self) -> int:
        return len(self._batch.deltas)

    def add(self, user_id: str, video_id: str, op: Report | int, origin: Origin) -> None:
        """Take a report, or a deletion.

        Raises:
            Full: a new record where there are `max_records` already.
        """
        batch = self._batch
        key = (user_id, video_id)
        delta = batch.deltas.get(key)
        if delta is None:
            if len(batch.deltas) >= self._max_records:
                raise Full
            delta = batch.deltas[key] = Delta()
        delta.add(op, origin)
        batch.origins[origin] = None

    def touch(self, origin: Origin) -> None:
        """The next flush owes `origin` a word, though nothing of it is to be stored."""
        self._batch.origins[origin] = None

    def forget(self, origin: Origin) -> None:
        """It is gone; what it reported stays."""
        self._batch.origins.pop(origin, None)

    def take(self) -> Batch:
        """The batch so far; a new one begins."""
        batch, self._batch = self._batch, Batch()
        for origin in batch.origins:
            origin.taken()
        return batch
