"""Stores that forget, that refuse writes, or that hold values that the service did not write."""

import asyncio
import subprocess
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis
import uvloop
from redis.asyncio import ConnectionPool

from playhead.protocol.record import Outcome, Report
from playhead.storage.embedded.valkey import server_binary
from playhead.storage.read.changes import Changes
from playhead.storage.read.totals import Curve, Totals
from playhead.storage.store import StoreUnavailable, open_store
from playhead.storage.values.damage import Damaged
from playhead.storage.write.pending import Batch, Delta
from tests.conftest import StoreServer, _await_answer
from tests.inside import keys_of, parts_of, records_in, redis_of
from tests.intact import intact
from tests.stages import BetweenStages

pytestmark = pytest.mark.stores("valkey", "redis7", "cluster")
NOW = 1_764_000_000_000
uvloop.new_event_loop().close()  # the first loop opens a pipe for the process's signals, which stays open


class PrivateValkey:
    """A server for one test, with options of its own."""

    def __init__(self, directory: Path, *options: str) -> None:
        self._directory, self._options = directory, options
        self.url = f"unix://{directory}/v.sock"
        self.start()

    def start(self) -> None:
        command = [
            str(server_binary()),
            "--port",
            "0",
            "--unixsocket",
            f"{self._directory}/v.sock",
            "--dir",
            str(self._directory),
        ]
        self._process = subprocess.Popen([*command, "--save", "", *self._options], stdout=subprocess.DEVNULL)
        _await_answer(self._process, self.url)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def play(second: int) -> Report:
    return Report(NOW, NOW, "s", second + 1, second + 1, [second, second + 1], [], 1_000)


def batch(*reports: tuple[str, str, Report]) -> Batch:
    made = Batch()
    for user_id, video_id, report in reports:
        made.deltas.setdefault((user_id, video_id), Delta()).ops.append(report)
    return made


async def test_retries_of_an_unavailable_store_are_counted(tmp_path: Path) -> None:
    """Over all connections. A pipeline is retried once, and with each attempt its connection."""
    valkey = PrivateValkey(tmp_path)
    store = open_store(valkey.url, worker=uuid4().hex)
    try:
        await asyncio.gather(parts_of(store).run([("PING",)]), parts_of(store).run([("PING",)]))
        assert store.connection_retries == 0
        valkey.kill()
        for _ in range(3):
            before = store.connection_retries
            with pytest.raises(StoreUnavailable):
                await parts_of(store).run([("PING",)])
            assert before < store.connection_retries <= before + 3
        valkey.start()
        before = store.connection_retries
        await parts_of(store).run([("PING",)])
        assert store.connection_retries == before
    finally:
        await store.close()
        valkey.kill()


async def test_an_unchanged_commit_does_not_count_as_synced(tmp_path: Path) -> None:
    """WAITAOF waits for the writes of its own connection.

    A repeated commit writes nothing, perhaps on another connection, and must not be acknowledged while the first
    attempt is not on disk.
    """
    valkey = PrivateValkey(tmp_path, "--appendonly", "yes", "--appendfsync", "no")
    try:
        stores = [open_store(valkey.url, worker=uuid4().hex, durability="fsync", timeout_s=1.5) for _ in range(2)]
        for store in stores:
            with pytest.raises(StoreUnavailable, match="disk"):
                await store.commit(batch(("u", "v", play(1))), NOW, lambda _: False)
        with pytest.raises(StoreUnavailable, match="disk"):
            await stores[0].check()
        for store in stores:
            await store.close()
    finally:
        valkey.kill()


async def test_a_store_that_went_back_in_time_gets_a_new_epoch(tmp_path: Path) -> None:
    """A store restored from a snapshot has its old epoch and counts revisions again; devices that know lost revisions
    must notice."""
    valkey = PrivateValkey(tmp_path)
    store = open_store(valkey.url, worker=uuid4().hex)
    try:
        before = (await store.commit(batch(("u", "v", play(1))), NOW, lambda _: False)).epoch
        with redis.Redis.from_url(valkey.url) as client:
            client.save()
        for second in (2, 3, 4):
            assert (await store.commit(batch(("u", "v", play(second))), NOW, lambda _: False)).epoch == before
        valkey.kill()
        valkey.start()
        after = await store.commit(batch(("u", "v", play(5))), NOW, lambda _: False)
        assert after.epoch != before
        assert (await store.commit(batch(("u", "v", play(6))), NOW, lambda _: False)).epoch == after.epoch
        changes = intact(await store.changes("u", 1, before))
        assert changes.epoch == after.epoch
        assert [record.seen for _, record in records_in(changes)] == [[1, 2, 5, 7]]
    finally:
        await store.close()
        valkey.kill()


def resetting_next(pool: ConnectionPool) -> list[bool]:
    """The next connection taken from the pool is reset before it is used; the returned list is then no longer empty."""
    get, done = pool.get_connection, list[bool]()

    async def reset(*args: Any) -> Any:
        pool.get_connection = get  # type: ignore[method-assign]
        connection = await get(*args)  # type: ignore[no-untyped-call]
        connection._writer.transport.abort()
        await asyncio.sleep(0.01)  # so that the loop closes it
        done.append(True)
        return connection

    pool.get_connection = reset  # type: ignore[method-assign]
    return done


def test_a_connection_reset_during_a_command_is_an_outage_on_uvloop_too(store_server: StoreServer, prefix: str) -> None:
    """uvloop raises RuntimeError where asyncio raises OSError, which ended the flusher, and the process with it."""

    async def story() -> None:
        store = open_store(store_server.url, worker=uuid4().hex, key_prefix=prefix, timeout_s=1.0)
        try:
            await store.epoch()
            resets = [resetting_next(primary.pool) for primary in await parts_of(store).link.primaries()]
            committed = await store.commit(batch(("u", "v", play(1))), NOW, lambda _: False)
            assert committed.results["u", "v"].outcomes == ()
            assert any(resets), "the reset command is sent again"
            assert store.connection_retries == sum(map(len, resets)), "and the retry is counted"
        finally:
            await store.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(story())


class LosesItsData(BetweenStages):
    """Empties the store behind it once, when stage 1 of a commit is stored and stage 2 is not."""

    loses = False

    async def between_stages(self) -> None:
        if self.loses:
            self.loses = False
            await redis_of(self).flushall()


@pytest.mark.parametrize("durability", ["memory", "fsync"])
async def test_a_commit_whose_stage_1_is_lost_before_stage_2_is_not_acknowledged(
    tmp_path: Path, durability: str
) -> None:
    """A store that came back empty, or older, between the two stages executed stage 2, so a batch was acked of which
    nothing was left, and the totals kept the lost revisions."""
    valkey = PrivateValkey(tmp_path, "--appendonly", "yes", "--appendfsync", "always")
    store = LosesItsData(valkey.url, worker=uuid4().hex, durability=durability)
    try:
        for second in range(3):
            await store.commit(batch(("u", "v", play(second))), NOW, lambda _: False)
        store.loses, news = True, batch(("u", "v", play(7)))
        with pytest.raises(StoreUnavailable, match="lost data"):
            await store.commit(news, NOW, lambda _: False)
        committed = await store.commit(news, NOW, lambda _: False)
        assert committed.epoch == await store.epoch()
        assert intact(await store.record("u", "v")).seen == [7, 8]
        assert await store.analytics("v", NOW) == (Totals(1, 0, 1), Curve([0] * 7 + [1], [0] * 8), 1)
    finally:
        await store.close()
        valkey.kill()


async def test_concurrent_commits_of_one_process_keep_the_epoch(store_server: StoreServer, prefix: str) -> None:
    """The replies to concurrent commits may be read in any order."""
    store = open_store(store_server.url, worker=uuid4().hex, key_prefix=prefix)
    try:
        commits = [store.commit(batch(("u", "v", play(second))), NOW, lambda _: False) for second in range(100)]
        assert len({committed.epoch for committed in await asyncio.gather(*commits)}) == 1
    finally:
        await store.close()


@pytest.mark.parametrize("damage", [b"\xc1", b"\x01", b"", b"\x01\x93\x01\x02\x03"])
async def test_a_damaged_value_affects_no_other(store_server: StoreServer, prefix: str, damage: bytes) -> None:
    """A damaged audience entry or record: others in the same batch are stored and counted."""
    store = open_store(store_server.url, worker=uuid4().hex, key_prefix=prefix)
    try:
        await parts_of(store).run([("HSET", keys_of(store).audience("v"), "damaged", damage)])
        await parts_of(store).run([("HSET", keys_of(store).progress("unread"), "v", damage)])
        made = batch(("damaged", "v", play(1)), ("unread", "v", play(1)), ("healthy", "v", play(1)))
        committed = await store.commit(made, NOW, lambda _: False)
        assert committed.results["healthy", "v"].outcomes == ()
        assert committed.results["damaged", "v"].outcomes == ()
        assert intact(await store.record("damaged", "v")).seen == [1, 2]
        assert intact(await store.totals("v")).viewers >= 1
        if damage:
            assert committed.results["unread", "v"].outcomes == (0, Outcome.FAILED)
            assert isinstance(await store.record("unread", "v"), Damaged)
            changes = intact(await store.changes("unread"))
            assert isinstance(changes, Changes)
            assert (records_in(changes), changes.damaged) == ([], ["v"])
    finally:
        await store.close()
