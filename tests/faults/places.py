"""Where the records are kept, as a parameter: the service's own store, one of ours behind a relay, or a cluster.

A place can be killed, paused, restarted empty, and asked directly, past the relay. One more kind of store needs a class
with the same methods, and a line in PLACES.
"""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import redis

from storage.embedded import _binary
from tests.clustered import PRIMARIES, ClusterServers, Member, until
from tests.faults.relay import Relay, relay
from tests.ports import free_port
from tests.server.program import END_S, START_S, gone

Change = Callable[[Path], None]
"""What happens to the store's directory while it is down."""


class Missing(Exception):
    """This machine has no such store."""


class Place(Protocol):
    name: str
    options: tuple[str, ...]
    """Of `playhead serve`."""
    relay: Relay | None
    """Between the service and the store, where one is possible."""
    url: str
    """Straight to the store, past the relay."""

    def pids(self) -> list[int]:
        """The store's processes."""
        ...

    def admin(self, **options: str) -> "redis.Redis":
        """A client that goes past the relay."""
        ...

    async def answers(self) -> None:
        """Wait until it does."""
        ...

    async def kill(self, change: Change | None = None) -> None:
        """SIGKILL, and back again, its files changed meanwhile. Returns when it answers."""
        ...


class _Reached:
    """What is the same for all: a client that goes past the relay, and the wait for an answer."""

    url: str

    def admin(self, **options: str) -> "redis.Redis":
        return redis.Redis.from_url(self.url, socket_timeout=10, **options)

    async def answers(self) -> None:
        async with asyncio.timeout(START_S):
            while True:
                with contextlib.suppress(redis.RedisError, OSError), self.admin() as client:
                    client.ping()
                    return
                await asyncio.sleep(0.02)


class Embedded(_Reached):
    """The service's own Valkey, which the service restarts when it dies."""

    name = "embedded"
    relay: Relay | None = None

    def __init__(self, directory: Path) -> None:
        self.options: tuple[str, ...] = ("--data-dir", str(directory))
        self.url = f"unix://{directory}/valkey.sock"
        self._directory = directory

    def pids(self) -> list[int]:
        """Of whoever has our socket in its command line, as the kernel tells it; empty while it is being restarted."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (process / "cmdline").read_bytes()
                if b"valkey-server" in words and str(self._directory).encode() in words:
                    found.append(int(process.name))
        return found

    def owner(self) -> int:
        """The server, whose child the store is."""
        (store,) = self.pids()
        return int(Path(f"/proc/{store}/stat").read_text().rpartition(")")[2].split()[1])

    async def kill(self, change: Change | None = None) -> None:
        (store,), owner = self.pids(), self.owner()
        os.kill(owner, signal.SIGSTOP)
        try:
            os.kill(store, signal.SIGKILL)
            await gone([store])
            if change is not None:
                change(self._directory)
        finally:
            os.kill(owner, signal.SIGCONT)
        await self.answers()


class Server(_Reached):
    """A redis-server or valkey-server of our own, on a port of its own behind a relay, every write synced.

    Args:
        repairs: whether it has a file that was torn repaired when it has started; else its operator does that.
    """

    def __init__(self, name: str, binary: str | Path, directory: Path, durability: str, repairs: bool) -> None:
        self.name = name
        self.options: tuple[str, ...] = ()
        self.relay: Relay | None = None
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._binary, self._directory, self._durability, self._repairs = binary, directory, durability, repairs
        self._process: subprocess.Popen[bytes] | None = None

    def behind(self, between: Relay) -> None:
        self.relay = between
        self.options = ("--redis-url", f"redis://127.0.0.1:{between.port}", "--durability", self._durability)

    async def start(self) -> None:
        words: list[str | Path] = [self._binary, "--port", str(self.port), "--dir", self._directory, "--save", ""]
        words += ["--appendonly", "yes", "--appendfsync", "always", "--logfile", self._directory / "log"]
        self._process = _spawned(words)
        await self.answers()

    def pids(self) -> list[int]:
        return [] if self._process is None else [self._process.pid]

    async def kill(self, change: Change | None = None) -> None:
        self.end()
        if change is not None:
            change(self._directory)
        await self.start()
        if change is not None and not self._repairs:
            await self._rewrite()

    async def _rewrite(self) -> None:
        """Its append-only file, from what it has in memory."""
        with self.admin() as client:
            client.bgrewriteaof()
            async with asyncio.timeout(START_S):
                while _rewriting(client):  # noqa: ASYNC110 no event tells
                    await asyncio.sleep(0.01)

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(END_S)
            self._process = None


class Clustered:
    """Three primaries with a replica each; an ack waits for the disk of the primary and that of its replica.

    The relay is in front of each of them, for all who ask a node where another one is: its replica is one of these.
    """

    name = "cluster"

    def __init__(self, servers: ClusterServers, between: Relay) -> None:
        self.servers = servers
        self.relay: Relay | None = between
        self.url = servers.url
        self.options: tuple[str, ...] = ("--redis-url", servers.url, "--durability", "replicas:1")

    def pids(self) -> list[int]:
        return [member.pid for member in self.servers.members if member.is_running]

    def admin(self, **options: str) -> "redis.Redis":
        """Of one of the primaries."""
        return redis.Redis(port=self.servers.primaries()[0].port, socket_timeout=10, **options)  # type: ignore[arg-type]

    async def answers(self) -> None:
        """As a whole: every slot has a primary, and every primary its replica."""
        await asyncio.to_thread(self.servers.heal)

    async def kill(self, change: Change | None = None) -> None:
        """One primary of a cluster that is whole; it comes back when its replica has taken over."""
        assert change is None, "a cluster has no one directory"
        await self.answers()
        victim = random.choice(self.servers.primaries())
        victim.kill()
        await self.taken_over(victim)
        victim.start()

    async def taken_over(self, victim: Member) -> None:
        """Wait until another one has all slots of a primary that is gone or silent."""
        others = [member for member in self.servers.members if member is not victim and member.is_running]
        await asyncio.to_thread(until, lambda: sum(m.replication()["role"] == "master" for m in others) == PRIMARIES)


@contextlib.asynccontextmanager
async def embedded() -> AsyncIterator[Embedded]:
    with TemporaryDirectory(prefix="faults-") as directory:
        yield Embedded(Path(directory) / "data")


@contextlib.asynccontextmanager
async def _server(name: str, binary: str | Path, durability: str, *, repairs: bool) -> AsyncIterator[Server]:
    with TemporaryDirectory(prefix="faults-") as directory:
        server = Server(name, binary, Path(directory), durability, repairs)
        await server.start()
        try:
            async with relay(server.port) as between:
                server.behind(between)
                yield server
        finally:
            server.end()


@contextlib.asynccontextmanager
async def valkey() -> AsyncIterator[Server]:
    async with _server("valkey", _binary(), "fsync", repairs=True) as server:
        yield server


@contextlib.asynccontextmanager
async def redis7() -> AsyncIterator[Server]:
    """It has no WAITAOF: each write is synced before it is answered (appendfsync always), and durability is memory.

    What a script has written stands in its file between MULTI and EXEC. One that is torn in there it cuts behind the
    last whole command, MULTI and all, and the start after next carries that half of a script out (Valkey's issue 4342,
    which Valkey 9.1.2 has mended). So its file is written anew after a repair, as README asks of its operator.
    """
    binary = shutil.which("redis-server")
    if binary is None:
        raise Missing("redis-server is not installed (apt-get install redis-server)")
    async with _server("redis", binary, "memory", repairs=False) as server:
        yield server


@contextlib.asynccontextmanager
async def cluster() -> AsyncIterator[Clustered]:
    """Formed in a thread, for other cases may be under way."""
    with TemporaryDirectory(prefix="faults-") as directory:
        servers = ClusterServers(Path(directory), "--appendonly", "yes", "--appendfsync", "always")
        try:
            async with relay(*(member.port for member in servers.members)) as between:
                await asyncio.to_thread(servers.form, between.ports)
                yield Clustered(servers, between)
        finally:
            servers.end()


def _rewriting(client: "redis.Redis") -> bool:
    state = client.info("persistence")
    return bool(state["aof_rewrite_in_progress"] or state["aof_rewrite_scheduled"])


def _spawned(words: list[str | Path]) -> "subprocess.Popen[bytes]":
    """As Python ignores it, so does the child: SIGXFSZ, that a write beyond RLIMIT_FSIZE fails instead of killing."""
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, restore_signals=False)


PLACES: dict[str, Callable[[], contextlib.AbstractAsyncContextManager[Place]]] = {
    "embedded": embedded,
    "valkey": valkey,
    "redis": redis7,
    "cluster": cluster,
}
