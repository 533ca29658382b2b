"""The outbox as a sans-I/O object: reports and the time in, heartbeats out; only an ack takes a report out of it.

A report gets its seq when it is first sent, and from then on never changes, for the server may have stored it: what is
sent again is the same, and counts once. Until then later reports of the same video are merged into it, so that an
hour offline is a few entries. Entries stay in the order of their first report; so, by the server's rule of
plausibility, the wall time that the entries sent so far span always covers what they say was played.

Every change is told to a `Keeper` before its effect leaves the outbox, so that a journal of it can restore it.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from playhead.client.errors import OutboxFull
from playhead.protocol.messages import Ack, Heartbeat, Rejection
from playhead.protocol.scalars import MAX_AGE_MS, MAX_MEDIA_S

MAX_ENTRIES = 1_000
"""Entries that may wait; a report that fits into none of them is refused beyond it."""
MAX_PLAYED = 20
"""Stretches in one heartbeat: it then fits into 1 KiB, the smallest limit that a server may set for a frame."""
WINDOW = 48
"""Heartbeats that may wait for their ack at a time: fewer than the sessions (64) and videos (256) that one
connection may have waiting."""
MAX_SPAN_MS = MAX_MEDIA_S * 1_000

Played = tuple[tuple[float, float], ...]
"""[from, to) of media time, s."""


@dataclass(frozen=True, slots=True)
class Beat:
    """What one report says; media time in s."""

    video_id: str
    played: Played = ()
    position: float | None = None
    duration: float | None = None
    state: Literal["playing", "paused", "ended"] | None = None
    seek: bool = False

    @property
    def moves(self) -> bool:
        """False for what changes nothing, such as the word of a paused player."""
        return bool(self.played) or self.seek or self.state == "playing"


@dataclass(slots=True)
class Entry:
    """One heartbeat-to-be. Times in ms by the client's clock; seq 0: never sent."""

    key: int
    session: str
    beat: Beat
    since_ms: int
    """When the first of what it covers began,"""
    at_ms: int
    """and when the last of it happened."""
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Settled:
    """An entry that is done with: stored, or rejected for good; `capped`: stored in part."""

    entry: Entry
    rejection: Rejection | None
    capped: bool


class Keeper(Protocol):
    """Remembers the outbox."""

    def kept(self, entry: Entry) -> None:
        """This entry is new or has changed, its seq too."""
        ...

    def gone(self, keys: Sequence[int]) -> None: ...


@dataclass(slots=True)
class Restored:
    """What an earlier run left: entries in their order, and the last seq that each of their sessions has used."""

    entries: list[Entry] = field(default_factory=list)
    last_seq: dict[str, int] = field(default_factory=dict)


class Outbox:
    """One client's. `session` is its own; entries of earlier runs keep theirs."""

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
        """By video, the key of our newest entry that was never sent."""
        self._todo = deque(self._entries)
        self._in_flight: set[int] = set()

    def __len__(self) -> int:
        """Entries that are not acked."""
        return len(self._entries)

    @property
    def has_work(self) -> bool:
        """Whether `take` would give something."""
        return bool(self._todo) and len(self._in_flight) < WINDOW

    @property
    def oldest_key(self) -> int | None:
        return next(iter(self._entries), None)

    @property
    def last_key(self) -> int:
        """The newest entry's key; keys rise."""
        return self._next_key - 1

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All that is not acked, oldest first."""
        return tuple(self._entries.values())

    def put(self, beat: Beat, since_ms: int, at_ms: int) -> int:
        """Take a report; the key of the (last) entry that it went into.

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
            raise OutboxFull(f"{len(self._entries)} reports wait to be stored")
        for piece in pieces:
            entry = Entry(self._next_key, self.session, piece, since_ms, at_ms)
            self._next_key += 1
            self._keep(entry)
            self._open[beat.video_id] = entry.key
            self._todo.append(entry.key)
        return self.last_key

    def take(self, now_ms: int, most: int = WINDOW) -> list[Heartbeat]:
        """The next heartbeats to send on this connection, in their order; the window and `most` bound them."""
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
        """What was sent and not acked may be lost: all of it is to be sent again."""
        self._in_flight.clear()
        self._todo = deque(self._entries)

    def acked(self, ack: Ack) -> list[Settled]:
        """What an ack of this connection settles."""
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
            self._keeper.gone([each.entry.key for each in settled])
        return settled

    def _keep(self, entry: Entry) -> None:
        self._entries[entry.key] = entry
        if self._keeper is not None:
            self._keeper.kept(entry)


def heartbeat(entry: Entry, own_session: str, now_ms: int) -> Heartbeat:
    """What is sent. Raises ValueError for an entry that was not made by `put`."""
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
    """The entry with a later report in it; None where they can't be one."""
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
    """One after the other. Only what follows on exactly becomes one stretch: a second played twice counts twice."""
    joined = list(before)
    for start, end in after:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return tuple(joined)


def _pieces(beat: Beat, max_played: int) -> Iterable[Beat]:
    """The report, or several that together say the same where it has too many stretches for one."""
    played = _joined((), beat.played)
    *cuts, last = range(0, len(played), max_played) or [0]
    for cut in cuts:
        yield replace(beat, played=played[cut : cut + max_played], position=None)
    yield replace(beat, played=played[last:])
