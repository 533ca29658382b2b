"""Changes after a revision are found through the trail of the newest ones, or by reading all records, with the same
result. The cost depends on the number of changes, not of records; the trail itself is written only when another video
is watched."""

import random

import pytest

from playhead.protocol.record import Report
from playhead.storage.store import Store
from playhead.storage.write.pending import Batch, Delta
from tests.histories import report_of
from tests.inside import keys_of, parts_of, records_in
from tests.intact import intact

VIDEOS = [f"7c9e6679-7425-40de-944b-{n:012d}" for n in range(60)]
"""More videos than a trail holds."""
NOW = 5_000


def nobody(user_id: str) -> bool:
    return False


def play(seq: int) -> Report:
    return report_of("a", seq, 100 + seq, [(seq * 1_000, seq * 1_000 + 1_000)])


async def watch(store: Store, *videos: str, seq: int) -> int:
    """Commit plays of these videos, and return the user's revision."""
    batch = Batch({("u", video): Delta([play(seq)]) for video in videos})
    return (await store.commit(batch, NOW, nobody)).revs["u"][1]


async def calls(store: Store, command: str) -> int:
    (stats,) = await parts_of(store).run([("INFO", "commandstats")])
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


@pytest.mark.parametrize("seed", range(3))
async def test_the_trail_gives_the_same_result_as_reading_all_records(store: Store, seed: int) -> None:
    """Runs of one video, returns to older ones, many at once, and beyond the trail's end."""
    dice = random.Random(seed)
    newest: dict[str, int] = {}
    for step in range(1, 121):
        for video in dice.sample(VIDEOS[: 1 + step // 2], dice.choice((1, 1, 1, 2, 4)) if step > 8 else 1):
            for seq in range(dice.choice((1, 1, 3))):
                newest[video] = await watch(store, video, seq=10 * step + seq)
    rev = max(newest.values())
    for since in range(rev + 1):
        changes = intact(await store.changes("u", since))
        assert changes.rev == rev
        assert {video: record.rev for video, record in records_in(changes)} == {
            video: at for video, at in newest.items() if at > since
        }


async def test_a_batch_of_many_leaves_a_trail_of_its_last(store: Store) -> None:
    await watch(store, *VIDEOS, seq=1)
    (trail,) = await parts_of(store).run([("HGET", keys_of(store).progress("u"), "trail")])
    assert trail is not None
    assert 30 < trail.count(b";") < len(VIDEOS), "bounded"
    for since in (0, 20, 45, 59):
        assert {video for video, _ in records_in(intact(await store.changes("u", since)))} == set(VIDEOS[since:])


async def test_few_changes_are_found_without_reading_all_records(store: Store) -> None:
    """Also after a hundred heartbeats of one video; revisions older than the trail still need all records."""
    rev = await watch(store, *VIDEOS, seq=1)
    for seq in range(2, 102):
        await watch(store, VIDEOS[3], seq=seq)
    before = await calls(store, "hscan")
    assert [video for video, _ in records_in(intact(await store.changes("u", rev)))] == [VIDEOS[3]]
    assert await calls(store, "hscan") == before
    assert len(records_in(intact(await store.changes("u", 0)))) == len(VIDEOS)
    assert await calls(store, "hscan") > before


async def test_heartbeats_of_one_video_leave_the_trail_as_it_is(store: Store) -> None:
    await watch(store, VIDEOS[0], seq=1)
    key = keys_of(store).progress("u")
    for seq in range(2, 6):
        await watch(store, VIDEOS[0], seq=seq)
    assert await parts_of(store).run([("HGET", key, "trail")]) == [f"{VIDEOS[0]},1;".encode()]
    await watch(store, VIDEOS[1], seq=6)
    assert await parts_of(store).run([("HGET", key, "trail")]) == [f"{VIDEOS[1]},6;{VIDEOS[0]},1;".encode()]


async def test_a_learner_without_a_trail_gets_all_changes(store: Store) -> None:
    await watch(store, *VIDEOS[:5], seq=1)
    await parts_of(store).run([("HDEL", keys_of(store).progress("u"), "trail")])
    rev = await watch(store, VIDEOS[1], seq=2)
    assert {video for video, _ in records_in(intact(await store.changes("u", 3)))} == {VIDEOS[1], VIDEOS[3], VIDEOS[4]}
    assert {video for video, _ in records_in(intact(await store.changes("u", rev - 1)))} == {VIDEOS[1]}
