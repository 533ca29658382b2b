"""A commit counts as stored only when the configured durability is reached; what a store can't do is reported.

On a real primary with a real replica: Valkey, which has WAITAOF, and Redis 7.0, which has only WAIT.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis
import redis.asyncio

from playhead.protocol.record import Report
from playhead.storage.errors import NotDurable
from playhead.storage.guarantees.durability import Level
from playhead.storage.parts import Parts
from playhead.storage.store import Store, StoreUnavailable, open_store
from playhead.storage.write.pending import Batch, Delta
from tests.inside import keys_of, parts_of
from tests.intact import intact
from tests.replicated import PATIENCE_S, Node, Replicated, replicated
from tests.storage.own_store import running

NOW = 1_764_000_000_000


@pytest.fixture(params=["valkey", "redis7"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Replicated]]:
    with replicated(request.param, tmp_path) as store:
        yield request.param, store


@contextlib.asynccontextmanager
async def opened(url: str, durability: str, timeout_s: float = 1.0) -> AsyncIterator[Store]:
    store = open_store(url, worker="w", durability=durability, timeout_s=timeout_s)
    try:
        yield store
    finally:
        await store.close()


async def commit(store: Store, second: int) -> None:
    report = Report(NOW, NOW, "s", second + 1, second + 1, [second, second + 1], [], 1_000)
    batch = Batch()
    batch.deltas["u", "v"] = Delta()
    batch.deltas["u", "v"].ops.append(report)
    await store.commit(batch, NOW, lambda _: False)


async def stored(store: Store, second: int) -> None:
    """Commit until it succeeds, as a flusher does. A replica that has just connected first rewrites its file."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with contextlib.suppress(NotDurable):
                await commit(store, second)
                return


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("memory", Level("memory", False, 0)),
        ("fsync", Level("fsync", True, 0)),
        ("replicas:1", Level("replicas:1", True, 1)),
        ("replicas:12", Level("replicas:12", True, 12)),
    ],
)
def test_levels(text: str, level: Level) -> None:
    assert Level.parse(text) == level


@pytest.mark.parametrize(
    "text", ["", "disk", "replicas", "replicas:", "replicas:0", "replicas:-1", "replicas:100", "replicas:1 "]
)
def test_invalid_levels_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="memory, fsync or replicas:N"):
        Level.parse(text)


async def test_replicas_have_a_commit_before_it_counts_as_stored(stores: tuple[str, Replicated]) -> None:
    """Not while there is no replica, nor while it is stopped; afterwards immediately, and the replica has it too."""
    kind, nodes = stores
    async with opened(nodes.url, "replicas:1") as store:
        await store.check()
        assert (parts_of(store).durability.note is None) == (kind == "valkey")
        with pytest.raises(NotDurable, match="0 of 1 replicas"):
            await commit(store, 1)
        assert "0 of 1" in str(await parts_of(store).durability.missing(parts_of(store).run))
        replica = nodes.follow()
        await stored(store, 1)
        assert await parts_of(store).durability.missing(parts_of(store).run) is None
        nodes.stop_replica()
        with pytest.raises(NotDurable, match="0 of 1 replicas"):
            await commit(store, 2)
        nodes.continue_replica()
        await stored(store, 2)
        nodes.primary.kill()
        async with redis.asyncio.Redis.from_url(replica.url) as heir:
            assert await heir.exists(keys_of(store).progress("u")), "the store's machine is gone, its replica has all"
    async with opened(replica.url, "memory") as store:
        assert intact(await store.record("u", "v")).seen == [1, 3]


async def test_one_replica_does_not_count_as_two(stores: tuple[str, Replicated]) -> None:
    _, nodes = stores
    nodes.follow()
    async with opened(nodes.url, "replicas:1") as store:
        await store.check()
        await stored(store, 1)
    async with opened(nodes.url, "replicas:2") as store:
        await store.check()
        async with asyncio.timeout(PATIENCE_S):
            error_text = ""
            while "1 of 2 replicas" not in error_text:  # it confirms in time, but a disk may be slow
                with pytest.raises(NotDurable, match=r"[01] of 2 replicas") as why:
                    await commit(store, 1)
                error_text = str(why.value)
        assert "1 of 2" in str(await parts_of(store).durability.missing(parts_of(store).run))


async def test_a_replica_without_a_disk_is_not_enough_if_the_store_can_wait_for_disks(tmp_path: Path) -> None:
    with replicated("valkey", tmp_path) as nodes:
        replica = nodes.follow()
        with redis.Redis.from_url(replica.url) as client:
            client.config_set("appendonly", "no")
        async with opened(nodes.url, "replicas:1") as store:
            await store.check()
            with pytest.raises(NotDurable, match="0 of 1 replicas have it on their disks"):
                await commit(store, 1)


async def test_a_store_without_an_append_only_file_waits_for_memory_of_replicas_and_says_so(tmp_path: Path) -> None:
    with replicated("valkey", tmp_path, disk="no") as nodes:
        nodes.follow()
        async with opened(nodes.url, "replicas:1") as store:
            await store.check()
            note = parts_of(store).durability.note
            assert note is not None
            assert "replicas:1 is kept in the memory of replicas" in note
            assert "append-only file is off" in note
            await stored(store, 1)
            nodes.stop_replica()
            with pytest.raises(NotDurable, match="0 of 1 replicas"):
                await commit(store, 2)


async def test_a_store_that_is_too_old_is_reported(tmp_path: Path) -> None:
    with replicated("redis7", tmp_path) as nodes:
        nodes.follow()
        async with opened(nodes.url, "replicas:1") as store:
            await store.check()
            note = parts_of(store).durability.note
            assert note is not None
            assert "in the memory of replicas and not on disks: it is too old for WAITAOF" in note


async def test_fsync_on_a_store_that_is_too_old_needs_appendfsync_always(tmp_path: Path) -> None:
    """Such a store answers only after its disk has a write, which is enough; a note says so."""
    with replicated("redis7", tmp_path) as nodes, redis.Redis.from_url(nodes.url) as client:
        async with opened(nodes.url, "fsync") as store:
            await store.check()
            note = parts_of(store).durability.note
            assert note is not None
            assert "appendfsync always" in note
            await commit(store, 1)
        client.config_set("appendfsync", "everysec")
        async with opened(nodes.url, "fsync") as store:
            with pytest.raises(StoreUnavailable, match=r"needs WAITAOF.*too old"):
                await store.check()


@pytest.mark.parametrize("kind", ["valkey", "redis7"])
async def test_a_user_without_permission_to_wait_gets_a_clear_error(kind: str, tmp_path: Path) -> None:
    node = Node(kind, tmp_path / "n", "--port", "0", "--appendonly", "yes")
    try:
        with redis.Redis.from_url(node.url) as admin:
            admin.acl_setuser(
                "p",
                enabled=True,
                nopass=True,
                keys=["*"],
                channels=["*"],
                commands=["+@all", "-wait", "-waitaof"][: 3 if kind == "valkey" else 2],
            )
        url = node.url.replace("unix://", "unix://p:x@")
        async with opened(url, "replicas:1") as store:
            with pytest.raises(StoreUnavailable, match=r"replicas:1 needs WAIT there \(.*permissions"):
                await store.check()
    finally:
        node.kill()


@pytest.mark.parametrize("named", ["memory", "replicas:1"])
async def test_without_permission_to_ask_for_replicas_nothing_is_said_about_them(tmp_path: Path, named: str) -> None:
    """`INFO` is no right that the service needs; acks still wait for the replicas."""
    path, acl = tmp_path / "store.sock", tmp_path / "users.acl"
    acl.write_text("user default on nopass ~* &* +@all\nuser few on >secret ~* &* +@all -info\n")
    with running("valkey", tmp_path, f"unix://{path}", "--unixsocket", path, "--aclfile", acl):
        everything, few = (
            Parts(url, worker="w", durability=named) for url in (f"unix://{path}", f"unix://few:secret@{path}")
        )
        said = await everything.durability.missing(everything.run)
        assert said is None if named == "memory" else "the store has 0 of 1 replicas" in str(said)
        assert await few.durability.missing(few.run) is None
        await few.link.aclose()
        if named != "memory":
            with pytest.raises(StoreUnavailable):
                await few.durability.missing(few.run)
        await everything.link.aclose()
