"""The outbox file: what it restores after any end of a process, and who may use it."""

import json
import os
import stat
from pathlib import Path

import pytest

from playhead.client.errors import OutboxBusy
from playhead.client.journal import COMPACT_BYTES, Journal
from playhead.client.outbox import Beat, Outbox
from playhead.protocol.messages import Ack

VIDEO = "5b1f0c1e-9d3a-4c57-8a44-2f6d7f3e9b10"
NOW = 1_764_000_000_000


def opened(path: Path, session: str, user: str = "me") -> tuple[Journal, Outbox]:
    journal = Journal(path, user)
    return journal, Outbox(session, journal, journal.restored)


def play(start: float) -> Beat:
    return Beat(VIDEO, ((start, start + 5),), start + 5, 90.0, "playing", True)


def test_the_next_run_restores_what_the_last_one_left(tmp_path: Path) -> None:
    """Entries are restored with session, seq and times, whether sent or not, without the acked ones; seqs continue."""
    path = tmp_path / "outbox"
    journal, first = opened(path, "one")
    for start in (0, 5, 10):
        first.put(play(start), NOW + 1_000 * int(start), NOW + 1_000 * int(start + 5))
        if start < 10:
            first.take(NOW)
    first.acked(Ack(session="one", seq=1))
    left = first.entries
    journal.close()

    journal, second = opened(path, "two")
    assert second.entries == left
    second.put(play(15), NOW, NOW + 20_000)
    sent = second.take(NOW + 20_000)
    assert [(each.session, each.seq, each.age) for each in sent] == [
        ("one", 2, 10_000),
        ("one", 3, 5_000),
        (None, 1, 0),
    ]
    second.acked(Ack(session="one", seq=3))
    second.acked(Ack(session="two", seq=1))
    journal.close()
    assert not path.exists()


def test_a_seq_that_was_used_and_acked_is_not_used_again(tmp_path: Path) -> None:
    """The file remembers it over any number of runs; otherwise other content would count as a repeat."""
    path = tmp_path / "outbox"
    journal, outbox = opened(path, "one")
    outbox.put(play(0), NOW, NOW)
    outbox.take(NOW)
    outbox.acked(Ack(session="one", seq=1))
    outbox.put(play(5), NOW, NOW)  # never sent
    for session in ("two", "three"):
        journal.close()
        journal, outbox = opened(path, session)
    (sent,) = outbox.take(NOW)
    journal.close()
    assert (sent.session, sent.seq) == ("one", 2)


POISON = {
    "key": 9,
    "session": "s",
    "seq": 0,
    "since": 0,
    "at": 0,
    "beat": {"videoId": "none", "played": [], "position": 1, "duration": None, "state": None, "seek": False},
}


@pytest.mark.parametrize(
    "torn", [json.dumps(POISON).encode(), b'{"key":9,"sess', b"\xff\xfe\n", b'{"gone":[1]', b"[]\n", b"\n"]
)
def test_a_bad_line_does_not_affect_others(tmp_path: Path, torn: bytes) -> None:
    """A torn line, or one of an entry that cannot be sent, is skipped; the lines before and after it are read."""
    path = tmp_path / "outbox"
    journal, outbox = opened(path, "one")
    outbox.put(play(0), NOW, NOW)
    journal.close()
    with path.open("ab") as file:
        file.write(torn)
    journal, outbox = opened(path, "two")
    outbox.put(play(5), NOW, NOW)
    journal.close()
    journal, outbox = opened(path, "three")
    journal.close()
    assert [entry.beat for entry in outbox.entries] == [play(0), play(5)]


def test_a_file_belongs_to_one_client_and_one_user(tmp_path: Path) -> None:
    """A second client is refused while the first has the file, another user always, because the reports would be sent
    in their name. A file of another kind is not overwritten."""
    path = tmp_path / "outbox"
    journal, outbox = opened(path, "one")
    outbox.put(play(0), NOW, NOW)
    with pytest.raises(OutboxBusy):
        Journal(path, "me")
    journal.close()
    with pytest.raises(OutboxBusy):
        Journal(path, "somebody else")
    (tmp_path / "letter").write_text("Dear all\n")
    with pytest.raises(OutboxBusy):
        Journal(tmp_path / "letter", "me")
    assert (tmp_path / "letter").read_text() == "Dear all\n"
    again = Journal(path, "me")
    assert len(again.restored.entries) == 1
    again.close()


def test_the_file_is_private_and_does_not_grow(tmp_path: Path) -> None:
    """Other users cannot read it, and settled entries are removed from it, however long the client runs."""
    path = tmp_path / "outbox"
    journal, outbox = opened(path, "one")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    largest = 0
    for index in range(3_000):
        outbox.put(play(index), NOW, NOW)
        outbox.take(NOW)
        outbox.acked(Ack(session="one", seq=index + 1))
        largest = max(largest, path.stat().st_size)
    assert largest < COMPACT_BYTES + 2_000
    outbox.put(play(0), NOW, NOW)
    journal.close()
    journal, outbox = opened(path, "two")
    (sent,) = outbox.take(NOW)
    journal.close()
    assert sent.seq == 3_001


def test_a_full_disk_loses_nothing_in_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged once and the outbox goes on; when the disk has room again, all entries are written."""
    path = tmp_path / "folder" / "outbox"
    path.parent.mkdir()
    journal, outbox = opened(path, "one")
    outbox.put(play(0), NOW, NOW)
    assert journal._file is not None
    journal._file.close()
    journal._file = open("/dev/full", "a", encoding="utf-8")  # noqa: SIM115 the journal closes it
    outbox.put(play(5), NOW, NOW)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    outbox.put(play(10), NOW, NOW)
    journal.close()
    journal, restored = opened(path, "two")
    journal.close()
    assert restored.entries == outbox.entries


@pytest.mark.parametrize("name", ["outbox", "outbox.new", "outbox.lock"])
def test_no_planted_link_is_followed(tmp_path: Path, name: str) -> None:
    """Links are neither read nor written through; one in the place of a file that is replaced is replaced."""
    path, victim = tmp_path / "outbox", tmp_path / "victim"
    (tmp_path / name).symlink_to(victim)
    if name == "outbox.new":
        opened(path, "one")[0].close()
    else:
        with pytest.raises(OSError, match="symbolic links"):
            Journal(path, "me")
    assert not victim.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
@pytest.mark.parametrize("name", ["outbox", "outbox.lock"])
def test_a_file_of_another_user_is_not_read(tmp_path: Path, name: str) -> None:
    """Its reports would be sent as those of this learner."""
    journal, outbox = opened(tmp_path / "outbox", "one")
    outbox.put(play(0), NOW, NOW)
    journal.close()
    os.chown(tmp_path / name, 65_534, -1)
    with pytest.raises(PermissionError, match="another user"):
        Journal(tmp_path / "outbox", "me")
