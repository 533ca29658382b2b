"""A store that sentinels name: commits and subscriptions go to the current primary, and a loss is detected."""

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
import redis

from playhead.protocol.record import Report
from playhead.storage.embedded.valkey import server_binary
from playhead.storage.keys import Keys
from playhead.storage.maintenance.store_audit import concerns
from playhead.storage.store import Store, StoreUnavailable, open_store
from playhead.storage.write.pending import Batch, Committed, Delta
from tests.clustered import PATIENCE_S, Secure, until
from tests.device import device
from tests.inside import parts_of
from tests.intact import intact
from tests.ports import free_ports
from tests.replicated import binary
from tests.serving import serving
from tests.storage.authority import Authority, tls
from tests.storage.connection.test_cluster import Load, all_is_there

NOW = 1_764_000_000_000
DOWN_AFTER_MS = 500


class Watched:
    """A primary, its replica, and three sentinels that give the one's place to the other.

    Args:
        lines: more for the configuration of the two.
    """

    def __init__(self, directory: Path, lines: str = "", secure: Secure | None = None) -> None:
        self.primary, self.replica, *self.sentinels = free_ports(5)
        self._directory = directory
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._binary: str | Path = secure.binary if secure else server_binary()
        self._port, self._tls, certificates = "port", {}, ""
        if secure is not None:
            self._port, self._tls = "port 0\ntls-port", {"ssl": True, "ssl_ca_certs": str(secure.authority)}
            words = iter(("--tls-replication", "yes", *secure.options))
            certificates = "".join(f"{name[2:]} {value}\n" for name, value in zip(words, words, strict=True))  # type: ignore
        self._of_all, self._of_two = certificates, f'save ""\nrepl-diskless-sync-delay 0\n{lines}'
        self.start(self.primary)
        self.start(self.replica, self.primary)
        until(lambda: self.ask(self.replica, "INFO", "replication")["master_link_status"] == "up")
        for port in self.sentinels:
            path = directory / f"sentinel{port}.conf"
            path.write_text(
                f"bind 127.0.0.1\n{self._port} {port}\ndir {directory}\n{self._of_all}"
                f"sentinel monitor progress 127.0.0.1 {self.primary} 2\n"
                f"sentinel down-after-milliseconds progress {DOWN_AFTER_MS}\n"
                "sentinel failover-timeout progress 2000\n"
            )
            self._run(port, path, "--sentinel")
        until(self.is_whole)

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in self.sentinels)}/progress"

    def kill(self, port: int) -> None:
        process = self._processes.pop(port)
        process.kill()
        process.wait(PATIENCE_S)

    def has_failed_over(self) -> bool:
        _, port = self.ask(self.sentinels[0], "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "progress")
        return int(port) == self.replica and self.ask(self.replica, "INFO", "replication")["role"] == "master"

    def is_whole(self) -> bool:
        """Whether each sentinel sees a primary, its replica, and the other sentinels."""
        return all(self._sees_all(port) for port in self.sentinels)

    def ask(self, port: int, *command: str) -> Any:
        with self._client(port) as client:
            return client.execute_command(*command)

    def end(self) -> None:
        for port in list(self._processes):
            self.kill(port)

    def start(self, port: int, replica_of: int | None = None) -> None:
        """Start one of the two; after a kill, as the replica of the other."""
        directory, path = self._directory / str(port), self._directory / f"{port}.conf"
        directory.mkdir(exist_ok=True)
        of = f"replicaof 127.0.0.1 {replica_of}\n" if replica_of else ""
        path.write_text(f"bind 127.0.0.1\n{self._port} {port}\ndir {directory}\n{of}{self._of_two}{self._of_all}")
        self._run(port, path)
        until(lambda: bool(self.ask(port, "PING")))

    def _run(self, port: int, *words: str | Path) -> None:
        self._processes[port] = subprocess.Popen([self._binary, *words], stdout=subprocess.DEVNULL)

    def _client(self, port: int) -> "redis.Redis":
        return redis.Redis(host="127.0.0.1", port=port, **self._tls)  # type: ignore[arg-type]

    def _sees_all(self, port: int) -> bool:
        with self._client(port) as client:
            state = client.sentinel_master("progress")
        return state["num-other-sentinels"] == 2 and state["num-slaves"] == 1 and not state["is_sdown"]


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    watched = Watched(tmp_path)
    try:
        yield watched
    finally:
        watched.end()


@pytest.fixture
async def store(watched: Watched) -> AsyncIterator[Store]:
    store = open_store(watched.url, worker=uuid4().hex, timeout_s=2.0)
    await store.check()
    yield store
    await store.close()


async def commit(store: Store, second: int) -> Committed:
    """Commit as a flusher does: the same batch until it is stored."""
    made = Batch()
    played = Report(NOW, NOW, "s", second + 1, second + 1, [second, second + 1], [], 1_000)
    made.deltas.setdefault(("u", "v"), Delta()).ops.append(played)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await store.commit(made, NOW, lambda _: False)
            except StoreUnavailable:
                await asyncio.sleep(0.05)


async def test_a_killed_primary_is_replaced_by_its_replica(watched: Watched, store: Store) -> None:
    """What the replica had is there, and so are later commits. No connection is closed."""
    before = await commit(store, 0)
    assert (await parts_of(store).run([("WAIT", 1, 5_000)])) == [1]
    watched.kill(watched.primary)
    after = await commit(store, 1)
    assert watched.has_failed_over()
    assert after.epoch == before.epoch
    assert intact(await store.record("u", "v")).seen == [0, 2]


async def test_a_primary_killed_under_load_loses_no_replicated_commit(tmp_path: Path) -> None:
    """replicas:1: acks wait from the kill until the old primary is back as a replica."""
    watched = Watched(tmp_path, "appendonly yes\nappendfsync always\n")
    durable = open_store(watched.url, worker=uuid4().hex, durability="replicas:1", timeout_s=2.0)
    try:
        await durable.check()
        load = Load(durable)
        try:
            await load.more()
            watched.kill(watched.primary)
            await asyncio.to_thread(until, watched.has_failed_over)
            watched.start(watched.primary, watched.replica)
            await load.more()
        finally:
            await load.stop()
        await asyncio.to_thread(until, watched.is_whole)
        await all_is_there(durable, load.stored)
    finally:
        await durable.close()
        watched.end()


async def test_sentinels_and_their_store_use_tls(tmp_path: Path) -> None:
    """All of them; without TLS no sentinel answers."""
    authority = Authority(tmp_path, "authority")
    watched = Watched(tmp_path, secure=Secure(binary("redis7"), authority.path, tls(authority, 0, "127.0.0.1")[2:]))
    try:
        url = f"{watched.url.replace('redis+', 'rediss+')}?ssl_ca_certs={quote(str(authority.path))}"
        store = open_store(url, worker=uuid4().hex, timeout_s=2.0)
        await store.check()
        await commit(store, 0)
        assert (await parts_of(store).run([("WAIT", 1, 5_000)])) == [1]
        watched.kill(watched.primary)
        await commit(store, 1)
        assert intact(await store.record("u", "v")).seen == [0, 2]
        await store.close()
        plain = open_store(watched.url, worker=uuid4().hex, timeout_s=2.0)
        with pytest.raises(StoreUnavailable):
            await plain.check()
        await plain.close()
    finally:
        watched.end()


async def test_a_failover_to_a_lagging_replica_starts_a_new_epoch(watched: Watched, store: Store) -> None:
    """The process whose commit is lost detects it with its next one, although another has committed since."""
    before = await commit(store, 0)
    assert (await parts_of(store).run([("WAIT", 1, 5_000)])) == [1]
    with redis.Redis(port=watched.replica) as replica:
        replica.config_set("masteruser", "nobody")
        replica.config_set("masterauth", "nothing")
    watched.ask(watched.primary, "CLIENT", "KILL", "TYPE", "replica")
    until(lambda: watched.ask(watched.replica, "INFO", "replication")["master_link_status"] == "down")
    await commit(store, 1)
    watched.kill(watched.primary)
    stranger = open_store(watched.url, worker=uuid4().hex, timeout_s=2.0)
    assert (await commit(stranger, 2)).epoch == before.epoch
    await stranger.close()
    after = await commit(store, 3)
    assert after.epoch != before.epoch
    assert (await commit(store, 3)).epoch == after.epoch


async def test_a_demoted_primary_is_no_longer_written_to(watched: Watched, store: Store) -> None:
    """A planned failover: the old primary lives on as a replica; commits and pushes go to its successor."""
    user, video = str(uuid4()), str(uuid4())
    chosen: dict[str, Any] = {"redis_url": watched.url, "flush_interval_s": 0.02, "store_timeout_s": 2.0}
    async with contextlib.AsyncExitStack() as stack:
        here, there = [await stack.enter_async_context(serving(**chosen)) for _ in range(2)]
        laptop, phone = [await stack.enter_async_context(device(server, user)) for server in (here, there)]
        await laptop.play(video, 0, 5)
        await phone.pushed(video)
        await parts_of(store).run([("WAIT", 1, 5_000)])
        watched.ask(watched.sentinels[0], "SENTINEL", "FAILOVER", "progress")
        await asyncio.to_thread(until, watched.has_failed_over)
        for second in range(5, 30, 5):
            await laptop.play(video, second, second + 5)
            assert (await phone.pushed(video))["seen"] == [[0, second + 5]]
    with redis.Redis(port=watched.replica) as successor:
        assert successor.hexists(Keys().progress(user), video)


async def test_warnings_at_startup(watched: Watched, store: Store) -> None:
    """For the primary, the same as for any store; for a service that no sentinel knows, its name."""
    assert await concerns(parts_of(store).link) == [
        "The store keeps nothing on disk, so all progress is lost when it ends: turn its appendonly on."
    ]
    misspelt = open_store(watched.url.replace("/progress", "/misspelt"), worker="w", timeout_s=2.0)
    with pytest.raises(StoreUnavailable, match="misspelt"):
        await misspelt.check()
    await misspelt.close()
