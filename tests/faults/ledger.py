"""What the players have sent, what was acked, and what the store must then hold by the pure rules of protocol/.

The model knows nothing of batches, stores or faults: it joins each heartbeat that was sent once, in the order of its
session, with `protocol.record.join`. When all of them are acked, every record, summary and curve must be the model's.
"""

import time
from collections import defaultdict
from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace

from playhead.client.outbox import Entry, heartbeat
from playhead.protocol.record import ABSENT, Record, Report, join
from playhead.protocol.session import Now, Plausibility, Sessions

CLOCKS_MS = 150
"""How far two clocks of one machine may seem to lie apart, and a frame of a connection that was cut may be late."""
THRESHOLD_PERMILLE = 900
Key = tuple[str, str]
"""(userId, videoId)"""


def wall_ms() -> float:
    return time.time() * 1_000


@dataclass(slots=True)
class Sent:
    """One heartbeat, and when (ms since 1970) it was first sent, and first and last acked; 0: not yet."""

    user: str
    entry: Entry
    sent_ms: float
    acked_ms: float = 0
    until_ms: float = 0


@dataclass(slots=True)
class Claim:
    """What a REST update says: so many s watched, at `at_ms`; the rest as in Sent."""

    user: str
    video: str
    watched_s: int
    at_ms: int
    acked_ms: float = 0
    until_ms: float = 0


@dataclass(slots=True)
class Expected:
    """One record of the model. The server stamps a heartbeat between its sending and its ack: instants are bounds."""

    record: Record = field(default_factory=Record)
    earliest: float = 0
    latest: float = 0
    """lastWatched lies between these, ms since 1970."""
    told: list[tuple[float, float, int]] = field(default_factory=list)
    """(earliest, latest, position ms) of all that told one."""

    @property
    def positions(self) -> set[float | None]:
        """Those that can be the newest; s of media time. One, unless two were sent at almost the same time.

        Where all that tell one came late and out of order, it counts as what no session has settled: see Record.
        """
        if not self.told:
            return {None}
        newest = max(earliest for earliest, _, _ in self.told)
        found: set[int | None] = {position for _, latest, position in self.told if latest >= newest}
        if self.record.position_ms == ABSENT:
            found = {
                replace(self.record, unsettled_ms=ABSENT if position is None else position).position
                for position in found
            }
        return {None if position is None else position / 1_000 for position in found}


class Ledger:
    """Of one run.

    Attributes:
        base: what the store held when it was last known to have lost something; by default nothing.
        order: by session, where its heartbeats did not arrive once each and in order: what arrived.
    """

    def __init__(self) -> None:
        self.sent: dict[tuple[str, int], Sent] = {}
        self.claims: list[Claim] = []
        self.base: dict[Key, Record] = {}
        self.order: dict[str, list[Entry]] = {}
        self.count = self.acks = 0
        """Heartbeats and claims, sent and acked since the beginning, also those that the store has lost since."""

    def keeper(self, user: str) -> "Keeper":
        return Keeper(self, user)

    def send(self, user: str, entry: Entry) -> Sent:
        """It is about to be sent for the first time."""
        self.count += 1
        sent = self.sent[entry.session, entry.seq] = Sent(user, entry, wall_ms())
        return sent

    def claim(self, user: str, video: str, watched_s: int, at_ms: int) -> Claim:
        """It is about to be told for the first time."""
        self.count += 1
        self.claims.append(Claim(user, video, watched_s, at_ms))
        return self.claims[-1]

    def ack(self, sent: Sent | Claim) -> None:
        """It is told to be stored; once more, where it was sent by two ways."""
        sent.until_ms = wall_ms()
        if not sent.acked_ms:
            self.acks += 1
            sent.acked_ms = sent.until_ms

    def unacked(self) -> list[Sent | Claim]:
        everything: list[Sent | Claim] = [*self.sent.values(), *self.claims]
        return [each for each in everything if not each.acked_ms]

    def rebase(self, held: dict[Key, Record], users: Container[str] | None = None) -> int:
        """The store is known to hold this of these users, by default of all, by an act that is no fault of the service:
        what was acked to them before counts only as far as it is in `held`. How many heartbeats that are."""

        def counts(user: str) -> bool:
            return users is not None and user not in users

        self.base = {key: record for key, record in self.base.items() if counts(key[0])} | held
        settled = [name for name, sent in self.sent.items() if sent.acked_ms and not counts(sent.user)]
        for name in settled:
            del self.sent[name]
        before = len(self.claims)
        self.claims = [claim for claim in self.claims if not claim.acked_ms or counts(claim.user)]
        return len(settled) + before - len(self.claims)

    def expected(self) -> dict[Key, Expected]:
        """By learner and video, of all that was sent."""
        found: defaultdict[Key, Expected] = defaultdict(Expected)
        for key, record in self.base.items():
            position = record.position
            at = max(record.position_at, record.unsettled_at)
            told: list[tuple[float, float, int]] = [] if position is None else [(at, at, position)]
            found[key] = Expected(record, record.last_watched, record.last_watched, told)
        for sent in self._in_order():
            expected = found[sent.user, sent.entry.beat.video_id]
            expected.record = joined(expected.record, sent.entry)
            earliest, latest = self._bounds(sent)
            expected.earliest, expected.latest = max(expected.earliest, earliest), max(expected.latest, latest)
            if (position_s := sent.entry.beat.position) is not None:
                expected.told.append((earliest, latest, round(position_s * 1_000)))
        for claim in self.claims:
            expected = found[claim.user, claim.video]
            report = Report(claim.at_ms, claim.at_ms, claimed=claim.watched_s)
            expected.record = join(expected.record, report, 0, THRESHOLD_PERMILLE)[0]
            expected.earliest = max(expected.earliest, claim.at_ms - CLOCKS_MS)
            expected.latest = max(expected.latest, claim.at_ms)
        return dict(found)

    def _in_order(self) -> list[Sent]:
        plain = [sent for (session, _), sent in sorted(self.sent.items()) if session not in self.order]
        arrived = [self.sent[session, entry.seq] for session, entries in self.order.items() for entry in entries]
        return plain + arrived

    def _bounds(self, sent: Sent) -> tuple[float, float]:
        until = sent.until_ms or wall_ms()
        at = sent.entry.at_ms
        return at - CLOCKS_MS, at + CLOCKS_MS + (until - sent.sent_ms)


@dataclass(slots=True)
class Keeper:
    """One client's outbox tells it each change (`client.outbox.Keeper`): what is sent, and what an ack took out."""

    ledger: Ledger
    user: str
    _by_key: dict[int, Sent] = field(default_factory=dict)

    def kept(self, entry: Entry) -> None:
        if entry.seq:
            self._by_key[entry.key] = self.ledger.send(self.user, entry)

    def gone(self, keys: Sequence[int]) -> None:
        for key in keys:
            self.ledger.ack(self._by_key.pop(key))


def joined(record: Record, entry: Entry) -> Record:
    """The record with one heartbeat in it: believed in full, for players here play in real time."""
    now = Now(max(1, entry.at_ms), 0)
    sessions = Sessions(entry.session, Plausibility())
    report = sessions.heartbeat(heartbeat(entry, entry.session, entry.at_ms), now)
    sessions.taken()
    assert report is not None
    assert all(ack.rejected is None and ack.capped is None for ack in sessions.stored())
    return join(record, report, 0, THRESHOLD_PERMILLE)[0]
