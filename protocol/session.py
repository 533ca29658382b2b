"""Converts heartbeats to reports: plausibility, effective time, and which seqs are waiting for an ack.

A session is one page load of a player or one outbox, and its seqs rise. A `Sessions` object serves one WebSocket or
one REST envelope, and holds at most MAX_SESSIONS of them.

Invariant: a seq is acked only when every accepted heartbeat of the session up to it is stored or rejected.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from playhead.protocol.beats import Beat
from playhead.protocol.errors import InvalidMessage, PeerError, Problem
from playhead.protocol.intervals import coverage
from playhead.protocol.messages import Ack, Heartbeat, Rejection
from playhead.protocol.record import ABSENT, Outcome, Report

MAX_SESSIONS = 64
"""Most sessions per connection whose seqs are remembered; an outbox that is sent may contain several old ones."""
MAX_REJECTED = 512
"""Most rejections in one ack of a session. A peer that causes more with invalid heartbeats is disconnected; of more
that the store causes, the first are reported."""
SHORTEST_MS = 1_000
"""A shorter duration counts as unknown: no viewer could see a whole second of such a video, so its totals would contain
seconds that no viewer has."""
MAX_CAPPED = 512
"""Most capped seqs in one ack of a session; of more, the first are reported."""
_REFUSALS = {
    Outcome.DELETED: Problem.DELETED,
    Outcome.FAILED: Problem.DAMAGED,
    Outcome.TOO_MANY_VIDEOS: Problem.TOO_MANY_VIDEOS,
}
"""The problem that the ack reports for a report which the store did not join."""
OVERRUN_MS = 2_000
"""How far a position or a play may lie beyond the duration without being reported as capped: players round, and the
durations of encoders differ."""


class Now(msgspec.Struct, frozen=True, gc=False):
    """One moment on the server's wall clock and on its monotonic clock, in ms."""

    wall: int
    mono: int


@dataclass(frozen=True, slots=True)
class Plausibility:
    """Limits on how much played time a session may report."""

    max_rate: float = 4.0
    slack_ms: int = 2_000
    first_elapsed_ms: int = 60_000


class Refused(Exception):
    """A heartbeat contradicts itself; the message starts with a pointer to the field and becomes the rejection."""


class _PendingAck(msgspec.Struct):
    """The content of a session's next ack, or of the one after it."""

    seq: int = 0
    rejected: list[Rejection] | None = None
    capped: list[int] | None = None

    def cap(self, seqs: Sequence[int]) -> None:
        if self.capped is None:
            self.capped = []
        self.capped.extend(seqs[: max(0, MAX_CAPPED - len(self.capped))])

    def reject(self, rejections: Sequence[Rejection]) -> None:
        """Add as many of the rejections as there is room for."""
        if self.rejected is None:
            self.rejected = []
        self.rejected.extend(rejections[: max(0, MAX_REJECTED - len(self.rejected))])


class _Session(msgspec.Struct):
    allowance_ms: float = 0.0
    last_event: int | None = None
    """When the newest report so far happened, on the server's monotonic clock; None before the first."""
    filling: _PendingAck | None = None
    flushing: _PendingAck | None = None


class Sessions:
    """The sessions of one connection. Heartbeats go in, reports come out; acks follow the flushes."""

    __slots__ = ("_default", "_rules", "_sessions", "video_id")

    def __init__(self, default: str, rules: Plausibility) -> None:
        self._default = default
        self._rules = rules
        self._sessions: dict[str, _Session] = {}
        self.video_id = ""
        """The video of the last heartbeat, "" before the first. Later heartbeats share this string."""

    def heartbeat(self, message: Heartbeat | Beat, now: Now) -> Report | None:
        """Convert a heartbeat to a report.

        Returns:
            The report; None where the heartbeat changes nothing or is rejected, which the next ack reports.

        Raises:
            PeerError: too many sessions are waiting for an ack, or one ack would have too many rejections. The
                heartbeat is not accepted.
        """
        if message.video_id != self.video_id:
            self.video_id = message.video_id
        name = message.session or self._default
        session, pending = self._take(name)
        try:
            report = self._report(name, session, pending, message, now)
        except Refused as refusal:
            _reject(pending, message.seq, str(refusal))
            return None
        if message.seq > pending.seq:
            pending.seq = message.seq
        return report

    def refuse(self, error: InvalidMessage) -> bool:
        """Reject a heartbeat with invalid fields in the next ack.

        Returns:
            False where its seq or session is invalid, so that no ack can name it.

        Raises:
            PeerError: as for `heartbeat`.
        """
        if error.seq is None:
            return False
        _, pending = self._take(error.session or self._default)
        _reject(pending, error.seq, error.detail)
        return True

    def committing(self) -> None:
        """Note that the batch with every report so far is being committed."""
        for session in self._sessions.values():
            if session.flushing is None:
                session.flushing, session.filling = session.filling, None

    def outcome(self, name: str, seqs: Sequence[int], outcome: Outcome) -> None:
        """Note the outcome of a report of the batch being committed, where it is not JOINED."""
        session = self._sessions.get(name)
        if session is None or session.flushing is None:
            return
        pending = session.flushing
        if outcome is Outcome.CAPPED:
            pending.cap(seqs)
        elif (problem := _REFUSALS.get(outcome)) is not None:
            detail = problem.value.title
            pending.reject([Rejection(seq=seq, code=problem.code, detail=detail) for seq in seqs[:MAX_REJECTED]])

    def stored(self) -> Iterable[Ack]:
        """Note that the batch is stored, and return an ack for each session that had reports in it."""
        return (Ack(session=name, seq=seq) if ack is None else ack for name, seq, ack in self.acked())

    def acked(self) -> Iterable[tuple[str, int, Ack | None]]:
        """Like `stored`, but yield (session, seq, ack), with ack None where nothing was rejected or capped."""
        for name, session in self._sessions.items():
            pending, session.flushing = session.flushing, None
            if pending is None:
                continue
            ack = None
            if pending.rejected or pending.capped:
                ack = Ack(
                    session=name,
                    seq=pending.seq,
                    rejected=sorted(pending.rejected or (), key=lambda r: r.seq) or None,
                    capped=sorted(set(pending.capped or ())) or None,
                )
            yield name, pending.seq, ack

    def _take(self, name: str) -> tuple[_Session, _PendingAck]:
        session = self._sessions.get(name)
        if session is None:
            if len(self._sessions) >= MAX_SESSIONS:
                self._forget_one()
            session = self._sessions[name] = _Session()
        if session.filling is None:
            session.filling = _PendingAck()
        return session, session.filling

    def _forget_one(self) -> None:
        for name, session in self._sessions.items():
            if session.filling is None and session.flushing is None:
                del self._sessions[name]
                return
        raise PeerError(Problem.TOO_MANY_SESSIONS, f"at most {MAX_SESSIONS} sessions may wait for their ack")

    def _report(
        self, name: str, session: _Session, pending: _PendingAck, message: Heartbeat | Beat, now: Now
    ) -> Report | None:
        duration_ms = round(message.duration * 1_000) if message.duration else 0
        if duration_ms < SHORTEST_MS or message.duration_final is False:
            duration_ms = 0
        plays, played_ms, end_ms = _plays(message.played, duration_ms) if message.played else ([], 0, 0)
        position_ms = ABSENT
        if message.position is not None:
            position_ms = round(message.position * 1_000)
            if duration_ms and position_ms > duration_ms:
                end_ms = max(end_ms, position_ms)
                position_ms = duration_ms
        if duration_ms and end_ms > duration_ms + OVERRUN_MS:
            pending.cap((message.seq,))
        age_ms = round(message.age) if message.age else 0
        self._allow(session, now.mono - age_ms, message.span)
        if played_ms > session.allowance_ms:
            played_ms = int(session.allowance_ms)
            plays = _cut(plays, played_ms)
            pending.cap((message.seq,))
        session.allowance_ms -= played_ms
        claimed = message.watched_duration or 0
        if not (played_ms or message.seek or message.state == "playing"):
            if not claimed:
                return None
            position_ms = ABSENT
        at = now.wall - age_ms
        if message.last_watched is not None and message.age is None:
            at = min(message.last_watched, now.wall)
        if at < 1:
            at = 1
        seen, again = coverage(plays)
        return Report(
            at,
            at,
            name,
            message.seq,
            message.seq,
            seen,
            again,
            played_ms,
            position_ms,
            0 if position_ms == ABSENT else at,
            bool(message.seek),
            claimed,
            duration_ms,
        )

    def _allow(self, session: _Session, event: int, span_ms: float | None) -> None:
        """Add to the session's allowance (media ms) what the time since its last report permits.

        What one report leaves unused the next may use: after a network stall several heartbeats arrive at once, and
        the second is as true as the first. Slack is granted once per session.
        """
        rules, last = self._rules, session.last_event
        if last is None:
            session.allowance_ms = rules.slack_ms + max(rules.first_elapsed_ms, span_ms or 0) * rules.max_rate
            session.last_event = event
        elif event > last:
            session.allowance_ms += (event - last) * rules.max_rate
            session.last_event = event


def _reject(pending: _PendingAck, seq: int, detail: str) -> None:
    if pending.rejected is not None and len(pending.rejected) >= MAX_REJECTED:
        raise PeerError(Problem.TOO_MANY_BAD, f"more than {MAX_REJECTED} invalid heartbeats between two acks")
    pending.seq = max(pending.seq, seq)
    pending.reject((Rejection(seq=seq, code=Problem.INVALID.code, detail=detail[:200]),))


def _plays(played: list[tuple[float, float]], duration_ms: int) -> tuple[list[tuple[int, int]], int, int]:
    """Return the plays in ms, cut at the duration (0: unknown), their sum, and the last end beyond the duration."""
    plays: list[tuple[int, int]] = []
    total = last_ms = 0
    for index, (start, end) in enumerate(played):
        if start > end:
            raise Refused(f"/played/{index}: should not end before it starts")
        start_ms, end_ms = round(start * 1_000), round(end * 1_000)
        if duration_ms and end_ms > duration_ms:
            last_ms = max(last_ms, end_ms)
            start_ms, end_ms = min(start_ms, duration_ms), duration_ms
        plays.append((start_ms, end_ms))
        total += end_ms - start_ms
    return plays, total, last_ms


def _cut(plays: list[tuple[int, int]], allowed_ms: int) -> list[tuple[int, int]]:
    """Return the first `allowed_ms` of the plays."""
    kept = []
    for start, end in plays:
        end = min(end, start + allowed_ms)
        kept.append((start, end))
        allowed_ms -= end - start
    return kept
