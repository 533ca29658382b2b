"""The outbox in isolation, against the service's own rules in `protocol.session` and `protocol.record`."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playhead.client.errors import OutboxFull
from playhead.client.journal import Journal
from playhead.client.outbox import WINDOW, Beat, Entry, Outbox, Restored
from playhead.protocol.codecs import CODECS, Codec
from playhead.protocol.intervals import coverage
from playhead.protocol.messages import Ack, Heartbeat, Rejection
from playhead.protocol.record import Record, join
from playhead.protocol.scalars import MAX_SEQ
from playhead.protocol.session import Now, Plausibility, Sessions
from playhead.server.settings import Settings

A, B = (str(UUID(int=number)) for number in (1, 2))
NOW = 1_764_000_000_000


def play(start: float, end: float, video: str = A, **more: object) -> Beat:
    return Beat(video, played=((start, end),), position=end, state="playing", **more)  # type: ignore[arg-type]


def put(outbox: Outbox, *beats: Beat) -> None:
    """Reports of 5 s each, one after the other."""
    for index, beat in enumerate(beats):
        outbox.put(beat, NOW + 5_000 * index, NOW + 5_000 * (index + 1))


def test_waiting_reports_are_merged_with_age_and_span() -> None:
    """Three unsent reports become one heartbeat with all plays, the newest position and the whole time span."""
    outbox = Outbox("s")
    put(outbox, play(0, 5), play(5, 10), play(60, 65, seek=True, duration=90.0))
    (sent,) = outbox.take(NOW + 25_000)
    assert sent == Heartbeat(
        seq=1,
        video_id=A,
        played=[(0, 10), (60, 65)],
        position=65,
        duration=90,
        state="playing",
        seek=True,
        age=10_000,
        span=15_000,
    )


def test_a_sent_heartbeat_never_changes_and_is_sent_again_after_a_disconnect() -> None:
    """A later report gets its own heartbeat; after a reconnect both are sent, the first unchanged except its age."""
    outbox = Outbox("s")
    put(outbox, play(0, 5))
    (first,) = outbox.take(NOW + 5_000)
    put(outbox, play(5, 10))
    outbox.disconnected()
    again, second = outbox.take(NOW + 65_000)
    assert first.age is not None
    assert again == first.model_copy(update={"age": first.age + 60_000})
    assert (second.seq, second.played) == (2, [(5, 10)])


def test_an_ack_removes_what_was_sent_up_to_it_and_nothing_else() -> None:
    """Acks are cumulative, for their session only, and never cover one that this connection has not sent yet."""
    outbox = Outbox("s")
    put(outbox, play(0, 5))
    outbox.take(NOW)
    put(outbox, play(5, 10))
    outbox.take(NOW)
    put(outbox, play(10, 15))
    assert outbox.acked(Ack(session="another", seq=9)) == []
    settled = outbox.acked(
        Ack(session="s", seq=2, rejected=[Rejection(seq=2, code="deleted", detail="gone")], capped=[1])
    )
    assert [(each.entry.seq, each.rejection is not None, each.capped) for each in settled] == [
        (1, False, True),
        (2, True, False),
    ]
    assert [entry.beat.played for entry in outbox.entries] == [((10, 15),)]
    outbox.take(NOW)
    outbox.disconnected()
    assert outbox.acked(Ack(session="s", seq=3)) == []
    assert len(outbox) == 1


@pytest.mark.parametrize(
    ("beats", "played", "position", "state"),
    [
        pytest.param([play(0, 5), play(0, 5)], ((0, 5), (0, 5)), 5, "playing", id="twice-counts-twice"),
        pytest.param(
            [play(0, 5), Beat(A, position=99, state="paused")], ((0, 5),), 5, "playing", id="paused-moves-nothing"
        ),
        pytest.param([Beat(A, position=99, state="paused"), play(0, 5)], ((0, 5),), 5, "playing", id="after-a-pause"),
        pytest.param([play(0, 5), Beat(A, state="ended", seek=True)], ((0, 5),), 5, "ended", id="without-a-position"),
    ],
)
def test_merging(beats: list[Beat], played: object, position: float, state: str) -> None:
    """The merged report is equivalent to the reports one after the other."""
    outbox = Outbox("s")
    put(outbox, *beats)
    (entry,) = outbox.entries
    assert (entry.beat.played, entry.beat.position, entry.beat.state) == (played, position, state)


def test_a_report_with_too_many_stretches_becomes_several_heartbeats() -> None:
    """They have all stretches in order; only the last has the position."""
    outbox = Outbox("s", max_played=3)
    stretches = tuple((10.0 * i, 10.0 * i + 5) for i in range(8))
    outbox.put(Beat(A, played=stretches, position=75), NOW - 40_000, NOW)
    sent = outbox.take(NOW)
    assert [each.played for each in sent] == [list(stretches[:3]), list(stretches[3:6]), list(stretches[6:])]
    assert [each.position for each in sent] == [None, None, 75]


def test_a_full_outbox_refuses_new_entries_and_still_merges() -> None:
    """At the bound, a report of another video is refused whole; one of the same video is merged."""
    outbox = Outbox("s", max_entries=1)
    put(outbox, play(0, 5))
    with pytest.raises(OutboxFull):
        put(outbox, play(0, 5, video=B))
    put(outbox, play(5, 10))
    assert [entry.beat for entry in outbox.entries] == [play(0, 10)]


@pytest.mark.parametrize("codec", CODECS.values(), ids=lambda codec: codec.subprotocol)
def test_every_heartbeat_fits_into_the_smallest_frame_limit(codec: Codec) -> None:
    """However much is merged; a frame that is too large would end every connection."""
    old = Outbox("s" * 64)
    for index in range(100):
        start = 172_000.123 - 0.25 * index
        old.put(Beat(A, ((start, start + 0.111),), start, 172_799.123, "playing", True), NOW, NOW + 172_800_000)
    restored = Restored([replace(entry, seq=MAX_SEQ) for entry in old.entries])
    outbox = Outbox("t", restored=restored)
    sent = outbox.take(NOW + 366 * 86_400_000)
    assert len(sent) == 5
    smallest = next(each for each in Settings.model_fields["max_frame_bytes"].metadata if hasattr(each, "ge")).ge
    assert max(len(codec.encode(each)) for each in sent) <= smallest


def test_at_most_the_window_is_unacked() -> None:
    """At most WINDOW heartbeats are in flight; an ack lets the next ones go."""
    outbox = Outbox("s")
    for _ in range(WINDOW + 2):
        put(outbox, play(0, 5, video=str(uuid4())))
    assert len(outbox.take(NOW, 10)) == 10
    assert len(outbox.take(NOW)) == WINDOW - 10
    assert not outbox.take(NOW)
    assert not outbox.has_work
    outbox.acked(Ack(session="s", seq=1))
    assert [each.seq for each in outbox.take(NOW)] == [WINDOW + 1]


@dataclass
class Service:
    """What the real service does with heartbeats, without transport and store."""

    records: dict[str, Record] = field(default_factory=dict)
    sessions: Sessions = field(default_factory=lambda: Sessions("?", Plausibility()))
    said: dict[tuple[str, int], Heartbeat] = field(default_factory=dict)

    def connect(self, session: str) -> None:
        self.sessions = Sessions(session, Plausibility())

    def take(self, heartbeat: Heartbeat, session: str, now_ms: int) -> None:
        name = (heartbeat.session or session, heartbeat.seq)
        content = heartbeat.model_copy(update={"age": None, "session": None})
        assert self.said.setdefault(name, content) == content, "a seq was used again, for something else"
        report = self.sessions.heartbeat(heartbeat, Now(now_ms, now_ms))
        assert report is not None
        record = self.records.get(heartbeat.video_id, Record())
        self.records[heartbeat.video_id], _ = join(record, report, 0, 900)

    def acks(self) -> list[Ack]:
        self.sessions.committing()
        return list(self.sessions.stored())


@dataclass
class Evening:
    """A client, the service, and a connection between them; the connection and the client may break at any moment."""

    path: Path
    service: Service = field(default_factory=Service)
    now_ms: int = NOW
    wire: list[tuple[Heartbeat, int]] = field(default_factory=list)
    """What was sent, and when. Transmission takes no time, because the service cannot know how long it takes."""
    plays: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    positions: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.last_ms = self.now_ms
        self.start()

    def start(self) -> None:
        self.session = uuid4().hex
        self.journal = Journal(self.path, "user")
        self.outbox = Outbox(self.session, self.journal, self.journal.restored, max_entries=50, max_played=4)
        self.drop()

    def watch(self, video: str, start: int, seconds: int, rate: int) -> None:
        """Play for `seconds` of wall time at a speed of `rate`."""
        self.now_ms += 1_000 * seconds
        end = start + rate * seconds
        self.outbox.put(Beat(video, ((start, end),), end, None, "playing", True), self.last_ms, self.now_ms)
        self.last_ms = self.now_ms
        self.plays.setdefault(video, []).append((1_000 * start, 1_000 * end))
        self.positions[video] = end

    def send(self, most: int) -> None:
        self.wire += ((heartbeat, self.now_ms) for heartbeat in self.outbox.take(self.now_ms, most))

    def arrive(self, most: int) -> None:
        for heartbeat, sent_ms in self.wire[:most]:
            self.service.take(heartbeat, self.session, sent_ms)
        del self.wire[:most]

    def ack(self) -> None:
        for ack in self.service.acks():
            assert not ack.rejected
            assert not ack.capped, "what was truly played was not believed"
            self.outbox.acked(ack)

    def lose_acks(self) -> None:
        """Store what was sent, and lose the ack: the connection breaks after it."""
        self.service.acks()
        self.drop()

    def drop(self) -> None:
        self.wire.clear()
        self.outbox.disconnected()
        self.service.connect(self.session)

    def crash(self) -> None:
        self.journal.close()
        self.start()

    def end(self) -> None:
        """Deliver everything at the end."""
        self.drop()
        while len(self.outbox):
            self.send(WINDOW)
            assert self.wire
            self.arrive(len(self.wire))
            self.ack()
        self.journal.close()


VIDEOS = st.sampled_from([str(UUID(int=number)) for number in range(1, 4)])
STEPS = st.one_of(
    st.tuples(st.just("watch"), VIDEOS, st.integers(0, 600), st.integers(1, 900), st.sampled_from([1, 2, 4])),
    st.tuples(st.just("send"), st.integers(1, 8)),
    st.tuples(st.just("arrive"), st.integers(1, 8)),
    st.sampled_from([("ack",), ("lose_acks",), ("drop",)]),
)


@given(steps=st.lists(STEPS, max_size=60), crashes=st.sets(st.integers(0, 59), max_size=6))
def test_whatever_happens_nothing_is_lost_or_doubled(steps: Sequence[tuple[object, ...]], crashes: set[int]) -> None:
    """Acks are lost, connections break and processes die at any moment; in the end the record has exactly the
    seconds played, each as often as it was; nothing was capped, and no seq was used twice with other content."""
    with tempfile.TemporaryDirectory() as directory:
        evening = Evening(Path(directory) / "outbox")
        for index, (step, *arguments) in enumerate(steps):
            getattr(evening, str(step))(*arguments)
            if index in crashes:
                evening.crash()
        evening.end()
    assert set(evening.service.records) == set(evening.plays)
    for video, plays in evening.plays.items():
        record = evening.service.records[video]
        assert (record.seen, record.again) == coverage(plays)
        assert record.played_ms == sum(end - start for start, end in plays)
        assert record.position == 1_000 * evening.positions[video]


def test_an_entry_knows_its_times() -> None:
    """A clock that was set back between two runs gives no negative age, and the span stays within its bound."""
    restored = Entry(1, "old", play(0, 5), since_ms=NOW - 10**12, at_ms=NOW + 5_000, seq=3)
    outbox = Outbox("s")
    outbox._entries[1] = restored
    outbox.disconnected()
    (sent,) = outbox.take(NOW)
    assert (sent.age, sent.span, sent.session, sent.seq) == (0, 172_800_000, "old", 3)
