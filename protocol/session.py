"""From heartbeats to reports: plausibility, effective time, and which seqs wait for their ack.

A session is one player page load or one outbox; its seqs rise. One `Sessions` serves one conversation, a
WebSocket or a single REST envelope, and never holds more than MAX_SESSIONS of them.

Invariant: a seq is acked only when everything the conversation has taken up to it was stored or rejected.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from protocol.errors import InvalidMessage, PeerError, Problem
from protocol.intervals import coverage
from protocol.messages import Ack, Heartbeat, Rejection
from protocol.record import ABSENT, Outcome, Report

MAX_SESSIONS = 64
"""Sessions of one conversation whose seqs are remembered; a drained outbox brings a few old ones along."""
MAX_REJECTED = 512
"""Rejections that one ack of a session may carry. A peer that makes more is sent away; of the store's, the first."""
SHORTEST_MS = 1_000
"""A duration below this is no duration: nobody could have seen a whole second of that video, and its totals would
count seconds of no viewer."""
MAX_CAPPED = 512
"""Seqs that one ack of a session may tell to have been cut; of more, the first."""
OVERRUN_MS = 2_000
"""How far a position or a play may lie beyond the duration: players round, and encoders disagree."""


class Now(NamedTuple):
    """One moment on the server's two clocks, ms."""

    wall: int
    mono: int


@dataclass(frozen=True, slots=True)
class Plausibility:
    """How much watching a session is believed."""

    max_rate: float = 4.0
    slack_ms: int = 2_000
    first_elapsed_ms: int = 60_000


class Refused(Exception):
    """A heartbeat that contradicts itself; becomes a rejection with the pointer to the field."""


@dataclass(slots=True)
class _Waiting:
    """What the next ack of a session says, or the one after it."""

    seq: int = 0
    rejected: list[Rejection] = field(default_factory=list)
    capped: list[int] = field(default_factory=list)

    def cap(self, seqs: Sequence[int]) -> None:
        self.capped.extend(seqs[: max(0, MAX_CAPPED - len(self.capped))])


@dataclass(slots=True)
class _Session:
    allowance_ms: float = 0.0
    last_event: int | None = None
    """Event time of the newest report so far, on the server's monotonic clock."""
    filling: _Waiting | None = None
    flushing: _Waiting | None = None


class Sessions:
    """The sessions of one conversation. Heartbeats go in, reports come out; acks follow the flushes."""

    __slots__ = ("_default", "_rules", "_sessions")

    def __init__(self, default: str, rules: Plausibility) -> None:
        self._default = default
        self._rules = rules
        self._sessions: dict[str, _Session] = {}

    def heartbeat(self, message: Heartbeat, now: Now) -> Report | None:
        """What `message` says about its record; None where it changes nothing or was rejected (the ack tells).

        Raises:
            PeerError: more sessions wait for their ack than one conversation may have, or more rejections than one ack
                may carry. Nothing was taken.
        """
        name = message.session or self._default
        session, waiting = self._take(name)
        try:
            report = self._report(name, session, waiting, message, now)
        except Refused as refusal:
            _reject(waiting, message.seq, str(refusal))
            return None
        waiting.seq = max(waiting.seq, message.seq)
        return report

    def refuse(self, error: InvalidMessage) -> bool:
        """Reject a heartbeat that didn't validate; False where it can't be told which one it was. Raises as above."""
        if error.seq is None:
            return False
        _, waiting = self._take(error.session or self._default)
        _reject(waiting, error.seq, error.detail)
        return True

    def taken(self) -> None:
        """The batch with all that came so far is on its way to the store."""
        for session in self._sessions.values():
            if session.flushing is None:
                session.flushing, session.filling = session.filling, None

    def outcome(self, name: str, seqs: Sequence[int], outcome: Outcome) -> None:
        """The store's word on a report of the batch on its way, where that word was not "joined"."""
        session = self._sessions.get(name)
        if session is None or session.flushing is None:
            return
        waiting = session.flushing
        if outcome is Outcome.CAPPED:
            waiting.cap(seqs)
        elif outcome in (Outcome.DELETED, Outcome.FAILED):
            problem = Problem.DELETED if outcome is Outcome.DELETED else Problem.INTERNAL
            detail = problem.value.title
            room = max(0, MAX_REJECTED - len(waiting.rejected))
            waiting.rejected.extend(Rejection(seq=s, code=problem.code, detail=detail) for s in seqs[:room])

    def stored(self) -> Iterable[Ack]:
        """The batch is stored: one ack for each session that had something in it."""
        for name, session in self._sessions.items():
            waiting, session.flushing = session.flushing, None
            if waiting is not None:
                yield Ack(
                    session=name,
                    seq=waiting.seq,
                    rejected=sorted(waiting.rejected, key=lambda r: r.seq) or None,
                    capped=sorted(set(waiting.capped)) or None,
                )

    def _take(self, name: str) -> tuple[_Session, _Waiting]:
        session = self._sessions.get(name)
        if session is None:
            if len(self._sessions) >= MAX_SESSIONS:
                self._forget_one()
            session = self._sessions[name] = _Session()
        if session.filling is None:
            session.filling = _Waiting()
        return session, session.filling

    def _forget_one(self) -> None:
        for name, session in self._sessions.items():
            if session.filling is None and session.flushing is None:
                del self._sessions[name]
                return
        raise PeerError(Problem.TOO_MANY_SESSIONS, f"at most {MAX_SESSIONS} sessions may wait for their ack")

    def _report(self, name: str, session: _Session, waiting: _Waiting, message: Heartbeat, now: Now) -> Report | None:
        duration_ms = round((message.duration or 0) * 1_000)
        if duration_ms < SHORTEST_MS:
            duration_ms = 0
        plays = _plays(message, duration_ms)
        position_ms = ABSENT
        if message.position is not None:
            position_ms = _within(round(message.position * 1_000), duration_ms, "/position")
        age_ms = round(message.age or 0)
        played_ms = sum(end - start for start, end in plays)
        allowed_ms = self._allow(session, now.mono - age_ms, message.span or 0)
        if played_ms > allowed_ms:
            plays, played_ms = _cut(plays, allowed_ms), allowed_ms
            waiting.cap((message.seq,))
        session.allowance_ms -= played_ms
        claimed = message.watched_duration or 0
        if not (played_ms or message.seek or message.state == "playing"):
            if not claimed:
                return None
            position_ms = ABSENT
        at = now.wall - age_ms
        if message.age is None and message.last_watched is not None:
            at = min(message.last_watched, now.wall)
        at = max(at, 1)
        seen, again = coverage(plays)
        return Report(
            first_at=at,
            at=at,
            session=name,
            first_seq=message.seq,
            seq=message.seq,
            seen=seen,
            again=again,
            played_ms=played_ms,
            position_ms=position_ms,
            position_at=0 if position_ms == ABSENT else at,
            seek=bool(message.seek),
            claimed=claimed,
            duration_ms=duration_ms,
        )

    def _allow(self, session: _Session, event: int, span_ms: float) -> int:
        """Media ms that the session may still be credited.

        What one report leaves of its time the next may use: after a stall of the network several heartbeats
        arrive at once, and the second of them is as true as the first. Slack is given once a session.
        """
        rules = self._rules
        if session.last_event is None:
            elapsed = max(rules.first_elapsed_ms, span_ms)
            session.allowance_ms = rules.slack_ms
            session.last_event = event
        else:
            elapsed = max(0, event - session.last_event)
            session.last_event = max(event, session.last_event)
        session.allowance_ms += elapsed * rules.max_rate
        return int(session.allowance_ms)


def _reject(waiting: _Waiting, seq: int, detail: str) -> None:
    if len(waiting.rejected) >= MAX_REJECTED:
        raise PeerError(Problem.TOO_MANY_BAD, f"more than {MAX_REJECTED} bad heartbeats between two acks")
    waiting.seq = max(waiting.seq, seq)
    waiting.rejected.append(Rejection(seq=seq, code=Problem.INVALID.code, detail=detail[:200]))


def _within(ms: int, duration_ms: int, pointer: str) -> int:
    """`ms`, at most the duration; a little beyond is rounding, more is refused."""
    if not duration_ms or ms <= duration_ms:
        return ms
    if ms > duration_ms + OVERRUN_MS:
        raise Refused(f"{pointer}: should not be beyond the duration")
    return duration_ms


def _plays(message: Heartbeat, duration_ms: int) -> list[tuple[int, int]]:
    plays = []
    for index, (start, end) in enumerate(message.played or ()):
        if start > end:
            raise Refused(f"/played/{index}: should not end before it starts")
        start_ms = _within(round(start * 1_000), duration_ms, f"/played/{index}/0")
        plays.append((start_ms, _within(round(end * 1_000), duration_ms, f"/played/{index}/1")))
    return plays


def _cut(plays: list[tuple[int, int]], allowed_ms: int) -> list[tuple[int, int]]:
    """The first `allowed_ms` of what was played."""
    kept = []
    for start, end in plays:
        end = min(end, start + allowed_ms)
        kept.append((start, end))
        allowed_ms -= end - start
    return kept
