"""What a conversation owes its client, kept beside it in the plainest way: who waits for which ack, and who is believed
how much."""

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
    """What one session has in a batch."""

    seqs: list[int] = field(default_factory=list)
    bad: Counter[int] = field(default_factory=Counter)
    """Rejected for sure, by seq."""
    odd: Counter[int] = field(default_factory=Counter)
    """Came to nothing: rejected, or of no effect."""
    cut: set[int] = field(default_factory=set)
    """Told `capped` by the store."""


@dataclass
class _Credit:
    """What a session may be believed, by the rule of section 1, counted from outside."""

    since: int
    until: int
    first_ms: float
    played_ms: int = 0


class Account:
    """By the name of the session: the running batch, the one on its way, and the credit."""

    def __init__(self) -> None:
        self._running: dict[str, _Batch] = {}
        self._flushing: dict[str, _Batch] = {}
        self._credits: dict[str, _Credit] = {}

    def refused(self, name: str, seq: int) -> None:
        """A heartbeat did not validate, and a rejection is due."""
        batch = self._running.setdefault(name, _Batch())
        batch.seqs.append(seq)
        batch.bad[seq] += 1

    def heard(self, name: str, message: Heartbeat, report: Report | None, now: Now) -> None:
        """A heartbeat was taken, and this is what it reports: sound, of this session, and no more than was played."""
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
        self._believed(name, message, report.played_ms if report else 0, now)

    def committing(self) -> None:
        """The running batch is on its way; a session with one on its way already waits."""
        for name in self._running.keys() - self._flushing.keys():
            self._flushing[name] = self._running.pop(name)

    def outcome(self, name: str, seqs: Sequence[int], outcome: Outcome) -> None:
        """The store's word on the batch on its way."""
        if (batch := self._flushing.get(name)) is not None:
            if outcome is Outcome.CAPPED:
                batch.cut.update(seqs)
            elif outcome in (Outcome.DELETED, Outcome.FAILED):
                batch.bad.update(seqs)

    def stored(self, acks: Sequence[dict[str, Any]]) -> None:
        """Of the batch on its way all is acked or rejected, once, and of the running one nothing."""
        names = [ack["session"] for ack in acks]
        assert sorted(names) == sorted(self._flushing), "one ack for each session in the batch, and no other"
        for ack in acks:
            assert ack["type"] == "ack"
            batch = self._flushing.pop(ack["session"])
            assert ack["seq"] == max(batch.seqs), "acked is what came, and no more"
            rejected = [told["seq"] for told in ack.get("rejected", [])]
            assert rejected == sorted(rejected)
            assert batch.bad <= Counter(rejected) <= batch.bad + batch.odd, "what was bad, each as often as it came"
            assert all(told["code"] and len(told["detail"]) <= 200 for told in ack.get("rejected", []))
            capped = ack.get("capped", [])
            assert capped == sorted(set(capped))
            assert batch.cut <= set(capped) <= batch.cut | set(batch.seqs)

    def is_full_for(self, name: str) -> bool:
        """Whether as many sessions wait for their ack as may, and not this one."""
        waiting = self._running.keys() | self._flushing.keys()
        return len(waiting) >= MAX_SESSIONS and name not in waiting

    def has_too_many_bad(self, name: str) -> bool:
        batch = self._running[name]
        return (batch.bad + batch.odd).total() >= MAX_REJECTED

    def bounded(self, connection: Connection) -> None:
        """Memory: sessions and rejections, whatever was sent."""
        waiting = self._running.keys() | self._flushing.keys()
        assert len(waiting) <= MAX_SESSIONS
        assert all(batch.bad.total() <= MAX_REJECTED for batch in self._running.values())
        if (held := connection._sessions) is not None:
            assert len(held._sessions) <= MAX_SESSIONS
            assert waiting <= held._sessions.keys()
            self._credits = {name: credit for name, credit in self._credits.items() if name in held._sessions}

    def _believed(self, name: str, message: Heartbeat, played_ms: int, now: Now) -> None:
        """At most elapsed × rate and the slack, over all that a session reports."""
        event = now.mono - round(message.age or 0)
        known = self._credits.setdefault(name, _Credit(event, event, RULES.first_elapsed_ms))
        known.first_ms = max(known.first_ms, message.span or 0)
        known.since = min(known.since, event)
        known.until = max(known.until, event)
        known.played_ms += played_ms
        allowed = RULES.slack_ms + RULES.max_rate * (known.first_ms + known.until - known.since)
        assert known.played_ms <= allowed, "no more is believed than time allows"
