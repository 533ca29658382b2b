"""The pending batch: reports that are not stored yet, by learner and video.

The reports of one record are kept apart, so that the store can tell repeats from new reports by their seqs. Beyond
APART, reports of plays that happened while the batch fills, as in an outage of the store, are joined. So memory depends
on the number of connections, and everything else has a bound.
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
"""Reports of one record that are kept apart before any are joined."""
MAX_RUN = 512
"""The most reports that may be joined into one, which keeps the seq of each."""
MAX_WAITING = 1_024
"""The most reports of one record that may be pending: an outbox of old heartbeats fits, and a whole sync."""

Key = tuple[str, str]
"""(userId, videoId)"""


class Reporter(Protocol):
    """The sender of reports, to be notified when they are stored: a connection or a request."""

    @property
    def since(self) -> int:
        """When it was opened, ms since 1970. Reports of earlier plays may have been sent to another process as well."""
        ...

    def committing(self) -> None:
        """Called when the pending batch, with all reports so far, is about to be committed."""

    def outcome(self, op: Report | int, outcome: Outcome) -> None:
        """Called with each outcome other than JOINED of a record in the batch, also of ops of other reporters."""

    def stored(self, committed: Committed) -> None:
        """Called when the batch is stored."""


NeedsValue = Callable[[str, list[Reporter]], bool]
"""Whether this process needs the value of a learner's record to which these reporters have reported."""


class Full(Exception):
    """There is no room before the next flush. Nothing was added."""


class Result(NamedTuple):
    """One record after the commit."""

    value: bytes
    """As stored; empty if there is no record, or if it is damaged. `Committed.record` decodes it."""
    outcomes: tuple[int, ...]
    """(index of the op, its Outcome, …) of the ops that were not JOINED."""


@dataclass(slots=True)
class Committed:
    """The store's answer to a batch."""

    epoch: str
    results: dict[Key, Result] = field(default_factory=dict)
    """For the records whose value is needed, and for those whose ops were not all joined."""
    revs: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By userId: the user's revision before and after the commit; no changes of others lie between the two."""
    damage: DamageLog = field(default_factory=DamageLog, compare=False)
    _records: dict[Key, Record | Damaged] = field(default_factory=dict, compare=False)
    """Decoded once, when first asked for."""

    def record(self, key: Key) -> Record | Damaged:
        """A record after the commit; it must have a result."""
        found = self._records.get(key)
        if found is None:
            found = self._records[key] = unpack_record(self.results[key].value)
            if isinstance(found, Damaged):
                self.damage.found("record", named(*key), found)
        return found


@dataclass(slots=True)
class Delta:
    """Pending ops of one record: reports, and deletions as instants (ms), in the order of their arrival."""

    ops: list[Report | int] = field(default_factory=list)
    reporters: list[Reporter] = field(default_factory=list)
    """Without duplicates; at most one for each op."""

    def add(self, op: Report | int, reporter: Reporter, since: int) -> None:
        """Add an op.

        Args:
            since: only reports of plays after this instant (ms) may be joined.

        Raises:
            Full: MAX_WAITING ops are pending, and this one can't be joined to any of them.
        """
        if self._follows(op) or not self._fold(op, max(since, reporter.since)):
            if len(self.ops) >= MAX_WAITING:
                raise Full
            self.ops.append(op)
        if not self.reporters or reporter not in self.reporters:
            self.reporters.append(reporter)

    def _follows(self, op: Report | int) -> bool:
        """Whether `op` is kept apart, as is common: it is the first one, or follows the last one of its session."""
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
        """Join `op` to a report of its session if it is certainly a repeat or certainly new; returns whether it was.

        A report of a play before this batch started, or before its reporter was opened, may have been sent to another
        process, or precede a deletion: then only the store can tell, as it must if a deletion is pending. Reports of
        REST have no session, and each needs an outcome of its own.
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
        # New is what follows the newest seq, not the last arrival: a player that sends again starts with an old seq.
        if newest is None or len(self.ops) < APART:
            return False
        i, earlier = newest
        if op.seq < earlier.seq or len(earlier.run) >= MAX_RUN or min(earlier.first_at, op.first_at) < since:
            return False
        self.ops[i] = earlier.then(op)
        return True


@dataclass(slots=True)
class Batch:
    """Everything that one flush stores."""

    deltas: dict[Key, Delta] = field(default_factory=dict)
    reporters: dict[Reporter, None] = field(default_factory=dict)
    """The reporters to notify after the flush, in the order of their first report."""
    since: int = 0
    """When the first op arrived, ms since 1970; 0 if unknown."""
    latest: int = 0
    """The latest instant in it, ms since 1970; later than now if the clock has been set back since."""
    syncs: dict[str, frozenset[str]] = field(default_factory=dict)
    """By userId, the videos of a sync; of its items (`seq` IN_SYNC) all or none are joined, for the limit of videos."""

    def __bool__(self) -> bool:
        return bool(self.reporters or self.deltas)


class Pending:
    """Collects the next batch.

    Args:
        max_reports: reports that may be pending, of all records together.
        now: ms since 1970.
        max_of_user: reports of one user that may be pending; max_reports by default.
    """

    def __init__(self, max_reports: int, now: int, max_of_user: int | None = None) -> None:
        self._max_reports = max_reports
        self._max_of_user = max_reports if max_of_user is None else min(max_of_user, max_reports)
        self._batch = Batch()
        self._since = now
        self._waiting = 0
        self._of_users: defaultdict[str, int] | None = None
        """Pending reports by user. Counted only once more are pending than one user may have."""

    def __len__(self) -> int:
        """The number of pending reports."""
        return self._waiting

    def add(self, user_id: str, video_id: str, op: Report | int, reporter: Reporter) -> bool:
        """Add a report or a deletion. Returns whether it is the first of its record.

        Raises:
            Full: as many as allowed are pending, of all users, of this one, or of this record (MAX_WAITING).
        """
        if self._waiting >= self._max_of_user:
            self.check_room(user_id)
        batch = self._batch
        key = (user_id, video_id)
        delta = batch.deltas.get(key)
        if delta is None:
            delta = batch.deltas[key] = Delta()
        before = len(delta.ops)
        delta.add(op, reporter, self._since)
        at = op if isinstance(op, int) else op.at
        if at > batch.latest:
            batch.latest = at
        self._waiting += len(delta.ops) - before
        if self._of_users is not None:
            self._of_users[user_id] += len(delta.ops) - before
        batch.reporters[reporter] = None
        return not before

    def check_room(self, user_id: str, reports: int = 1) -> None:
        """Raises Full: there is no room for this many reports of the user."""
        if self._waiting + reports <= self._max_of_user:
            return
        if self._of_users is None:
            self._of_users = defaultdict(int)
            for (user, _), delta in self._batch.deltas.items():
                self._of_users[user] += len(delta.ops)
        if self._waiting + reports > self._max_reports or self._of_users[user_id] + reports > self._max_of_user:
            raise Full

    def begin(self, now: int) -> None:
        """Note when the first op of the batch arrives, ms since 1970."""
        self._batch.since = now

    def keep_together(self, user_id: str, videos: Iterable[str]) -> None:
        """Store the learner's items for these videos, which were just added, by one call of the store's script."""
        syncs = self._batch.syncs
        syncs[user_id] = syncs.get(user_id, frozenset()) | frozenset(videos)

    def touch(self, reporter: Reporter) -> None:
        """Notify `reporter` after the next flush, although it has nothing to store."""
        self._batch.reporters[reporter] = None

    def forget(self, reporter: Reporter) -> None:
        """Don't notify `reporter` any more; its reports are kept."""
        self._batch.reporters.pop(reporter, None)

    def take(self, now: int) -> Batch:
        """Return the pending batch, and start a new one."""
        batch, self._batch = self._batch, Batch()
        self._since, self._waiting, self._of_users = now, 0, None
        for reporter in batch.reporters:
            reporter.committing()
        return batch
