"""The limit on the videos of a learner is enforced when a record is created, whoever else writes."""

import asyncio
from collections.abc import Iterable

import pytest

from playhead.protocol.record import IN_SYNC, Outcome, Report
from playhead.storage.maintenance.transfer import Import
from playhead.storage.store import Store
from playhead.storage.write.pending import Batch, Committed, Delta, Key
from tests.histories import Op, report_of
from tests.inside import parts_of, records_in
from tests.intact import intact
from tests.storage.conftest import NewStore

pytestmark = pytest.mark.stores("valkey", "redis7", "cluster")
NOW = 5_000
LIMIT = 10


def nobody(user_id: str) -> bool:
    return False


def batch_of(ops: Iterable[tuple[Key, Op]]) -> Batch:
    batch = Batch()
    for key, op in ops:
        batch.deltas.setdefault(key, Delta()).ops.append(op)
    return batch


def play(seq: int = 1, at: int = 100) -> Report:
    return report_of("a", seq, at, [(0, 5_000)])


def sync_of(*videos: str) -> Batch:
    batch = batch_of((("u", video), Report(first_at=50, at=50, seq=IN_SYNC, claimed=9)) for video in videos)
    batch.syncs["u"] = frozenset(videos)
    return batch


def refused(committed: Committed) -> set[str]:
    """The videos whose reports were refused."""
    return {
        video for (_, video), result in committed.results.items() if Outcome.TOO_MANY_VIDEOS in result.outcomes[1::2]
    }


async def commit(store: Store, *ops: tuple[Key, Op]) -> Committed:
    return await store.commit(batch_of(ops), NOW, nobody)


async def videos(store: Store) -> set[str]:
    return {video for video, _ in records_in(intact(await store.changes("u")))}


async def filled(new_store: NewStore, count: int = LIMIT) -> Store:
    """A store whose learner has this many videos."""
    store: Store = new_store(max_videos=LIMIT)
    await commit(store, *((("u", f"v{n}"), play()) for n in range(count)))
    return store


async def test_no_more_records_are_created_than_permitted(new_store: NewStore) -> None:
    """In one batch and after it; other learners are not affected."""
    store = new_store(max_videos=LIMIT)
    committed = await commit(store, *((("u", f"v{n}"), play()) for n in range(LIMIT + 3)), (("other", "v"), play()))
    assert refused(committed) == {f"v{n}" for n in range(LIMIT, LIMIT + 3)}
    assert await videos(store) == {f"v{n}" for n in range(LIMIT)}
    assert refused(await commit(store, (("u", "late"), play()), (("other", "w"), play()))) == {"late"}
    assert intact(await store.changes("u")).rev == LIMIT, "a refused report has no revision"


async def test_existing_records_are_still_updated(new_store: NewStore) -> None:
    """Also beyond the limit, after an import or with a limit that was lowered."""
    store = await filled(new_store)
    smaller = new_store(max_videos=3)
    committed = await commit(smaller, *((("u", f"v{n}"), play(2, 200)) for n in range(LIMIT)), (("u", "new"), play()))
    assert refused(committed) == {"new"}
    assert {record.last_watched for _, record in records_in(intact(await store.changes("u")))} == {200}


async def test_a_deleted_video_still_counts(new_store: NewStore) -> None:
    """Its tombstone must be kept, but plays after the deletion may reuse its place."""
    store = await filled(new_store)
    await commit(store, (("u", "v0"), 150))
    assert refused(await commit(store, (("u", "new"), play()))) == {"new"}
    assert refused(await commit(store, (("u", "v0"), play(2, 200)))) == set()
    assert intact(await store.record("u", "v0")).exists


async def test_deleting_a_missing_record_needs_no_place(new_store: NewStore) -> None:
    store = await filled(new_store)
    assert (await commit(store, (("u", "new"), 150))).results["u", "new"].outcomes == (0, Outcome.NOTHING_TO_DELETE)


async def test_writers_that_race_for_the_last_places(new_store: NewStore) -> None:
    """Each place is given once, to a report that was not refused."""
    await filled(new_store, LIMIT - 3)
    writers = [new_store(max_videos=LIMIT) for _ in range(4)]
    done = await asyncio.gather(
        *(commit(store, *((("u", f"w{number}-{n}"), play()) for n in range(2))) for number, store in enumerate(writers))
    )
    turned_away = set().union(*map(refused, done))
    assert len(turned_away) == 5
    assert len(await videos(writers[0])) == LIMIT
    assert not turned_away & await videos(writers[0])


async def test_a_sync_is_stored_whole_or_not_at_all(new_store: NewStore) -> None:
    """Including its items for existing records. Other reports of the same batch may use the places that are left."""
    store = await filled(new_store, LIMIT - 2)
    batch = sync_of("v0", "x", "y", "z")
    batch.deltas["u", "alone"] = Delta([play()])
    batch.deltas["u", "v0"].ops.append(play(2, 200))
    committed = await store.commit(batch, NOW, nobody)
    assert refused(committed) == {"v0", "x", "y", "z"}
    assert committed.results["u", "v0"].outcomes == (0, Outcome.TOO_MANY_VIDEOS), "the other play is stored"
    assert await videos(store) == {f"v{n}" for n in range(LIMIT - 2)} | {"alone"}
    assert intact(await store.record("u", "v0")).claimed == 0
    assert refused(await store.commit(sync_of("v0", "x"), NOW, nobody)) == set()
    assert len(await videos(store)) == LIMIT
    assert refused(await store.commit(sync_of("v0", "x"), NOW, nobody)) == set(), "a repetition changes nothing"


async def test_a_long_sync_comes_before_other_reports(new_store: NewStore) -> None:
    """In one script call, however long, before other reports that would take its places."""
    store = new_store(max_videos=1_000)
    batch = Batch()
    batch.deltas["u", "alone"] = Delta([play()])
    long = sync_of(*(f"s{n}" for n in range(1_000)))
    batch.deltas |= long.deltas
    batch.syncs |= long.syncs
    batch.deltas["other", "v"] = Delta([play()])
    assert refused(await store.commit(batch, NOW, nobody)) == {"alone"}
    assert await videos(store) == {f"s{n}" for n in range(1_000)}


async def test_syncs_that_race_for_the_last_places(new_store: NewStore) -> None:
    await filled(new_store, LIMIT - 5)
    writers = [new_store(max_videos=LIMIT) for _ in range(4)]
    names = [[f"w{number}-{n}" for n in range(3)] for number in range(4)]
    done = await asyncio.gather(
        *(store.commit(sync_of(*own), NOW, nobody) for store, own in zip(writers, names, strict=True))
    )
    assert sorted(map(len, map(refused, done))) == [0, 3, 3, 3]
    assert len(await videos(writers[0])) == LIMIT - 2


async def test_an_import_is_not_held_to_the_limit(new_store: NewStore) -> None:
    """A backup must fit where it was made; records beyond the limit are updated as usual."""
    store = new_store(max_videos=1)
    user = "0f8fad5b-d9cb-469f-a165-70867728950e"
    line = (
        '{"type":"record","userId":"0f8fad5b-d9cb-469f-a165-70867728950e","videoId":"7c9e6679-7425-40de-944b-%012d",'
        '"lastWatched":"2024-05-01T10:00:00.000Z","claimed":9}'
    )
    taking = Import(parts_of(store), threshold_permille=900, now=lambda: 1_764_000_000_000)
    assert await taking.take([(n, (line % n).encode()) for n in range(5)]) == []
    assert len(records_in(intact(await store.changes(user)))) == 5
    at = 1_764_000_000_000
    committed = await commit(
        store, ((user, "7c9e6679-7425-40de-944b-000000000003"), play(1, at)), ((user, "new"), play(1, at))
    )
    assert refused(committed) == {"new"}


@pytest.mark.parametrize("max_videos", [1, 10_000])
async def test_a_heartbeat_for_an_existing_record_counts_no_videos(new_store: NewStore, max_videos: int) -> None:
    """Counting would be another command for each heartbeat; only a new record is counted."""
    store = new_store(max_videos=max_videos)
    await commit(store, (("u", "v"), play()))

    async def counts() -> int:
        infos = [await run([("INFO", "commandstats")]) for run in await parts_of(store).runs()]
        return sum(int(info.get("cmdstat_hlen", {"calls": 0})["calls"]) for (info,) in infos)

    before = await counts()
    await commit(store, (("u", "v"), play(2, 200)))
    assert await counts() == before
    await commit(store, (("u", "w"), play()))
    assert await counts() == before + 1
