"""The places: the service's own store, one server of ours behind a relay, or a cluster."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import redis

from playhead.storage.embedded.data_dir import SOCKET_NAME
from playhead.storage.embedded.valkey import server_binary
from tests.clustered import rewriting
from tests.faults import configured
from tests.faults.clustered import cluster
from tests.faults.place import Admin, Change, Missing, Place, throw_out
from tests.faults.relay import Relay, relay
from tests.ports import free_port
from tests.server.program import END_S, START_S, gone

NOTHING: Mapping[str, str] = {}
"""More in the environment of a store's process."""


class _Reached:
    """What is the same for all of one server: a client that goes past the relay, and the wait for an answer."""

    url: str

    def writers(self) -> list[Admin]:
        return [self.admin]

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

    def __init__(self, directory: Path, between: Relay) -> None:
        self.options: tuple[str, ...] = ("--data-dir", str(directory))
        self.url = f"unix://{directory}/{SOCKET_NAME}"
        self._directory = directory
        self._between = between
        self._behind: list[int] = []
        """The process that our relay stands in for."""

    async def aiming(self) -> Relay:
        """Until the store is started again it listens elsewhere, and the relay where it did; all have to come anew."""
        if (pids := self.pids()) != self._behind:
            store = await self._between.stand_in(self._directory / SOCKET_NAME)
            self._behind = pids
            with redis.Redis(unix_socket_path=str(store), socket_timeout=10) as client:
                throw_out(client)
        return self._between

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

    def __init__(
        self, name: str, binary: str | Path, directory: Path, durability: str, repairs: bool, env: Mapping[str, str]
    ) -> None:
        self.name = name
        self.options: tuple[str, ...] = ()
        self.relay: Relay | None = None
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._binary, self._directory, self._durability, self._repairs = binary, directory, durability, repairs
        self._env = os.environ | env
        self._process: subprocess.Popen[bytes] | None = None

    def behind(self, between: Relay) -> None:
        self.relay = between
        self.options = ("--redis-url", f"redis://127.0.0.1:{between.port}", "--durability", self._durability)

    async def aiming(self) -> Relay:
        assert self.relay is not None
        return self.relay

    async def start(self) -> None:
        words: list[str | Path] = [self._binary, "--port", str(self.port), "--dir", self._directory, "--save", ""]
        words += ["--appendonly", "yes", "--appendfsync", "always", "--logfile", self._directory / "log"]
        self._process = _spawned(words, self._env)
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
                while rewriting(client.info("persistence")):  # noqa: ASYNC110 no event tells
                    await asyncio.sleep(0.01)

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(END_S)
            self._process = None


@contextlib.asynccontextmanager
async def embedded() -> AsyncIterator[Embedded]:
    with TemporaryDirectory(prefix="faults-") as directory:
        async with relay() as between:
            yield Embedded(Path(directory) / "data", between)


@contextlib.asynccontextmanager
async def _server(
    name: str, binary: str | Path, durability: str, *, repairs: bool, env: Mapping[str, str]
) -> AsyncIterator[Server]:
    with TemporaryDirectory(prefix="faults-") as directory:
        server = Server(name, binary, Path(directory), durability, repairs, env)
        await server.start()
        try:
            async with relay(server.port) as between:
                server.behind(between)
                yield server
        finally:
            server.end()


@contextlib.asynccontextmanager
async def valkey(env: Mapping[str, str] = NOTHING) -> AsyncIterator[Server]:
    async with _server("valkey", server_binary(), "fsync", repairs=True, env=env) as server:
        yield server


@contextlib.asynccontextmanager
async def redis7(env: Mapping[str, str] = NOTHING) -> AsyncIterator[Server]:
    """It has no WAITAOF: each write is synced before it is answered (appendfsync always), and durability is memory.

    What a script has written stands in its file between MULTI and EXEC. One that is torn in there it cuts behind the
    last whole command, MULTI and all, and the start after next carries that half of a script out (Valkey's issue 4342,
    which Valkey 9.1.2 has mended). So its file is written anew after a repair, as docs/operations.md
    asks of its operator.
    """
    binary = shutil.which("redis-server")
    if binary is None:
        raise Missing("redis-server is not installed (apt-get install redis-server)")
    async with _server("redis", binary, "memory", repairs=False, env=env) as server:
        yield server


def _spawned(words: list[str | Path], env: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """As Python ignores it, so does the child: SIGXFSZ, that a write beyond RLIMIT_FSIZE fails instead of killing."""
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, restore_signals=False, env=env)


PLACES: dict[str, Callable[..., contextlib.AbstractAsyncContextManager[Place]]] = {
    "embedded": embedded,
    "valkey": valkey,
    "redis": redis7,
    "cluster": cluster,
    **configured.PLACES,
}
