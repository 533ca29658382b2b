"""The records that a client knows: the newest of each, or those of another store or of one that went back in time."""

import pytest

from playhead.client.records import Changes, Records
from playhead.protocol.messages import RecordView


def view(rev: int) -> RecordView:
    """The video's record as of a revision."""
    return RecordView(video_id="v", rev=rev, seen=[(0, rev)])


def synced(rev: int) -> Records:
    """A client that has the record as of `rev`."""
    records = Records()
    records.welcome("epoch", rev)
    records.update([view(rev)], rev)
    records.synced(rev)
    return records


async def revisions(changes: Changes) -> list[int]:
    """The revisions received so far."""
    changes.close()
    return [record.rev async for record in changes]


@pytest.mark.parametrize(("revs", "newer"), [([5], []), ([4], []), ([6, 5], [6])])
async def test_older_and_equal_revisions_are_not_changes(revs: list[int], newer: list[int]) -> None:
    records = synced(5)
    changes = records.changes(lambda: None)
    for rev in revs:
        records.update([view(rev)], rev)
    assert records.get("v") == view(max(5, *revs))
    assert await revisions(changes) == newer


@pytest.mark.parametrize(("epoch", "rev"), [("epoch", 4), ("another", 5), ("another", 3), ("another", 9)])
async def test_another_store_or_an_older_one_replaces_all_records(epoch: str, rev: int) -> None:
    """Even if the new record has the revision of the known one: it is another record."""
    records = synced(5)
    changes = records.changes(lambda: None)
    records.welcome(epoch, rev)
    assert (records.get("v"), records.rev) == (None, None), "all that there is will come"
    records.update([view(rev)], rev)
    records.synced(rev)
    assert (records.get("v"), records.rev, records.epoch) == (view(rev), rev, epoch)
    assert await revisions(changes) == [rev]


async def test_a_store_with_newer_revisions_keeps_the_records() -> None:
    records = synced(5)
    records.welcome("epoch", 7)
    assert (records.get("v"), records.rev) == (view(5), 5)
