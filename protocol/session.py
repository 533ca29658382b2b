"""From heartbeats to reports: plausibility, effective time, and which seqs wait for their ack.

A session is one player page load or one outbox; its seqs rise. One `Sessions` serves one conversation, a
WebSocket or a single REST envelope, and never holds more than MAX_SESSIONS of them.

Invariant: a seq is acked only when everything the conversation has taken up to it was stored or rejected.
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
"""Sessions of one conversation whose seqs are remembered; a drained outbox brings a few old ones along."""
MAX_REJECTED = 512
"""Rejections that one ack of a session may carry. A peer that makes more is sent away; of the store's, the first."""
SHORTEST_MS = 1_000
"""A duration below this is no duration: nobody could have seen a whole second of that video, and its totals would
count seconds of no viewer."""
MAX_CAPPED = 512
"""Seqs that one ack of a session may tell to have been cut; of more, the first."""
_REFUSALS = {
    Outcome.DELETED: Problem.DELETED,
    Outcome.FAILED: Problem.DAMAGED,
    Outcome.TOO_MANY_VIDEOS: Problem.TOO_MANY_VIDEOS,
}
"""What the ack says of a report that the store did not join."""
OVERRUN_MS = 2_000
"""How far a position or a play may lie beyond the duration without a word: players round, and encoders disagree."""


class Now(msgspec.Struct, frozen=True, gc=False):
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


class _Waiting(msgspec.Struct):
    """What the next ack of a session says, or the one after it."""

    seq: int = 0
    rejected: list[Rejection] | None = None
    capped: list[int] | None = None

    def cap(self, seqs: Sequence[int]) -> None:
        if self.capped is None:
            self.capped = []
        self.capped.extend(seqs[: max(0, MAX_CAPPED - len(self.capped))])

    def reject(self, rejections: Sequence[Rejection]) -> None:
        """As many of them as there is room for."""
        if self.rejected is None:
            self.rejected = []
        self.rejected.extend(rejections[: max(0, MAX_REJECTED - len(self.rejected))])


class _Session(msgspec.Struct):
    allowance_ms: float = 0.0
    last_event: int | None = None
    """Event time of the newest report so far, on the server's monotonic clock."""
    filling: _Waiting | None = None
    flushing: _Waiting | None = None


class Sessions:
    """The sessions of one conversation. Heartbeats go in, reports come out; acks follow the flushes."""

    __slots__ = ("_default", "_rules", "_sessions", "video_id")

    def __init__(self, default: str, rules: Plausibility) -> None:
        self._default = default
        self._rules = rules
        self._sessions: dict[str, _Session] = {}
        self.video_id = ""
        """Of the last heartbeat, "" before the first: one string for all that follow it."""

    def heartbeat(self, message: Heartbeat | Beat, now: Now) -> Report | None:
        """What `message` says about its record; None where it changes nothing or was rejected (the ack tells).

        Raises:
            PeerError: more sessions wait for their ack than one conversation may have, or more rejections than one ack
                may carry. Nothing was taken.
        """
        if message.video_id != self.video_id:
            self.video_id = message.video_id
        name = message.session or self._default
        session, waiting = self._take(name)
        try:
            report = self._report(name, session, waiting, message, now)
        except Refused as refusal:
            _reject(waiting, message.seq, str(refusal))
            return None
        if message.seq > waiting.seq:
            waiting.seq = message.seq
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
        elif (problem := _REFUSALS.get(outcome)) is not None:
            detail = problem.value.title
            told = seqs[:MAX_REJECTED]
            waiting.reject([Rejection(seq=seq, code=problem.code, detail=detail) for seq in told])

    def stored(self) -> Iterable[Ack]:
        """The batch is stored: one ack for each session that had something in it."""
        return (told if told is not None else Ack(session=name, seq=seq) for name, seq, told in self.acked())

    def acked(self) -> Iterable[tuple[str, int, Ack | None]]:
        """What `stored` says, as (session, seq, the ack itself where it says more than that)."""
        for name, session in self._sessions.items():
            waiting, session.flushing = session.flushing, None
            if waiting is None:
                continue
            ack = None
            if waiting.rejected or waiting.capped:
                ack = Ack(
                    session=name,
                    seq=waiting.seq,
                    rejected=sorted(waiting.rejected or (), key=lambda r: r.seq) or None,
                    capped=sorted(set(waiting.capped or ())) or None,
                )
            yield name, waiting.seq, ack

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

    def _report(
        self, name: str, session: _Session, waiting: _Waiting, message: Heartbeat | Beat, now: Now
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
            waiting.cap((message.seq,))
        age_ms = round(message.age) if message.age else 0
        self._allow(session, now.mono - age_ms, message.span)
        if played_ms > session.allowance_ms:
            played_ms = int(session.allowance_ms)
            plays = _cut(plays, played_ms)
            waiting.cap((message.seq,))
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
        """Add what the session may be credited for the time since its last report, media ms.

        What one report leaves of its time the next may use: after a stall of the network several heartbeats
        arrive at once, and the second of them is as true as the first. Slack is given once a session.
        """
        rules, last = self._rules, session.last_event
        if last is None:
            session.allowance_ms = rules.slack_ms + max(rules.first_elapsed_ms, span_ms or 0) * rules.max_rate
            session.last_event = event
        elif event > last:
            session.allowance_ms += (event - last) * rules.max_rate
            session.last_event = event


def _reject(waiting: _Waiting, seq: int, detail: str) -> None:
    if waiting.rejected is not None and len(waiting.rejected) >= MAX_REJECTED:
        raise PeerError(Problem.TOO_MANY_BAD, f"more than {MAX_REJECTED} bad heartbeats between two acks")
    waiting.seq = max(waiting.seq, seq)
    waiting.reject((Rejection(seq=seq, code=Problem.INVALID.code, detail=detail[:200]),))


def _plays(played: list[tuple[float, float]], duration_ms: int) -> tuple[list[tuple[int, int]], int, int]:
    """Plays in ms without what lies beyond the duration (0: not known), their sum, and the last end before the cut."""
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
    """The first `allowed_ms` of what was played."""
    kept = []
    for start, end in plays:
        end = min(end, start + allowed_ms)
        kept.append((start, end))
        allowed_ms -= end - start
    return kept
