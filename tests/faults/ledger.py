"""The heartbeats that players have sent, their acks, and the records that the store must hold then.

The model has no batches, stores or faults: it joins each heartbeat once, in the order of its session, with
`protocol.record.join`. When all of them are acked, every record, summary and curve must equal the model's.
"""

import time
from collections import defaultdict
from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace

from playhead.client.outbox import Entry, heartbeat
from playhead.protocol.record import ABSENT, Record, Report, join
from playhead.protocol.session import Now, Plausibility, Sessions

CLOCKS_MS = 150
"""How far two clocks of one machine may appear to differ, and how late a frame of a closed connection may arrive."""
THRESHOLD_PERMILLE = 900
Key = tuple[str, str]
"""(userId, videoId)"""


def wall_ms() -> float:
    return time.time() * 1_000


@dataclass(slots=True)
class Sent:
    """One heartbeat, and the times (ms since 1970) when it was first sent, first acked and last acked; 0 if not yet."""

    user: str
    entry: Entry
    sent_ms: float
    acked_ms: float = 0
    until_ms: float = 0


@dataclass(slots=True)
class Claim:
    """A REST update: `watched_s` seconds were watched until `at_ms`. The other fields are those of Sent."""

    user: str
    video: str
    watched_s: int
    at_ms: int
    acked_ms: float = 0
    until_ms: float = 0


@dataclass(slots=True)
class Expected:
    """One record of the model. Its instants have bounds, because the server stamps a heartbeat between its sending and
    its ack."""

    record: Record = field(default_factory=Record)
    earliest: float = 0
    latest: float = 0
    """lastWatched lies between these, ms since 1970."""
    reported: list[tuple[float, float, int]] = field(default_factory=list)
    """(earliest, latest, position ms) of all heartbeats with a position."""

    @property
    def positions(self) -> set[float | None]:
        """The positions (s of media time) that can be the newest: one, unless two were sent almost at the same time.

        If all heartbeats with a position came late and out of order, no session has settled it: see Record.
        """
        if not self.reported:
            return {None}
        newest = max(earliest for earliest, _, _ in self.reported)
        found: set[int | None] = {position for _, latest, position in self.reported if latest >= newest}
        if self.record.position_ms == ABSENT:
            found = {
                replace(self.record, unsettled_ms=ABSENT if position is None else position).position
                for position in found
            }
        return {None if position is None else position / 1_000 for position in found}


class Ledger:
    """The heartbeats and updates of one run.

    Attributes:
        base: the records that the store held after its last known loss; by default none.
        order: by session, the heartbeats in their order of arrival, if they did not arrive once each and in order.
    """

    def __init__(self) -> None:
        self.sent: dict[tuple[str, int], Sent] = {}
        self.claims: list[Claim] = []
        self.base: dict[Key, Record] = {}
        self.order: dict[str, list[Entry]] = {}
        self.count = self.acks = 0
        """Heartbeats and claims sent and acked since the beginning, including those that the store has lost since."""

    def keeper(self, user: str) -> "Keeper":
        return Keeper(self, user)

    def send(self, user: str, entry: Entry) -> Sent:
        """Note a heartbeat that is about to be sent for the first time."""
        self.count += 1
        sent = self.sent[entry.session, entry.seq] = Sent(user, entry, wall_ms())
        return sent

    def claim(self, user: str, video: str, watched_s: int, at_ms: int) -> Claim:
        """Note an update that is about to be sent for the first time."""
        self.count += 1
        self.claims.append(Claim(user, video, watched_s, at_ms))
        return self.claims[-1]

    def ack(self, sent: Sent | Claim) -> None:
        """Note an ack. There may be several, if it was sent by two transports."""
        sent.until_ms = wall_ms()
        if not sent.acked_ms:
            self.acks += 1
            sent.acked_ms = sent.until_ms

    def unacked(self) -> list[Sent | Claim]:
        everything: list[Sent | Claim] = [*self.sent.values(), *self.claims]
        return [each for each in everything if not each.acked_ms]

    def rebase(self, held: dict[Key, Record], users: Container[str] | None = None) -> int:
        """Forget what was acked to these users (by default all), because the test has damaged the store: from now on
        their records are expected as in `held`. Returns how many heartbeats and updates were forgotten."""

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
        """The model's records of everything that was sent, by learner and video."""
        found: defaultdict[Key, Expected] = defaultdict(Expected)
        for key, record in self.base.items():
            position = record.position
            at = max(record.position_at, record.unsettled_at)
            reported: list[tuple[float, float, int]] = [] if position is None else [(at, at, position)]
            found[key] = Expected(record, record.last_watched, record.last_watched, reported)
        for sent in self._in_order():
            expected = found[sent.user, sent.entry.beat.video_id]
            expected.record = joined(expected.record, sent.entry)
            earliest, latest = self._bounds(sent)
            expected.earliest, expected.latest = max(expected.earliest, earliest), max(expected.latest, latest)
            if (position_s := sent.entry.beat.position) is not None:
                expected.reported.append((earliest, latest, round(position_s * 1_000)))
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
    """Notes in the ledger what one client's outbox adds and what acks remove (`client.outbox.Keeper`)."""

    ledger: Ledger
    user: str
    _by_key: dict[int, Sent] = field(default_factory=dict)

    def added(self, entry: Entry) -> None:
        if entry.seq:
            self._by_key[entry.key] = self.ledger.send(self.user, entry)

    def removed(self, keys: Sequence[int]) -> None:
        for key in keys:
            self.ledger.ack(self._by_key.pop(key))


def joined(record: Record, entry: Entry) -> Record:
    """Join a heartbeat with the record. No play is capped, because these players play in real time."""
    now = Now(max(1, entry.at_ms), 0)
    sessions = Sessions(entry.session, Plausibility())
    report = sessions.heartbeat(heartbeat(entry, entry.session, entry.at_ms), now)
    sessions.committing()
    assert report is not None
    assert all(ack.rejected is None and ack.capped is None for ack in sessions.stored())
    return join(record, report, 0, THRESHOLD_PERMILLE)[0]
