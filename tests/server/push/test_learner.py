"""What a learner's devices are sent, and when changes are read instead: every branch, without a store.

Reads are recorded instead of made. `test_hub.py` has the same with real stores and sockets.
"""

from collections.abc import Coroutine
from typing import Any

import pytest

from playhead.protocol.errors import PeerError, Problem
from playhead.protocol.messages import Message, Progress
from playhead.protocol.record import Record
from playhead.protocol.scalars import MAX_SEQ
from playhead.server.limits.large_reads import LargeRead
from playhead.server.push.change_reader import ChangeReader
from playhead.server.push.learner import MAX_PUSHED, Learner
from playhead.storage.store import open_store
from tests.serving import START_MS, FakeClock


class RecordingReader(ChangeReader):
    """Counts the reads that would be started."""

    def __init__(self) -> None:
        super().__init__(open_store("unix:///nowhere", worker="w"), FakeClock())
        self.started = 0

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        self.started += 1
        work.close()


class RecordingDevice:
    """A device that has every change up to revision 5."""

    user_id = "u"

    def __init__(self, since: int = START_MS) -> None:
        self.since = since
        self.rev = 5
        self.missed: int | None = None
        self.sent: list[tuple[int, list[int]]] = []
        """The `rev` of each message, and the revisions of its records."""
        self.refused: list[Problem] = []

    def large_read(self) -> LargeRead:
        raise NotImplementedError

    def send(self, *messages: Message) -> None:
        for message in messages:
            assert isinstance(message, Progress)
            self.sent.append((message.rev, [view.rev for view in message.records]))

    async def drained(self) -> None:
        raise NotImplementedError

    def restart(self) -> None:
        raise NotImplementedError

    def refuse(self, error: PeerError) -> None:
        self.refused.append(error.problem)


@pytest.fixture
def reader() -> RecordingReader:
    return RecordingReader()


def learner_of(reader: RecordingReader, *devices: RecordingDevice) -> Learner:
    learner = Learner("u", reader)
    for device in devices:
        learner.add(device)
    return learner


def records(*revs: int) -> list[tuple[str, Record]]:
    return [(f"v{rev}", Record(rev=rev, last_watched=START_MS)) for rev in revs]


def test_a_change_that_follows_on_is_pushed(reader: RecordingReader) -> None:
    """Without records that the device has, and in the order of their revisions."""
    device = RecordingDevice()
    learner_of(reader, device).push(4, 7, records(7, 6, 5))
    assert (device.sent, device.rev, device.missed, reader.started) == ([(7, [6, 7])], 7, None, 0)


def test_a_change_without_new_records_only_raises_the_revision(reader: RecordingReader) -> None:
    """As for the device that reported it."""
    device = RecordingDevice()
    learner_of(reader, device).push_to(device, 5, 7, [])
    assert (device.sent, device.rev, reader.started) == ([], 7, 0)


def test_a_known_change_is_ignored(reader: RecordingReader) -> None:
    device = RecordingDevice()
    learner_of(reader, device).push(3, 5, records(5))
    assert (device.sent, device.rev, device.missed, reader.started) == ([], 5, None, 0)


@pytest.mark.parametrize(
    ("before", "changed"),
    [(6, records(7)), (5, None)],
    ids=["a gap in the revisions", "records that have to be read"],
)
def test_a_change_that_cannot_be_pushed_is_read(
    reader: RecordingReader, before: int, changed: list[tuple[str, Record]] | None
) -> None:
    """Nothing is sent, and the device claims nothing, until the read is complete."""
    device = RecordingDevice()
    learner_of(reader, device).push_to(device, before, 7, changed)
    assert (device.sent, device.rev, device.missed, reader.started) == ([], 5, 0, 1)


def test_a_large_change_is_read_by_each_device(reader: RecordingReader) -> None:
    """The number of records is multiplied by the number of devices."""
    devices = [RecordingDevice(), RecordingDevice()]
    changed = records(*range(6, 6 + MAX_PUSHED // 2))
    learner = learner_of(reader, *devices)
    learner.push(5, 5 + len(changed), changed)
    assert [len(device.sent) for device in devices] == [1, 1]
    learner.push(5 + len(changed), 6 + 2 * len(changed), records(*range(6 + len(changed), 7 + 2 * len(changed))))
    assert ([device.missed for device in devices], reader.started) == ([0, 0], 2)


def test_changes_during_a_read_cause_another_one(reader: RecordingReader) -> None:
    """Unless the read covers them."""
    device = RecordingDevice()
    learner = learner_of(reader, device)
    learner.catch_up(device)
    learner.push(7, 8, records(8))
    assert (device.sent, device.missed) == ([], 8)
    learner.follow(device, 7)
    assert (device.rev, device.missed, reader.started) == (7, 0, 2)
    learner.push(8, 9, records(9))
    learner.follow(device, 9)
    assert (device.rev, device.missed, reader.started) == (9, None, 2)


def test_a_renewed_subscription_reads_for_every_device(reader: RecordingReader) -> None:
    """A read in progress may have been too early, and is followed by another one."""
    idle, reading = RecordingDevice(), RecordingDevice()
    learner = learner_of(reader, idle, reading)
    learner.catch_up(reading)
    learner.catch_up_all()
    assert (idle.missed, reading.missed, reader.started) == (0, MAX_SEQ, 2)
    learner.follow(reading, 9)
    assert (reading.missed, reader.started) == (0, 3)


def test_ended_sessions_are_those_that_began_before(reader: RecordingReader) -> None:
    """A session that began later than now began before the clock was set back: it ends too."""
    before, after, ahead = RecordingDevice(START_MS - 2), RecordingDevice(START_MS), RecordingDevice(START_MS + 60_000)
    learner = learner_of(reader, before, after, ahead)
    learner.end_sessions(START_MS - 1)
    assert [len(device.refused) for device in (before, after, ahead)] == [1, 0, 1]
    learner.end_sessions()
    assert after.refused == [Problem.ENDED]
