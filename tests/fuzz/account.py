"""A simple model of a conversation: which sessions wait for which acks, and how much play time each may be credited."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from playhead.protocol.connection import Connection
from playhead.protocol.intervals import size
from playhead.protocol.messages import Heartbeat
from playhead.protocol.record import Outcome, Report
from playhead.protocol.session import MAX_REJECTED, MAX_SESSIONS, Now, Plausibility
from tests.fuzz.records import sound_report

RULES = Plausibility()


@dataclass
class _Batch:
    """The heartbeats of one session in a batch."""

    seqs: list[int] = field(default_factory=list)
    bad: Counter[int] = field(default_factory=Counter)
    """Heartbeats that must be rejected, by seq."""
    odd: Counter[int] = field(default_factory=Counter)
    """Heartbeats without a report, by seq: each is rejected, or accepted without effect."""
    cut: set[int] = field(default_factory=set)
    """Seqs for which the store's outcome was CAPPED."""


@dataclass
class _Credit:
    """The play time that a session may be credited by the documented rule, computed independently."""

    since: int
    until: int
    first_ms: float
    played_ms: int = 0


class Account:
    """The running batch, the batch being committed, and the credit, each by session name."""

    def __init__(self) -> None:
        self._running: dict[str, _Batch] = {}
        self._flushing: dict[str, _Batch] = {}
        self._credits: dict[str, _Credit] = {}

    def refused(self, name: str, seq: int) -> None:
        """Note a heartbeat that did not validate, and must be rejected."""
        batch = self._running.setdefault(name, _Batch())
        batch.seqs.append(seq)
        batch.bad[seq] += 1

    def accepted(self, name: str, message: Heartbeat, report: Report | None, now: Now) -> None:
        """Note an accepted heartbeat. Checks that its report is sound, of this session, and within what was played."""
        batch = self._running.setdefault(name, _Batch())
        batch.seqs.append(message.seq)
        if report is None:
            batch.odd[message.seq] += 1
        else:
            assert (report.session, report.first_seq, report.seq) == (name, message.seq, message.seq)
            sound_report(report, now.wall)
            assert not report.duration_ms or report.position_ms <= report.duration_ms
            edges_ms = 1_000 * len(message.played or ())
            assert size(report.seen) * 1_000 <= report.played_ms + edges_ms, "no second beyond what was credited"
        self._credit(name, message, report.played_ms if report else 0, now)

    def committing(self) -> None:
        """Note that the running batch is being committed, except for sessions with an earlier batch in progress."""
        for name in self._running.keys() - self._flushing.keys():
            self._flushing[name] = self._running.pop(name)

    def outcome(self, name: str, seqs: Sequence[int], outcome: Outcome) -> None:
        """Note the store's outcome for reports of the batch being committed."""
        if (batch := self._flushing.get(name)) is not None:
            if outcome is Outcome.CAPPED:
                batch.cut.update(seqs)
            elif outcome in (Outcome.DELETED, Outcome.FAILED):
                batch.bad.update(seqs)

    def stored(self, acks: Sequence[dict[str, Any]]) -> None:
        """Check that every heartbeat of the committed batch is acked or rejected once, and no other."""
        names = [ack["session"] for ack in acks]
        assert sorted(names) == sorted(self._flushing), "one ack for each session in the batch, and no other"
        for ack in acks:
            assert ack["type"] == "ack"
            batch = self._flushing.pop(ack["session"])
            assert ack["seq"] == max(batch.seqs), "the ack covers every heartbeat of the batch, and no other"
            rejected = [rejection["seq"] for rejection in ack.get("rejected", [])]
            assert rejected == sorted(rejected)
            assert batch.bad <= Counter(rejected) <= batch.bad + batch.odd, "each bad heartbeat is rejected once"
            assert all(each["code"] and len(each["detail"]) <= 200 for each in ack.get("rejected", []))
            capped = ack.get("capped", [])
            assert capped == sorted(set(capped))
            assert batch.cut <= set(capped) <= batch.cut | set(batch.seqs)

    def is_full_for(self, name: str) -> bool:
        """Whether the limit of sessions that wait for an ack is reached, and this session is not one of them."""
        waiting = self._running.keys() | self._flushing.keys()
        return len(waiting) >= MAX_SESSIONS and name not in waiting

    def has_too_many_bad(self, name: str) -> bool:
        batch = self._running[name]
        return (batch.bad + batch.odd).total() >= MAX_REJECTED

    def bounded(self, connection: Connection) -> None:
        """Check the bounds on memory: sessions and rejections."""
        waiting = self._running.keys() | self._flushing.keys()
        assert len(waiting) <= MAX_SESSIONS
        assert all(batch.bad.total() <= MAX_REJECTED for batch in self._running.values())
        if (held := connection._sessions) is not None:
            assert len(held._sessions) <= MAX_SESSIONS
            assert waiting <= held._sessions.keys()
            self._credits = {name: credit for name, credit in self._credits.items() if name in held._sessions}

    def _credit(self, name: str, message: Heartbeat, played_ms: int, now: Now) -> None:
        """Check that a session is credited at most elapsed × rate plus the slack, over all its reports."""
        event = now.mono - round(message.age or 0)
        known = self._credits.setdefault(name, _Credit(event, event, RULES.first_elapsed_ms))
        known.first_ms = max(known.first_ms, message.span or 0)
        known.since = min(known.since, event)
        known.until = max(known.until, event)
        known.played_ms += played_ms
        allowed = RULES.slack_ms + RULES.max_rate * (known.first_ms + known.until - known.since)
        assert known.played_ms <= allowed, "no more is credited than time allows"
