"""The running batch: what has been reported and not yet stored, by learner and video.

Reports of one record wait side by side, so that the store can tell a repeat from news seq by seq. Only what is played
while the batch fills, as in an outage of the store, is joined beyond APART: so memory follows who is connected, and
for the rest there is a bound.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from playhead.protocol.record import Outcome, Record, Report
from playhead.storage.values.damage import Damaged, DamageLog, named
from playhead.storage.values.packing import unpack_record

APART = 8
"""Reports of one record that wait apart, before those that may be are joined."""
MAX_RUN = 512
"""Most that may be joined into one: each is remembered by its seq."""
MAX_WAITING = 1_024
"""Most that may wait for one record: an envelope of old heartbeats fits, and a whole sync."""

Key = tuple[str, str]
"""(userId, videoId)"""


class Origin(Protocol):
    """Who sent reports and waits to hear that they are stored: a connection or a request."""

    @property
    def since(self) -> int:
        """ms since 1970, when it came: what it reports of before may have been sent to another process as well."""
        ...

    def taken(self) -> None:
        """The running batch, with all that came so far, is on its way to the store."""

    def outcome(self, op: Report | int, outcome: Outcome) -> None:
        """The store's word on one op of the batch on its way, perhaps another's, where it is not "joined"."""

    def stored(self, committed: Committed) -> None:
        """The batch on its way is stored."""


Wanted = Callable[[str, list[Origin]], bool]
"""Whether anybody here will read the value of this learner's record, to which these have reported."""


class Full(Exception):
    """No room before the next flush. Nothing was taken."""


class Result(NamedTuple):
    """One record after the commit."""

    value: bytes
    """As stored; empty where there is no record, or a damaged one. `Committed.record` reads it."""
    outcomes: tuple[int, ...]
    """(index of the op, its Outcome, …), for those that are not JOINED."""


@dataclass(slots=True)
class Committed:
    """What the store said to a batch."""

    epoch: str
    results: dict[Key, Result] = field(default_factory=dict)
    """Of the records that were wanted, and of those whose ops were not all joined."""
    revs: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By userId: the user's revision before and after; nobody else's changes lie between the two."""
    damage: DamageLog = field(default_factory=DamageLog, compare=False)
    _records: dict[Key, Record | Damaged] = field(default_factory=dict, compare=False)
    """Decoded when somebody asks, and once."""

    def record(self, key: Key) -> Record | Damaged:
        """A record after the commit; only of those that have a result."""
        found = self._records.get(key)
        if found is None:
            found = self._records[key] = unpack_record(self.results[key].value)
            if isinstance(found, Damaged):
                self.damage.found("record", named(*key), found)
        return found


@dataclass(slots=True)
class Delta:
    """What waits for one record: reports, and deletions by their instant (ms), in the order they came."""

    ops: list[Report | int] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)
    """Without repeats; at most one an op."""

    def add(self, op: Report | int, origin: Origin, since: int) -> None:
        """Take one more.

        Args:
            since: reports of nothing before this instant (ms) may be joined into one.

        Raises:
            Full: MAX_WAITING wait already, and this one can't be joined to any of them.
        """
        if self._follows(op) or not self._fold(op, max(since, origin.since)):
            if len(self.ops) >= MAX_WAITING:
                raise Full
            self.ops.append(op)
        if not self.origins or origin not in self.origins:
            self.origins.append(origin)

    def _follows(self, op: Report | int) -> bool:
        """Whether it waits apart anyway, as nearly always: the first here, or news of who reported last."""
        if not self.ops:
            return True
        last = self.ops[-1]
        return (
            len(self.ops) < APART
            and isinstance(op, Report)
            and isinstance(last, Report)
            and op.session == last.session
            and op.seq > last.seq
        )

    def _fold(self, op: Report | int, since: int) -> bool:
        """Join `op` to a report of its session, if it surely repeats it or surely is news.

        A report from before this batch began, or its origin came, may have been sent to another process, or lie before
        a deletion: the store must judge it by itself; so it must where a deletion waits here. REST's have no session,
        and each wants its own word.
        """
        if isinstance(op, int) or not op.session:
            return False
        newest: tuple[int, Report] | None = None
        covering: tuple[int, Report] | None = None
        for i, earlier in enumerate(self.ops):
            if isinstance(earlier, int):
                return False
            if earlier.session == op.session:
                if earlier.first_seq <= op.seq <= earlier.seq:
                    covering = i, earlier
                if newest is None or earlier.seq > newest[1].seq:
                    newest = i, earlier
        if covering is not None:
            i, earlier = covering
            self.ops[i] = earlier.repeated(op)
            return True
        # News is what follows the newest seq, not the last that came: a player that sends again starts at an old one.
        if newest is None or len(self.ops) < APART:
            return False
        i, earlier = newest
        if op.seq < earlier.seq or len(earlier.run) >= MAX_RUN or min(earlier.first_at, op.first_at) < since:
            return False
        self.ops[i] = earlier.then(op)
        return True


@dataclass(slots=True)
class Batch:
    """All that one flush stores."""

    deltas: dict[Key, Delta] = field(default_factory=dict)
    origins: dict[Origin, None] = field(default_factory=dict)
    """Everyone who is owed a word after the flush, in the order they came."""
    since: int = 0
    """ms since 1970, when the first of it came; 0 where nobody has noted it."""
    latest: int = 0
    """The latest instant in it, ms since 1970: later than now where the clock has been set back since."""
    syncs: dict[str, frozenset[str]] = field(default_factory=dict)
    """By userId, the videos of a sync whose items (`seq` IN_SYNC) are joined all or none, where there is a limit."""

    def __bool__(self) -> bool:
        return bool(self.origins or self.deltas)


class Pending:
    """Collects the next batch.

    Args:
        max_reports: that may wait, of all records together.
        now: ms since 1970.
        max_of_user: that may wait of one user's records; by default as many as of all.
    """

    def __init__(self, max_reports: int, now: int, max_of_user: int | None = None) -> None:
        self._max_reports = max_reports
        self._max_of_user = max_reports if max_of_user is None else min(max_of_user, max_reports)
        self._batch = Batch()
        self._since = now
        self._waiting = 0
        self._of_users: defaultdict[str, int] | None = None
        """Reports that wait, by user. Nobody is counted before more wait than one user may have."""

    def __len__(self) -> int:
        """Reports that wait."""
        return self._waiting

    def add(self, user_id: str, video_id: str, op: Report | int, origin: Origin) -> bool:
        """Take a report, or a deletion; whether it is the first of its record.

        Raises:
            Full: as many wait already as may, of all users, of this one, or for this record (MAX_WAITING).
        """
        if self._waiting >= self._max_of_user:
            self.check_room(user_id)
        batch = self._batch
        key = (user_id, video_id)
        delta = batch.deltas.get(key)
        if delta is None:
            delta = batch.deltas[key] = Delta()
        before = len(delta.ops)
        delta.add(op, origin, self._since)
        at = op if isinstance(op, int) else op.at
        if at > batch.latest:
            batch.latest = at
        self._waiting += len(delta.ops) - before
        if self._of_users is not None:
            self._of_users[user_id] += len(delta.ops) - before
        batch.origins[origin] = None
        return not before

    def check_room(self, user_id: str, reports: int = 1) -> None:
        """Raises Full where there is no room for so many reports of this user."""
        if self._waiting + reports <= self._max_of_user:
            return
        if self._of_users is None:
            self._of_users = defaultdict(int)
            for (user, _), delta in self._batch.deltas.items():
                self._of_users[user] += len(delta.ops)
        if self._waiting + reports > self._max_reports or self._of_users[user_id] + reports > self._max_of_user:
            raise Full

    def begin(self, now: int) -> None:
        """The first of the batch comes now, ms since 1970."""
        self._batch.since = now

    def keep_together(self, user_id: str, videos: Iterable[str]) -> None:
        """Store the learner's items for these videos, which were added just now, by one call of the store's script."""
        syncs = self._batch.syncs
        syncs[user_id] = syncs.get(user_id, frozenset()) | frozenset(videos)

    def touch(self, origin: Origin) -> None:
        """The next flush owes `origin` a word, though nothing of it is to be stored."""
        self._batch.origins[origin] = None

    def forget(self, origin: Origin) -> None:
        """It is gone; what it reported stays."""
        self._batch.origins.pop(origin, None)

    def take(self, now: int) -> Batch:
        """The batch so far; a new one begins."""
        batch, self._batch = self._batch, Batch()
        self._since, self._waiting, self._of_users = now, 0, None
        for origin in batch.origins:
            origin.taken()
        return batch
