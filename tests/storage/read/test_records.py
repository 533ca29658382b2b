"""Reads of records: one, several, or all of a learner's that changed; a failure affects only whom it concerns."""

from pathlib import Path
from typing import Any

import pytest

from playhead.protocol.record import Record
from playhead.storage.errors import StoreUnavailable
from playhead.storage.keys import Keys, partition
from playhead.storage.parts import Parts
from playhead.storage.read.changes import Changes
from playhead.storage.read.records import READERS_PER_CALL, reader_calls
from playhead.storage.values.damage import FOREIGN, Damaged
from playhead.storage.values.packing import pack_record
from tests.storage.conftest import NewStore
from tests.storage.own_store import running

pytestmark = pytest.mark.stores("valkey")
RECORD = Record(rev=1, last_watched=9, seen=[0, 5])


@pytest.fixture
def parts(new_store: NewStore) -> Parts:
    made: Parts = new_store(Parts)
    return made


async def put(parts: Parts, user_id: str, video_id: str = "v", value: bytes | None = None, rev: Any = 1) -> None:
    key = parts.keys.progress(user_id)
    await parts.run([("HSET", key, "rev", rev, video_id, pack_record(RECORD) if value is None else value)])


async def test_a_record_is_read_and_a_missing_one_is_empty(parts: Parts) -> None:
    await put(parts, "u")
    assert await parts.reader.record("u", "v") == RECORD
    assert await parts.reader.record("u", "w") == await parts.reader.record("nobody", "v") == Record()


async def test_records_of_several_users_come_in_their_order(parts: Parts) -> None:
    await put(parts, "a")
    await put(parts, "b", value=b"\xc1")
    await parts.run([("SET", parts.keys.progress("c"), "text")])
    found = await parts.reader.records(["nobody", "c", "b", "a"], "v")
    assert [found[0], found[1], found[3]] == [Record(), FOREIGN, RECORD]
    assert isinstance(found[2], Damaged)
    assert parts.damage.counts["record"] == 2
    assert await parts.reader.records([], "v") == []


async def test_the_count_is_about_that_of_the_fields(parts: Parts) -> None:
    assert await parts.reader.count("nobody") == 0
    await put(parts, "u")
    assert 1 <= await parts.reader.count("u") <= 3
    await parts.run([("SET", parts.keys.progress("x"), "text")])
    assert await parts.reader.count("x") == 0


@pytest.mark.parametrize("since", [2, 99])
async def test_after_a_revision_above_the_stores_all_records_are_read(parts: Parts, since: int) -> None:
    """The device knows a state that this store has lost."""
    await put(parts, "u")
    changes = await parts.reader.changes("u", since, None, lambda records: None)
    assert isinstance(changes, Changes)
    assert (len(changes), changes.rev) == (1, 1)


async def test_another_epoch_means_that_all_records_are_read(parts: Parts) -> None:
    await put(parts, "u")
    epoch = await parts.epoch.current()
    for known, count in ((epoch, 0), (None, 0), ("another", 1)):
        changes = await parts.reader.changes("u", 1, known, lambda records: None)
        assert isinstance(changes, Changes)
        assert len(changes) == count


@pytest.mark.parametrize("rev", ["text", "-1", "1.5"])
async def test_a_learner_whose_revision_cannot_be_read_is_damaged(parts: Parts, rev: str) -> None:
    await put(parts, "u", rev=rev)
    assert isinstance(await parts.reader.changes("u", None, None, lambda records: None), Damaged)
    assert parts.damage.counts["learner"] == 1


async def test_a_read_of_a_store_that_went_away_is_unavailable(new_store: NewStore) -> None:
    parts: Parts = new_store(Parts)
    await parts.link.aclose()
    for read in (
        parts.reader.record("u", "v"),
        parts.reader.records(["u"], "v"),
        parts.reader.count("u"),
        parts.reader.changes("u", None, None, lambda records: None),
    ):
        with pytest.raises(StoreUnavailable):
            await read


async def test_a_refused_command_fails_its_reader_only(tmp_path: Path) -> None:
    """The store refuses one key here; on a cluster one primary may fail while the others answer."""
    path, acl = tmp_path / "store.sock", tmp_path / "users.acl"
    acl.write_text("user default on nopass ~* &* +@all\nuser few on >secret %RW~*:good %RW~*:epoch &* +@all\n")
    with running("valkey", tmp_path, f"unix://{path}", "--unixsocket", path, "--aclfile", acl):
        everything, parts = (Parts(url, worker="w") for url in (f"unix://{path}", f"unix://few:secret@{path}"))
        try:
            for user in ("good", "bad"):
                await put(everything, user)
            reads = (
                parts.reader.record("bad", "v"),
                parts.reader.records(["good", "bad"], "v"),
                parts.reader.count("bad"),
                parts.reader.changes("bad", None, None, lambda records: None),
                parts.reader._values("bad", ["v"]),
            )
            for read in reads:
                with pytest.raises(StoreUnavailable, match="permission"):
                    await read
            assert await parts.reader.record("good", "v") == RECORD
            assert isinstance(await parts.reader.changes("good", None, None, lambda records: None), Changes)
        finally:
            for each in (everything, parts):
                await each.link.aclose()


async def test_a_refused_epoch_fails_all_reads_of_changes(tmp_path: Path) -> None:
    """Without it nobody knows which store the records are of."""
    path, acl = tmp_path / "store.sock", tmp_path / "users.acl"
    acl.write_text("user default on nopass ~* &* +@all\nuser few on >secret ~*:good &* +@all\n")
    with running("valkey", tmp_path, f"unix://{path}", "--unixsocket", path, "--aclfile", acl):
        parts = Parts(f"unix://few:secret@{path}", worker="w")
        try:
            with pytest.raises(StoreUnavailable, match="permission"):
                await parts.reader.changes("good", None, None, lambda records: None)
        finally:
            await parts.link.aclose()


def test_readers_share_calls_of_a_bounded_size() -> None:
    users = [f"user{n}" for n in range(2 * READERS_PER_CALL + 1)]
    calls = list(reader_calls(users, None))
    assert [len(places) for places in calls] == [READERS_PER_CALL, READERS_PER_CALL, 1]
    assert sorted(place for places in calls for place in places) == list(range(len(users)))
    assert list(reader_calls([], None)) == []


def test_on_a_cluster_a_call_has_the_readers_of_one_partition() -> None:
    users = [f"user{n}" for n in range(500)]
    calls = list(reader_calls(users, partition))
    assert sorted(place for places in calls for place in places) == list(range(len(users)))
    for places in calls:
        assert len({Keys().progress(users[place])[:9] for place in places}) == 1
