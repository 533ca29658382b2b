"""The outbox as a sans-I/O object: takes reports and the time, gives heartbeats; only an ack removes a report.

A report gets its seq when it is first sent and never changes afterwards, because the server may have stored it: sent
again, it is identical and counts once. Until then, later reports of the same video are merged into it, so that an hour
offline is a few entries. Entries stay in the order of their first report, so that the wall time spanned by the entries
sent so far always covers what they report as played, as the server's plausibility rule requires.

A `Keeper` is informed of every change before its effect leaves the outbox, so that it can restore the outbox.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from playhead.client.errors import OutboxFull
from playhead.protocol.messages import Ack, Heartbeat, Rejection
from playhead.protocol.scalars import MAX_AGE_MS, MAX_MEDIA_S

MAX_ENTRIES = 1_000
"""Maximum of waiting entries; beyond it, reports that cannot be merged into one are refused."""
MAX_PLAYED = 20
"""Stretches in one heartbeat, so that it fits into 1 KiB, the smallest frame limit that a server may set."""
WINDOW = 48
"""Heartbeats that may be unacked at a time: fewer than the sessions (64) and videos (256) that one connection may
have waiting."""
MAX_SPAN_MS = MAX_MEDIA_S * 1_000

Played = tuple[tuple[float, float], ...]
"""[from, to) of media time, s."""


@dataclass(frozen=True, slots=True)
class Beat:
    """The content of one report; media time in s."""

    video_id: str
    played: Played = ()
    position: float | None = None
    duration: float | None = None
    state: Literal["playing", "paused", "ended"] | None = None
    seek: bool = False

    @property
    def moves(self) -> bool:
        """Whether the report can change a record; that of a paused player cannot."""
        return bool(self.played) or self.seek or self.state == "playing"


@dataclass(slots=True)
class Entry:
    """A heartbeat that is to be sent. Times in ms by the client's clock; seq 0: not sent yet."""

    key: int
    session: str
    beat: Beat
    since_ms: int
    """When the first play that it covers began."""
    at_ms: int
    """When the last play that it covers ended."""
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Settled:
    """An entry that was stored or rejected for good; `capped`: stored in part."""

    entry: Entry
    rejection: Rejection | None
    capped: bool


class Keeper(Protocol):
    """Records the changes of an outbox, to restore it later."""

    def added(self, entry: Entry) -> None:
        """Record an entry that is new or has changed, including its seq."""
        ...

    def removed(self, keys: Sequence[int]) -> None:
        """Record that these entries are settled."""
        ...


@dataclass(slots=True)
class Restored:
    """What an earlier run left: its entries in order, and the last seq that each session has used."""

    entries: list[Entry] = field(default_factory=list)
    last_seq: dict[str, int] = field(default_factory=dict)


class Outbox:
    """The outbox of one client.

    Args:
        session: of new entries; restored entries keep theirs.
    """

    def __init__(
        self,
        session: str,
        keeper: Keeper | None = None,
        restored: Restored | None = None,
        max_entries: int = MAX_ENTRIES,
        max_played: int = MAX_PLAYED,
    ) -> None:
        self.session = session
        self.max_played = max_played
        self._keeper = keeper
        self._max_entries = max_entries
        restored = restored or Restored()
        self._entries = {entry.key: entry for entry in restored.entries}
        self._last_seq = dict(restored.last_seq)
        self._next_key = max(self._entries, default=0) + 1
        self._open: dict[str, int] = {}
        """By video, the key of the newest entry of this session that was never sent."""
        self._todo = deque(self._entries)
        self._in_flight: set[int] = set()

    def __len__(self) -> int:
        """Entries that are not acked."""
        return len(self._entries)

    @property
    def has_work(self) -> bool:
        """Whether `take` would return anything."""
        return bool(self._todo) and len(self._in_flight) < WINDOW

    @property
    def oldest_key(self) -> int | None:
        return next(iter(self._entries), None)

    @property
    def last_key(self) -> int:
        """The key of the newest entry; keys increase."""
        return self._next_key - 1

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The entries that are not acked, oldest first."""
        return tuple(self._entries.values())

    def put(self, beat: Beat, since_ms: int, at_ms: int) -> int:
        """Take a report.

        Returns:
            The key of the (last) entry that it went into.

        Raises:
            OutboxFull: nothing was taken.
        """
        pieces = list(_pieces(beat, self.max_played))
        entry = self._entries.get(self._open.get(beat.video_id, 0))
        if len(pieces) == 1 and entry is not None:
            merged = _merged(entry, beat, since_ms, at_ms, self.max_played)
            if merged is not None:
                self._keep(merged)
                return merged.key
        if len(self._entries) + len(pieces) > self._max_entries:
            raise OutboxFull(f"{len(self._entries)} reports are waiting, of max_pending {self._max_entries}")
        for piece in pieces:
            entry = Entry(self._next_key, self.session, piece, since_ms, at_ms)
            self._next_key += 1
            self._keep(entry)
            self._open[beat.video_id] = entry.key
            self._todo.append(entry.key)
        return self.last_key

    def take(self, now_ms: int, most: int = WINDOW) -> list[Heartbeat]:
        """The next heartbeats to send on this connection, in order, bounded by the window and `most`."""
        heartbeats = []
        for _ in range(min(most, WINDOW - len(self._in_flight), len(self._todo))):
            entry = self._entries[self._todo.popleft()]
            self._in_flight.add(entry.key)
            if not entry.seq:
                self._last_seq[entry.session] = entry.seq = self._last_seq.get(entry.session, 0) + 1
                if self._open.get(entry.beat.video_id) == entry.key:
                    del self._open[entry.beat.video_id]
                self._keep(entry)
            heartbeats.append(heartbeat(entry, self.session, now_ms))
        return heartbeats

    def disconnected(self) -> None:
        """Schedule everything unacked to be sent again: what was sent may be lost."""
        self._in_flight.clear()
        self._todo = deque(self._entries)

    def acked(self, ack: Ack) -> list[Settled]:
        """Remove and return the entries that an ack of this connection settles."""
        rejected = {rejection.seq: rejection for rejection in ack.rejected or ()}
        capped = set(ack.capped or ())
        settled = [
            Settled(entry, rejected.get(entry.seq), entry.seq in capped)
            for entry in (self._entries[key] for key in sorted(self._in_flight))
            if entry.session == ack.session and entry.seq <= ack.seq
        ]
        for each in settled:
            del self._entries[each.entry.key]
            self._in_flight.discard(each.entry.key)
        if settled and self._keeper is not None:
            self._keeper.removed([each.entry.key for each in settled])
        return settled

    def _keep(self, entry: Entry) -> None:
        self._entries[entry.key] = entry
        if self._keeper is not None:
            self._keeper.added(entry)


def heartbeat(entry: Entry, own_session: str, now_ms: int) -> Heartbeat:
    """The heartbeat of an entry. Raises ValueError for an entry that `put` did not make."""
    beat = entry.beat
    return Heartbeat(
        seq=entry.seq,
        video_id=beat.video_id,
        position=beat.position,
        played=list(beat.played) or None,
        duration=beat.duration,
        age=min(max(0, now_ms - entry.at_ms), MAX_AGE_MS),
        span=min(max(0, entry.at_ms - entry.since_ms), MAX_SPAN_MS),
        seek=beat.seek or None,
        state=beat.state,
        session=None if entry.session == own_session else entry.session,
    )


def _merged(entry: Entry, beat: Beat, since_ms: int, at_ms: int, max_played: int) -> Entry | None:
    """The entry with a later report merged in; None if that is not possible."""
    since_ms, newest_ms = min(entry.since_ms, since_ms), max(entry.at_ms, at_ms)
    if newest_ms - since_ms > MAX_SPAN_MS:
        return None
    old = entry.beat
    duration = max((d for d in (old.duration, beat.duration) if d is not None), default=None)
    if not beat.moves:
        return replace(entry, beat=replace(old, duration=duration))
    if not old.moves:
        return replace(entry, beat=replace(beat, duration=duration), since_ms=since_ms, at_ms=newest_ms)
    played = _joined(old.played, beat.played)
    if len(played) > max_played:
        return None
    first, last = (old, beat) if at_ms >= entry.at_ms else (beat, old)
    both = Beat(
        video_id=old.video_id,
        played=played,
        position=last.position if last.position is not None else first.position,
        duration=duration,
        state=last.state,
        seek=old.seek or beat.seek,
    )
    return replace(entry, beat=both, since_ms=since_ms, at_ms=newest_ms)


def _joined(before: Played, after: Played) -> Played:
    """Concatenate stretches. Only exactly adjacent ones become one, so that a second played twice counts twice."""
    joined = list(before)
    for start, end in after:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return tuple(joined)


def _pieces(beat: Beat, max_played: int) -> Iterable[Beat]:
    """Split a report with too many stretches into several that are equivalent together."""
    played = _joined((), beat.played)
    *cuts, last = range(0, len(played), max_played) or [0]
    for cut in cuts:
        yield replace(beat, played=played[cut : cut + max_played], position=None)
    yield replace(beat, played=played[last:])
