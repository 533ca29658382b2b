"""The store on real servers: what a commit promises, and what a failing server or a damaged value may affect."""

import asyncio
from collections.abc import Iterable

import pytest
from redis.asyncio import Redis

from playhead.protocol.record import Outcome, Record, Report
from playhead.storage.read.catalogue import Video
from playhead.storage.read.totals import Totals
from playhead.storage.store import Store, StoreUnavailable, open_store
from playhead.storage.values.packing import unpack_record
from playhead.storage.write.pending import Batch, Committed, Delta, Key
from tests.clustered import everywhere
from tests.conftest import StoreServer
from tests.histories import Op, report_of
from tests.inside import keys_of, parts_of, records_in, recounted
from tests.intact import intact
from tests.stages import WaitsBetweenStages
from tests.storage.conftest import PATIENCE_S, NewStore, PrivateServer

pytestmark = pytest.mark.stores("valkey", "redis7", "cluster")
NOW = 5_000
MANY = 450
"""More than two script calls hold."""


def nobody(user_id: str) -> bool:
    return False


def batch_of(ops: Iterable[tuple[Key, Op]]) -> Batch:
    batch = Batch()
    for key, op in ops:
        batch.deltas.setdefault(key, Delta()).ops.append(op)
    return batch


async def commit(store: Store, *ops: tuple[Key, Op]) -> Committed:
    return await store.commit(batch_of(ops), NOW, nobody)


def play(seq: int = 1, at: int = 100, session: str = "a", seconds: int = 5) -> Report:
    return report_of(session, seq, at, [(0, seconds * 1_000)])


# Identity


async def test_epoch_is_created_once(new_store: NewStore) -> None:
    """By the first process; all that share the store agree on it, and it stays."""
    stores = [new_store() for _ in range(5)]
    epochs = await asyncio.gather(*(store.epoch() for store in stores))
    assert len(set(epochs)) == 1
    assert (await commit(stores[0], (("u", "v"), play()))).epoch == epochs[0]
    assert intact(await stores[1].changes("u")).epoch == epochs[0]


async def test_store_that_lost_its_data_gets_a_new_epoch(private_server: PrivateServer) -> None:
    """After a FLUSHALL the next commit returns it, and a reader with an old revision gets everything."""
    store = open_store(private_server.url, worker="w")
    first = await commit(store, (("u", "v"), play()), (("u", "w"), play()))
    await everywhere(store, "FLUSHALL")
    second = await commit(store, (("u", "x"), play()))
    assert second.epoch != first.epoch
    changes = intact(await store.changes("u", since=2, epoch=first.epoch))
    assert (changes.epoch, [video for video, _ in records_in(changes)]) == (second.epoch, ["x"])
    assert changes.rev > 2, "what is new is newer than what was lost"
    await store.close()


async def test_store_that_went_back_in_time_gets_a_new_epoch(store: Store) -> None:
    """Restored from a snapshot it still has its old epoch, but a lower count of commits than was acked."""
    await store.check()
    first = await commit(store, (("u", "v"), play()))
    second = await commit(store, (("u", "v"), play(2, 200)))
    assert second.epoch == first.epoch
    fences = [keys_of(store).fence(parts_of(store).worker, tag) for tag in parts_of(store).link.tags or [""]]
    found = await parts_of(store).run([("EXISTS", key) for key in fences])
    await parts_of(store).run([("DECR", key) for key, exists in zip(fences, found, strict=True) if exists])
    third = await commit(store, (("u", "v"), play(3, 300)))
    assert third.epoch != first.epoch
    assert (await commit(store, (("u", "v"), play(4, 400)))).epoch == third.epoch


async def test_concurrent_commits_of_one_store_keep_its_epoch(store: Store) -> None:
    """Two lanes of a process count commits side by side: neither takes the other's for a step back in time."""
    await store.check()
    done = await asyncio.gather(*(commit(store, ((f"u{n}", "v"), play())) for n in range(40)))
    assert len({committed.epoch for committed in done}) == 1


async def test_empty_batch_is_stored_immediately(store: Store) -> None:
    """It only carries acks of rejected reports."""
    assert await store.commit(Batch(), NOW, nobody) == Committed(await store.epoch())


async def test_scripts_that_the_server_forgot_are_loaded_again(store: Store) -> None:
    """After SCRIPT FLUSH or a restart, between any two commands."""
    await commit(store, (("u", "v"), play()))
    await everywhere(store, "SCRIPT", "FLUSH")
    await commit(store, (("u", "v"), play(2, 200)))
    await everywhere(store, "SCRIPT", "FLUSH")
    changes = intact(await store.changes("u"))
    assert [(video, record.played_ms, record.rev) for video, record in records_in(changes)] == [("v", 10_000, 2)]
    assert await store.totals("v") == Totals(1, 0, 5)


# Reading


async def test_changes_after_a_revision(store: Store) -> None:
    """The current records that changed since, including deletions; everything for another epoch or a future
    revision."""
    await commit(store, (("u", "a"), play()), (("u", "b"), play()), (("u", "c"), play()))
    epoch = (await commit(store, (("u", "b"), 150), (("u", "c"), play(2, 200)))).epoch
    await commit(store, (("other", "a"), play()))

    async def seen(since: int | None = None, of: str | None = None) -> dict[str, int]:
        changes = intact(await store.changes("u", since, of))
        assert (changes.epoch, changes.rev) == (epoch, 5)
        return {video: record.rev for video, record in records_in(changes)}

    everything = {"a": 1, "b": 4, "c": 5}
    assert await seen() == everything
    assert await seen(0, epoch) == everything
    assert await seen(3, epoch) == {"b": 4, "c": 5}
    assert await seen(4) == {"c": 5}
    assert await seen(5, epoch) == {}
    assert await seen(3, "of another store") == everything
    assert await seen(5, "of another store") == everything
    assert await seen(6, epoch) == everything
    deleted = dict(records_in(intact(await store.changes("u", 3))))["b"]
    assert (deleted.exists, deleted.deleted_at) == (False, 150)


async def test_missing_records_read_as_empty(store: Store) -> None:
    """Without an error, and reading creates nothing."""
    assert await store.record("u", "v") == Record()
    changes = intact(await store.changes("u", 7))
    assert (changes.rev, records_in(changes)) == (0, [])
    assert await store.totals("v") == Totals()
    keys = (keys_of(store).progress("u"), keys_of(store).summary("v"))
    assert await parts_of(store).run([("EXISTS", key) for key in keys]) == [0, 0]


# The catalogue


async def test_durations_are_cached_until_they_are_forgotten(new_store: NewStore) -> None:
    """One read for each video and minute; the worker that puts an entry knows it immediately, the others by the
    message."""
    writer, reader = new_store(), new_store()
    await writer.put_video("v", Video("A film", 60_500))
    assert await reader.video("v") == Video("A film", 60_500)
    assert await reader.video("w") is None
    assert await parts_of(reader).catalogue.durations({"v", "w"}) == {"v": 60_500, "w": 0}
    await writer.put_video("v", Video("A film, recut", 59_000))
    await writer.put_video("w", Video("Another", 1_000))
    assert await parts_of(writer).catalogue.durations({"v", "w"}) == {"v": 59_000, "w": 1_000}
    assert await parts_of(reader).catalogue.durations({"v", "w"}) == {"v": 60_500, "w": 0}
    parts_of(reader).catalogue.forget("v")
    assert await parts_of(reader).catalogue.durations({"v", "w"}) == {"v": 59_000, "w": 0}
    parts_of(reader).catalogue.forget_all()
    assert await parts_of(reader).catalogue.durations({"v", "w"}) == {"v": 59_000, "w": 1_000}


async def test_reply_in_progress_is_not_cached(new_store: NewStore) -> None:
    """It may be from before the change that was published meanwhile."""
    writer, reader = new_store(), new_store()
    await writer.put_video("v", Video("A film", 1_000))
    asking = asyncio.create_task(parts_of(reader).catalogue.durations({"v"}))
    await asyncio.sleep(0)
    parts_of(reader).catalogue.forget("v")
    await asking
    await writer.put_video("v", Video("A film", 2_000))
    assert await parts_of(reader).catalogue.durations({"v"}) == {"v": 2_000}


async def test_a_changed_catalogue_entry_is_published(new_store: NewStore) -> None:
    """On the catalogue's channel, by videoId."""
    store = new_store()
    await store.epoch()
    heard: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
    listening = parts_of(store).listen(lambda name, data: heard.put_nowait((name, data)), lambda name: None)
    task = asyncio.create_task(listening.run())
    async with asyncio.timeout(PATIENCE_S):
        await listening.subscribe(parts_of(store).catalogue.channel).wait()
        await new_store().put_video("v", Video("A film", 1_000))
        assert await heard.get() == (parts_of(store).catalogue.channel, b"v")
    task.cancel()
    await asyncio.wait({task})


async def test_records_take_over_the_duration_of_the_catalogue(store: Store) -> None:
    """From the next report on: it decides completion, and nothing beyond the end counts."""
    await store.put_video("v", Video("A film", 5_000))
    await commit(store, (("u", "v"), play(seconds=60)))
    record = intact(await store.record("u", "v"))
    assert (record.duration_ms, record.seen, record.completed_at) == (5_000, [0, 5], 100)
    assert await store.totals("v") == Totals(1, 1, 5)


# Large batches


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param([(f"u{n}", f"v{n}") for n in range(MANY)], id="many learners and videos"),
        pytest.param([("u", f"v{n}") for n in range(MANY)], id="one learner's many videos"),
        pytest.param([(f"u{n}", "v") for n in range(MANY)], id="one video's many viewers"),
        pytest.param([(f"u{n % 30}", f"v{n // 30}") for n in range(MANY)], id="a class"),
    ],
)
async def test_batch_of_several_script_calls(store: Store, keys: list[Key]) -> None:
    """Every record has its result, is stored and counted; the revisions are consecutive."""
    for seq in (1, 2):
        committed = await commit(store, *((key, play(seq, 100 * seq)) for key in keys))
        assert set(committed.results) == set(keys)
        for user_id, (first, last) in committed.revs.items():
            own = [intact(unpack_record(committed.results[key].value)).rev for key in keys if key[0] == user_id]
            assert sorted(own) == list(range(first + 1, last + 1))
    for user_id in {user_id for user_id, _ in keys}:
        changes = intact(await store.changes(user_id))
        assert {video for video, _ in records_in(changes)} == {video for user, video in keys if user == user_id}
        assert {(record.seen[1], record.played_ms) for _, record in records_in(changes)} == {(5, 10_000)}
    for video_id in {video_id for _, video_id in keys}:
        viewers = sum(video == video_id for _, video in keys)
        totals, curve, _ = intact(await store.analytics(video_id, NOW))
        assert (totals, curve) == await recounted(store, video_id)
        assert (totals, curve.viewers) == (Totals(viewers, 0, 5 * viewers), [viewers] * 5)


async def test_delta_heavier_than_a_call(store: Store) -> None:
    """An envelope of old heartbeats for one record is stored whole, between others."""
    heavy = [(("u", "v"), report_of("a", seq, seq, [(seq * 1_000, seq * 1_000 + 1_000)])) for seq in range(1, MANY)]
    await commit(store, (("u", "first"), play()), *heavy, (("u", "last"), play()), (("w", "v"), play()))
    record = intact(await store.record("u", "v"))
    assert (record.seen, record.played_ms, record.guards[0].seq) == ([1, MANY], (MANY - 1) * 1_000, MANY - 1)
    assert intact(await store.changes("u")).rev == 3


# Several writers


async def test_hundred_concurrent_commits_count_a_hundred_revisions(new_store: NewStore) -> None:
    """From several workers, to one learner's records: each change has its own revision."""
    stores = [new_store() for _ in range(4)]
    done = await asyncio.gather(
        *(commit(stores[n % 4], (("u", f"v{n % 10}"), play(session=f"s{n}"))) for n in range(100))
    )
    spans = sorted(committed.revs["u"] for committed in done)
    assert spans == [(n, n + 1) for n in range(100)]
    assert intact(await stores[0].changes("u")).rev == 100


@pytest.mark.parametrize("newer", [play(9, 900, "b", 20), 900], ids=["played on", "deleted"])
async def test_a_late_stage_2_reverts_nothing(new_store: NewStore, newer: Op) -> None:
    """A worker is delayed between its stages; meanwhile another one has updated the video with a newer state."""
    slow, store = new_store(WaitsBetweenStages), new_store()
    late = asyncio.create_task(commit(slow, (("u", "v"), play()), (("other", "v"), play())))
    await slow.reached.wait()
    await commit(store, (("u", "v"), newer))
    slow.go_on.set()
    await late
    totals, curve, _ = intact(await store.analytics("v", NOW))
    assert totals == (Totals(2, 0, 25) if isinstance(newer, Report) else Totals(1, 0, 5))
    assert (totals, curve) == await recounted(store, "v")
    assert (await store.record("u", "v")).watched == (20 if isinstance(newer, Report) else 0)


async def test_viewers_who_left_long_ago_are_removed_from_live_viewers(store: Store) -> None:
    """Class after class watches a video: each finds the previous one removed, whatever its learners' shards are."""
    for lesson in range(3):
        now = NOW + lesson * 3_600_000
        learners = [f"u{lesson}-{n}" for n in range(200)]
        batch = batch_of(((learner, "v"), play(at=now)) for learner in learners)
        await store.commit(batch, now, nobody)
        live = await parts_of(store).run(
            [("ZRANGE", keys_of(store).live(shard), 0, -1) for shard in keys_of(store).shards("v")]
        )
        assert sorted(user.decode() for users in live for user in users) == sorted(learners)


async def test_a_span_of_revisions_contains_only_own_changes(new_store: NewStore) -> None:
    """Other commits may come between two calls of a large batch; the reported span is free of them."""
    stores = [new_store() for _ in range(3)]
    done = await asyncio.gather(
        *(
            commit(store, *((("u", f"v{number}-{n}"), play()) for n in range(2 * MANY)))
            for number, store in enumerate(stores)
        )
    )
    for committed in done:
        own = {intact(unpack_record(result.value)).rev for result in committed.results.values()}
        first, last = committed.revs["u"]
        assert set(range(first + 1, last + 1)) <= own
    assert intact(await stores[0].changes("u")).rev == 6 * MANY


async def test_values_are_returned_if_wanted_or_if_a_report_fails(store: Store) -> None:
    """For all others only the revision is returned; they are stored and counted all the same."""
    await commit(store, (("late", "v"), play(at=100)))
    await commit(store, (("late", "v"), 200))
    ops = [((user_id, "v"), play(at=150)) for user_id in ("asks", "doesn't", "late")]
    committed = await store.commit(batch_of(ops), NOW, nobody, lambda user_id, reporters: user_id == "asks")
    assert committed.revs == {"asks": (0, 1), "doesn't": (0, 1), "late": (2, 2)}
    assert {key[0]: result.outcomes for key, result in committed.results.items()} == {
        "asks": (),
        "late": (0, Outcome.DELETED),
    }
    for (user_id, video_id), result in committed.results.items():
        assert intact(unpack_record(result.value)) == intact(await store.record(user_id, video_id))
    assert intact(await store.record("doesn't", "v")).seen == [0, 5]
    assert await store.totals("v") == Totals(2, 0, 10)


# Damage


async def damaged(store: Store) -> Committed:
    """Commit reports to the damaged record (bad, v) between two intact ones."""
    return await commit(
        store, (("good", "v"), play()), (("bad", "v"), play()), (("bad", "w"), play()), (("fine", "v"), play())
    )


@pytest.mark.parametrize(
    "value", [b"\xc1", b"nonsense", b"\x01", b"\x01\x90", b"\x01\x05", b"\x01\x9d" + bytes(13), b"\xa1a\x90"]
)
async def test_a_damaged_record_affects_only_itself(store: Store, value: bytes) -> None:
    """Reports to it fail, and it is kept for a repair; the same learner's other records are stored."""
    await parts_of(store).run([("HSET", keys_of(store).progress("bad"), "v", value)])
    committed = await damaged(store)
    assert committed.results["bad", "v"].outcomes == (0, Outcome.FAILED)
    assert committed.results["bad", "v"].value == b""
    assert await parts_of(store).run([("HGET", keys_of(store).progress("bad"), "v")]) == [value]
    for key in (("good", "v"), ("bad", "w"), ("fine", "v")):
        assert committed.results[key].outcomes == ()
        assert intact(await store.record(*key)).seen == [0, 5]
    assert await store.totals("v") == Totals(2, 0, 10)
    assert dict(records_in(intact(await store.changes("bad")))).keys() == {"w"}


@pytest.mark.parametrize("what", ["a string", "a list", "no revision", "an empty revision"])
async def test_a_damaged_key_of_a_learner_affects_only_that_learner(store: Store, what: str) -> None:
    """If it has another type or an invalid revision, that learner's records fail; the batch is stored."""
    key = keys_of(store).progress("bad")
    if what == "a string":
        await parts_of(store).run([("SET", key, "text")])
    elif what == "a list":
        await parts_of(store).run([("RPUSH", key, "text")])
    else:
        await parts_of(store).run([("HSET", key, "rev", "abc" if what == "no revision" else "")])
    committed = await damaged(store)
    for video_id in ("v", "w"):
        assert committed.results["bad", video_id].outcomes == (0, Outcome.FAILED)
    assert committed.revs["bad"] == (0, 0)
    for user_id in ("good", "fine"):
        assert committed.results[user_id, "v"].outcomes == ()
        assert intact(await store.record(user_id, "v")).seen == [0, 5]
    assert await store.totals("v") == Totals(2, 0, 10)


async def test_an_empty_value_is_the_empty_record(store: Store) -> None:
    """In the script as in `unpack_record`: the first report creates the record."""
    await parts_of(store).run([("HSET", keys_of(store).progress("bad"), "v", b"")])
    assert (await damaged(store)).results["bad", "v"].outcomes == ()
    assert intact(await store.record("bad", "v")).seen == [0, 5]


@pytest.mark.parametrize("entry", [b"\xc1", b"", b"nonsense", b"\x01", b"\x01\x90", b"\x01\x94" + bytes(4)])
async def test_a_damaged_audience_entry_affects_only_itself(store: Store, entry: bytes) -> None:
    """The records are the source of truth and are stored; the video's other viewers are counted."""
    await parts_of(store).run([("HSET", keys_of(store).audience(keys_of(store).shard("v", "bad")), "bad", entry)])
    await damaged(store)
    assert intact(await store.record("bad", "v")).seen == [0, 5]
    assert await store.totals("v") == Totals(2, 0, 10)
    assert await store.totals("w") == Totals(1, 0, 5)


# Servers that fail


async def test_killed_server_is_unavailable_and_has_all_acked_records_after_its_restart(
    private_server: PrivateServer,
) -> None:
    """Meanwhile every method raises StoreUnavailable and nothing else."""
    store = open_store(private_server.url, worker="w", durability="fsync")
    await store.check()
    before = await commit(store, (("u", "v"), play()))
    private_server.kill()
    with pytest.raises(StoreUnavailable):
        await commit(store, (("u", "v"), play(2, 200)))
    for asked in (
        store.check(),
        store.epoch(),
        store.record("u", "v"),
        store.changes("u"),
        store.totals("v"),
        store.analytics("v", NOW),
        recounted(store, "v"),
        store.video("v"),
        store.put_video("v", Video("A film", 1)),
        parts_of(store).catalogue.durations({"w"}),
    ):
        with pytest.raises(StoreUnavailable):
            await asked
    private_server.start()
    after = await commit(store, (("u", "v"), play(2, 200)))
    assert (after.epoch, after.revs) == (before.epoch, {"u": (1, 2)})
    assert intact(await store.record("u", "v")).played_ms == 10_000
    await store.close()


async def test_server_that_does_not_answer_times_out(private_server: PrivateServer) -> None:
    """And the commit, which may have been carried out, is safe to repeat."""
    store = open_store(private_server.url, worker="w", timeout_s=0.2)
    await commit(store, (("u", "v"), play()))
    private_server.pause()
    with pytest.raises(StoreUnavailable):
        await commit(store, (("u", "v"), play(2, 200)))
    private_server.resume()
    patient = open_store(private_server.url, worker="x")
    await commit(patient, (("u", "v"), play(2, 200)))
    record = intact(await patient.record("u", "v"))
    assert (record.played_ms, record.rev) == (10_000, 2)
    await store.close()
    await patient.close()


async def test_cancelled_commit_does_not_confuse_the_next(private_server: PrivateServer) -> None:
    """A reply that nobody waits for any more is not taken for the reply to another command."""
    store = open_store(private_server.url, worker="w")
    await commit(store, (("u", "v"), play()))
    private_server.pause()
    lost = [asyncio.create_task(commit(store, (("u", f"v{n}"), play()))) for n in range(3)]
    for _ in range(50):
        await asyncio.sleep(0)
    for task in lost:
        task.cancel()
    assert all(isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*lost, return_exceptions=True))
    private_server.resume()
    for n in range(10):
        committed = await commit(store, (("u", "v"), play(n + 2, 200 + n)))
        assert intact(unpack_record(committed.results["u", "v"].value)).guards[0].seq == n + 2
    await store.close()


async def test_read_only_server_is_unavailable(private_server: PrivateServer) -> None:
    """A replica, or a server out of memory, refuses writes: the commit can be repeated and left nothing half
    written."""
    store = open_store(private_server.url, worker="w")
    await commit(store, (("u", "v"), play()))
    async with Redis.from_url(private_server.url) as admin:
        await admin.config_set("maxmemory", "1")
        with pytest.raises(StoreUnavailable):
            await commit(store, (("u", "v"), play(2, 200)))
        await admin.config_set("maxmemory", "0")
    await commit(store, (("u", "v"), play(2, 200)))
    assert intact(await store.record("u", "v")).played_ms == 10_000
    await store.close()


async def test_fsync_is_refused_if_it_cannot_be_kept(store_server: StoreServer, new_store: NewStore) -> None:
    """Redis 7.0 has no WAITAOF: the start fails rather than making a promise that is not kept."""
    store = new_store(durability="fsync")
    if store_server.name == "redis7":
        with pytest.raises(StoreUnavailable, match="WAITAOF"):
            await store.check()
    else:
        await store.check()
        assert (await commit(store, (("u", "v"), play()))).revs == {"u": (0, 1)}
