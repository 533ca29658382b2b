"""What a client knows follows what it is told: the newest of each record; from another store, or one that has gone
back, what that has."""

import pytest

from playhead.client.records import Changes, Records
from playhead.protocol.messages import RecordView


def view(rev: int) -> RecordView:
    """The video's record as of a revision."""
    return RecordView(video_id="v", rev=rev, seen=[(0, rev)])


def synced(rev: int) -> Records:
    """A client that has it as of `rev`."""
    records = Records()
    records.welcome("epoch", rev)
    records.update([view(rev)], rev)
    records.synced(rev)
    return records


async def told(changes: Changes) -> list[int]:
    """The revisions that came, up to now."""
    changes.close()
    return [record.rev async for record in changes]


@pytest.mark.parametrize(("revs", "news"), [([5], []), ([4], []), ([6, 5], [6])])
async def test_an_older_record_is_late_and_the_same_one_is_no_change(revs: list[int], news: list[int]) -> None:
    records = synced(5)
    changes = records.changes(lambda: None)
    for rev in revs:
        records.update([view(rev)], rev)
    assert records.get("v") == view(max(5, *revs))
    assert await told(changes) == news


@pytest.mark.parametrize(("epoch", "rev"), [("epoch", 4), ("another", 5), ("another", 3), ("another", 9)])
async def test_another_store_or_an_older_one_is_believed(epoch: str, rev: int) -> None:
    """Also where the record comes to the revision that is known: it is another record."""
    records = synced(5)
    changes = records.changes(lambda: None)
    records.welcome(epoch, rev)
    assert (records.get("v"), records.rev) == (None, None), "all that there is will come"
    records.update([view(rev)], rev)
    records.synced(rev)
    assert (records.get("v"), records.rev, records.epoch) == (view(rev), rev, epoch)
    assert await told(changes) == [rev]


async def test_a_store_that_has_gone_on_keeps_what_is_known() -> None:
    records = synced(5)
    records.welcome("epoch", 7)
    assert (records.get("v"), records.rev) == (view(5), 5)
