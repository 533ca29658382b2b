"""A cluster that fails over, moves its slots and loses nodes under load: no acknowledged commit is lost beyond what the
durability permits, and a loss is detected."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any
from uuid import uuid4

import pytest

from playhead.protocol.record import Report
from playhead.storage.connection.cluster import Cluster
from playhead.storage.connection.pipeline import Command
from playhead.storage.connection.primary import Primary
from playhead.storage.errors import NotDurable
from playhead.storage.keys import partition
from playhead.storage.maintenance.rebuild import Rebuild
from playhead.storage.read.catalogue import Video
from playhead.storage.store import Store, StoreUnavailable, open_store
from playhead.storage.write.pending import Batch, Committed, Delta
from playhead.storage.write.script_calls import WEIGHT_PER_CALL
from tests.clustered import ClusterServers, Member, at_once, by_keys, clustered, until
from tests.inside import keys_of, parts_of, records_in, recounted
from tests.intact import intact
from tests.storage.own_store import read_example

NOW = 1_764_000_000_000
PATIENCE_S = 30.0
LEARNERS = [f"u{number}" for number in range(60)]
SLOTS_A_MOVE = 3
PASSWORD = "a-password"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterServers]:
    """A cluster for these tests, which damage it; each test finds it intact."""
    directory = tmp_path_factory.mktemp("cluster")
    with clustered(directory, "--appendonly", "yes", "--appendfsync", "always") as servers:
        yield servers


@contextlib.asynccontextmanager
async def opened(servers: ClusterServers, durability: str = "memory", timeout_s: float = 2.0) -> AsyncIterator[Store]:
    store = open_store(servers.url, worker=uuid4().hex, durability=durability, timeout_s=timeout_s)
    await store.check()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def store(servers: ClusterServers) -> AsyncIterator[Store]:
    servers.heal()
    for primary in servers.primaries():
        primary.ask("FLUSHALL")
    async with opened(servers) as store:
        yield store


def play(second: int) -> Report:
    return Report(NOW, NOW, "s", second + 1, second + 1, [second, second + 1], [], 1_000)


def batch(second: int, learners: list[str] = LEARNERS, videos: int = 7) -> Batch:
    """Each learner plays this second of a video of their own."""
    made = Batch()
    for number, user_id in enumerate(learners):
        delta = made.deltas.setdefault((user_id, f"v{number % videos}"), Delta())
        delta.ops.append(play(second))
    return made


async def commit(store: Store, made: Batch) -> Committed:
    """Commit as a flusher does: the same batch until it is stored."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await store.commit(made, NOW, lambda _: False)
            except StoreUnavailable:
                await asyncio.sleep(0.05)


class Load:
    """Commits one second after another until it is stopped."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.stored = 0
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            await commit(self._store, batch(self.stored))
            self.stored += 1

    async def more(self, seconds: int = 3) -> None:
        """Wait until this many more seconds are stored."""
        goal = self.stored + seconds
        async with asyncio.timeout(PATIENCE_S):
            while self.stored < goal:
                assert not self._task.done(), self._task
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})


@pytest.fixture
async def load(store: Store) -> AsyncIterator[Load]:
    load = Load(store)
    await load.more()
    yield load
    await load.stop()


async def all_is_there(store: Store, seconds: int) -> None:
    """Check that every acknowledged second of every learner is stored, and that the totals equal a recount."""
    all_changes = await asyncio.gather(*(store.changes(user_id) for user_id in LEARNERS))
    for user_id, changes in zip(LEARNERS, all_changes, strict=True):
        ((_, record),) = records_in(changes)
        assert record.seen[0] == 0
        assert record.seen[1] >= seconds, user_id
    for number in range(7):
        totals, curve, _ = intact(await store.analytics(f"v{number}", NOW))
        assert (totals, curve) == await recounted(store, f"v{number}")
        assert totals.viewers == sum(each % 7 == number for each in range(len(LEARNERS)))


# Calls


class Counted:
    """Records the commands sent to each primary."""

    def __init__(self, primaries: list[Primary]) -> None:
        self.pipelines: Counter[str] = Counter()
        self.sent: list[tuple[str, Command]] = []
        for primary in primaries:
            primary.pipeline = self._counting(primary)  # type: ignore[method-assign, assignment]

    def _counting(self, primary: Primary) -> Callable[[list[Command]], Coroutine[Any, Any, list[Any]]]:
        send = primary.pipeline

        async def counted(commands: list[Command]) -> list[Any]:
            self.pipelines[primary.name] += 1
            self.sent += [(primary.name, command) for command in commands]
            return await send(commands)

        return counted

    def scripts(self, letter: str) -> list[str]:
        """The numbers of partitions in the script calls of a stage."""
        keys = [str(command[3]) for _, command in self.sent if command[0] == "EVALSHA" and ":fence:" not in command[3]]
        return [key.split("{")[1][1:3] for key in keys if "{" + letter in key]


async def test_a_commit_is_one_call_per_partition_and_one_pipeline_per_node_and_stage(store: Store) -> None:
    """However many records there are. A partition that is too large for one call is split into as few as possible."""
    learners = [str(uuid4()) for _ in range(1_500)]
    await commit(store, batch(0, learners, videos=500))
    counted = Counted(await parts_of(store).link.primaries())
    await commit(store, batch(1, learners, videos=500))
    assert sorted(counted.scripts("u")) == sorted({partition(user_id) for user_id in learners})
    shards = {keys_of(store).shard(f"v{number % 500}", user_id) for number, user_id in enumerate(learners)}
    assert sorted(counted.scripts("v")) == sorted(set(map(partition, shards)))
    assert set(counted.pipelines.values()) == {2}
    made = batch(2, learners)
    for number in range(2 * WEIGHT_PER_CALL):
        made.deltas.setdefault(("heavy", f"v{number}"), Delta()).ops.append(play(2))
    counted.sent.clear()
    await commit(store, made)
    calls = Counter(counted.scripts("u"))
    assert calls.pop(partition("heavy")) == 3
    assert set(calls.values()) == {1}


async def test_the_user_of_the_example_needs_two_more_permissions(servers: ClusterServers, store: Store) -> None:
    """CLUSTER SLOTS, and ASKING while a slot moves; no other command is refused."""
    words = read_example("playhead").replace("CHANGE-ME", PASSWORD).splitlines()[-1].split()[2:]
    for member in servers.members:
        member.ask("ACL", "SETUSER", "playhead", "reset", *words, "+waitaof")
    url = servers.url.replace("://", f"://playhead:{PASSWORD}@")
    limited = open_store(url, worker=uuid4().hex, durability="fsync", timeout_s=2.0)
    try:
        await limited.check()
        listening = parts_of(limited).listen(lambda name, data: None, lambda name: None)
        task = asyncio.create_task(listening.run())
        async with asyncio.timeout(PATIENCE_S):
            await listening.subscribe(keys_of(limited).push("u0")).wait()
        await commit(limited, batch(0))
        await limited.put_video("v0", Video("A film", 60_000))
        source = servers.primary_of(keys_of(store).progress("new"))
        slot = int(source.ask("CLUSTER", "KEYSLOT", keys_of(store).progress("new")))
        move = by_keys(source, next(member for member in servers.primaries() if member is not source), slot)
        next(move)
        await commit(limited, batch(0, ["new"]))
        for _ in move:
            pass
        task.cancel()
        await asyncio.wait({task})
    finally:
        await limited.close()


# Nodes that fail


@pytest.mark.parametrize("durability", ["fsync", "replicas:1"])
async def test_a_primary_killed_under_load_loses_no_durable_commit(
    servers: ClusterServers, store: Store, durability: str
) -> None:
    """With replicas:1 its replica has everything when it takes over; with fsync its own disk has, when it restarts."""
    async with opened(servers, durability) as durable:
        load = Load(durable)
        try:
            await load.more(1)
            victim = servers.primary_of(keys_of(store).progress(LEARNERS[0]))
            if durability == "fsync":
                replica = servers.replica_of(victim)
                replica.kill()
            victim.kill()
            if durability == "replicas:1":
                await asyncio.to_thread(
                    until, lambda: servers.primary_of(keys_of(store).progress(LEARNERS[0])) is not victim
                )
            victim.start()
            stored = load.stored
            await load.more(2)
        finally:
            await load.stop()
        assert load.stored > stored
        await all_is_there(durable, load.stored)


async def test_a_commit_waits_for_each_primary_that_it_wrote_to(servers: ClusterServers, store: Store) -> None:
    """For the learner's and the video's, and for no other."""
    of_learner = servers.primary_of(keys_of(store).progress("u0"))
    audiences = {name: keys_of(store).audience(keys_of(store).shard(name, "u0")) for name in "abcdefghijkl"}
    video = next(name for name, key in audiences.items() if servers.primary_of(key) is not of_learner)
    of_video = servers.primary_of(audiences[video])
    (neither,) = {*servers.primaries()} - {of_learner, of_video}

    def made(second: int) -> Batch:
        made = Batch()
        made.deltas.setdefault(("u0", video), Delta()).ops.append(play(second))
        return made

    async with opened(servers, "fsync") as durable:
        for second, member in enumerate((neither, of_learner, of_video)):
            member.ask("CONFIG", "SET", "appendfsync", "no")
            with pytest.raises(NotDurable, match="disk") if member is not neither else contextlib.nullcontext():
                await durable.commit(made(second), NOW, lambda _: False)
            member.ask("CONFIG", "SET", "appendfsync", "always")
            await commit(durable, made(second))
        (value,) = await parts_of(durable).run([("HGET", keys_of(store).progress("u0"), video)])
        of_learner.ask("CONFIG", "SET", "appendfsync", "no")
        with pytest.raises(NotDurable, match="disk"):  # earlier writes there must be durable too
            await parts_of(durable).commits.update_videos({video: [("u0", value)]}, NOW)
        of_learner.ask("CONFIG", "SET", "appendfsync", "always")
        await parts_of(durable).commits.update_videos({video: [("u0", value)]}, NOW)
    async with opened(servers, "replicas:1") as durable:
        await commit(durable, made(3))
        replica = servers.replica_of(of_learner)
        replica.stop()
        try:
            with pytest.raises(NotDurable, match="replicas"):
                await durable.commit(made(4), NOW, lambda _: False)
        finally:
            replica.resume()
        await commit(durable, made(4))


async def test_an_unavailable_primary_fails_only_its_own_learners(servers: ClusterServers, store: Store) -> None:
    """Until its replica takes over, other learners are read, in the same round trip."""
    victim = servers.primary_of(keys_of(store).progress("u0"))
    other = next(user for user in LEARNERS if servers.primary_of(keys_of(store).progress(user)) is not victim)
    await commit(store, batch(0))
    victim.kill()
    commands: list[Command] = [("HGET", keys_of(store).progress(user), "rev") for user in ("u0", other)]
    lost, there = await parts_of(store).link.ask(commands)
    assert (isinstance(lost, StoreUnavailable), there) == (True, b"1")


def let_lag(servers: ClusterServers, primary: Member) -> Member:
    """From now on the replica of this primary receives nothing."""
    replica = servers.replica_of(primary)
    replica.ask("CONFIG", "SET", "masteruser", "nobody")
    replica.ask("CONFIG", "SET", "masterauth", "nothing")
    primary.ask("CLIENT", "KILL", "TYPE", "replica")
    until(lambda: replica.replication()["master_link_status"] == "down")
    return replica


def let_follow(replica: Member) -> None:
    replica.ask("CONFIG", "SET", "masteruser", "")
    replica.ask("CONFIG", "SET", "masterauth", "")


async def test_a_failover_to_a_lagging_replica_starts_a_new_epoch(servers: ClusterServers, store: Store) -> None:
    """The process whose commit is lost detects it with its next commit, although that is for another primary's learner
    and other processes have committed there since. Then all records of the affected learner are read again."""
    lost = LEARNERS[0]
    victim = servers.primary_of(keys_of(store).progress(lost))
    other = next(user for user in LEARNERS if servers.primary_of(keys_of(store).progress(user)) is not victim)
    before = await commit(store, batch(0))
    replica = let_lag(servers, victim)
    try:
        async with opened(servers) as stranger:
            assert (await commit(store, batch(1, [lost]))).revs[lost] == (1, 2)
            victim.kill()
            assert (await commit(stranger, batch(2, [lost]))).epoch == before.epoch
            assert intact(await stranger.record(lost, "v0")).seen == [0, 1, 2, 3], "there was no loss to detect"
            link = parts_of(store).link
            assert isinstance(link, Cluster)
            await link.refresh_topology()
            after = await commit(store, batch(3, [other]))
            assert after.epoch != before.epoch
            assert (await commit(store, batch(3))).epoch == after.epoch
            assert (await commit(stranger, batch(3))).epoch == after.epoch
            changes = intact(await stranger.changes(lost, 2, before.epoch))
            assert (changes.epoch, len(records_in(changes))) == (after.epoch, 1)
    finally:
        let_follow(replica)


async def test_totals_follow_a_record_whose_newest_revisions_are_lost(servers: ClusterServers, store: Store) -> None:
    """Its audience entry is at another primary, which has them.

    What is committed after the loss has higher revisions nevertheless, also by a process that was not affected and is
    overtaken between its stages.
    """

    def home(user_id: str) -> Member:
        return servers.primary_of(keys_of(store).progress(user_id))

    def audience(user_id: str) -> Member:
        return servers.primary_of(keys_of(store).audience(keys_of(store).shard("v0", user_id)))

    lost = next(user_id for user_id in LEARNERS if home(user_id) is not audience(user_id))
    victim = home(lost)
    other = next(user_id for user_id in LEARNERS if home(user_id) is not victim)
    before = await commit(store, batch(0, [lost]))
    replica = let_lag(servers, victim)
    try:
        async with opened(servers) as stranger:
            for second in range(1, 6):
                await commit(store, batch(second, [lost]))
            victim.kill()
            await asyncio.to_thread(until, lambda: home(lost) is replica)
            link = parts_of(store).link
            assert isinstance(link, Cluster)
            await link.refresh_topology()
            assert (await commit(store, batch(0, [other]))).epoch != before.epoch
            finish = parts_of(stranger).commits.finish

            async def overtaken(commands: list[Command], written: set[str]) -> None:
                await commit(store, batch(9, [lost]))
                await finish(commands, written)

            parts_of(stranger).commits.finish = overtaken  # type: ignore[method-assign]
            for process, second in ((stranger, 7), (store, 9)):
                await commit(process, batch(second, [lost]))
                assert not (await Rebuild(parts_of(store), repair=False, grace_s=0, now=lambda: NOW).run()).drift
            assert intact(await store.record(lost, "v0")).seen == [0, 1, 7, 8, 9, 10]
    finally:
        let_follow(replica)


async def test_a_commit_whose_first_stage_was_lost_is_not_acknowledged(servers: ClusterServers, store: Store) -> None:
    """A primary fails over between the two stages to a lagging replica: the commit is made again."""
    async with opened(servers, "fsync") as durable:
        victim = servers.primary_of(keys_of(store).progress(LEARNERS[0]))
        before = await commit(durable, batch(0))
        replica = let_lag(servers, victim)
        finish, killed = parts_of(durable).commits.finish, False

        async def failing(commands: list[Command], written: set[str]) -> None:
            nonlocal killed
            if not killed:
                victim.kill()
                killed = True
            await finish(commands, written)

        parts_of(durable).commits.finish = failing  # type: ignore[method-assign]
        try:
            with pytest.raises(StoreUnavailable):
                await durable.commit(batch(1), NOW, lambda _: False)
            after = await commit(durable, batch(1))
            assert after.epoch != before.epoch
            await all_is_there(durable, 2)
        finally:
            let_follow(replica)


async def test_a_planned_failover_keeps_the_epoch(servers: ClusterServers, store: Store, load: Load) -> None:
    """Nothing is lost, so no connection is closed."""
    epoch = await store.epoch()
    primary = servers.primary_of(keys_of(store).epoch)
    replica = servers.replica_of(primary)
    await asyncio.to_thread(replica.ask, "CLUSTER", "FAILOVER")
    await asyncio.to_thread(until, lambda: servers.primary_of(keys_of(store).epoch) is replica)
    await load.more()
    await load.stop()
    await all_is_there(store, load.stored)
    assert await store.epoch() == epoch


# Slots that move


@pytest.mark.parametrize("how", [by_keys, at_once])
async def test_slots_move_under_load_and_nothing_is_lost(
    servers: ClusterServers, store: Store, load: Load, how: Callable[[Member, Member, int], Iterator[None]]
) -> None:
    """Slots of learners, of videos and of the epoch. The same commits continue, and the epoch stays."""
    epoch = await store.epoch()
    keys = [keys_of(store).progress(user_id) for user_id in LEARNERS[:SLOTS_A_MOVE]]
    audiences = [keys_of(store).audience(keys_of(store).shard(f"v{n}", LEARNERS[n])) for n in range(2)]
    for key in [*keys, *audiences, keys_of(store).epoch]:
        source = servers.primary_of(key)
        target = next(member for member in servers.primaries() if member is not source)
        slot = int(source.ask("CLUSTER", "KEYSLOT", key))
        for _ in how(source, target, slot):
            await asyncio.sleep(0.01)
        await asyncio.to_thread(until, lambda key=key, target=target: servers.primary_of(key) is target)  # type: ignore[misc]
        await load.more(1)
    await load.stop()
    await all_is_there(store, load.stored)
    assert await store.epoch() == epoch


async def test_a_slot_that_stays_half_moved_can_still_be_read_and_written(
    servers: ClusterServers, store: Store
) -> None:
    """A learner's key is at one node or the other.

    ASK redirects to the second, for a new key as well, and is counted.
    """
    source = servers.primary_of(keys_of(store).progress(LEARNERS[0]))
    target = next(member for member in servers.primaries() if member is not source)
    slot = int(source.ask("CLUSTER", "KEYSLOT", keys_of(store).progress(LEARNERS[0])))
    mine = [name for name in map(str, range(3_000)) if partition(name) == partition(LEARNERS[0])]
    await commit(store, batch(0, [LEARNERS[0]]))
    move, before = by_keys(source, target, slot), store.command_retries
    next(move)
    await commit(store, batch(0, mine[:1]))
    assert store.command_retries > before
    await commit(store, batch(1, [LEARNERS[0]]))
    for _ in move:
        pass
    for name in (LEARNERS[0], mine[0]):
        assert intact(await store.record(name, "v0")).seen[0] == 0
    assert intact(await store.record(LEARNERS[0], "v0")).seen == [0, 2]


async def test_the_viewers_of_one_video_are_spread_over_shards(store: Store) -> None:
    """However many there are, no slot has them all. The totals cover all shards, and equal a recount."""
    many = [f"u{n}" for n in range(100)]
    for second in range(3):
        await commit(store, batch(second, many, videos=1))
    shards = keys_of(store).shards("v0")
    sizes = await parts_of(store).run([("HLEN", keys_of(store).audience(shard)) for shard in shards])
    assert sum(sizes) == len(many)
    assert max(sizes) < len(many) / 4
    assert len({partition(shard) for shard in shards}) > len(shards) / 2
    totals, curve, watching = intact(await store.analytics("v0", NOW))
    assert (totals, curve) == await recounted(store, "v0")
    assert (totals.viewers, totals.watched, watching) == (100, 300, 100)
    assert curve.viewers == [100, 100, 100]
    assert sorted([user async for page in store.viewers("v0") for user in page]) == sorted(many)


async def test_a_rebuild_repairs_each_shard(store: Store) -> None:
    """A lost entry, an entry in another shard, a wrong total: each is found and repaired, and a second run finds
    nothing."""
    await commit(store, batch(0, [f"u{n}" for n in range(40)], videos=1))
    home, other = keys_of(store).shards("v0")[:2]
    (entries,) = await parts_of(store).run([("HGETALL", keys_of(store).audience(other))])
    lost, entry = next(iter(entries.items()))
    await parts_of(store).run(
        [
            ("HDEL", keys_of(store).audience(other), lost),
            ("HSET", keys_of(store).audience(home), lost, entry),
            ("HINCRBY", keys_of(store).summary(home), "watched", 5),
        ]
    )

    async def drift(repair: bool) -> int:
        return (await Rebuild(parts_of(store), repair=repair, grace_s=0, now=lambda: NOW).run()).drift.total()

    found = await drift(repair=False)
    assert found >= 3
    assert await drift(repair=True) >= 3
    assert await drift(repair=False) == 0
    assert intact(await store.totals("v0")).viewers == 40
    totals, curve, _ = intact(await store.analytics("v0", NOW))
    assert (totals, curve) == await recounted(store, "v0")
