"""The places: the embedded store, a single server behind a relay, a cluster, and the documented configurations."""

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
"""Additions to the environment of a store's process: none."""


class _OneServer:
    """A place of one server, with a client that does not use the relay."""

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


class Embedded(_OneServer):
    """The service's own Valkey, which the service restarts when it dies."""

    name = "embedded"
    relay: Relay | None = None

    def __init__(self, directory: Path, between: Relay) -> None:
        self.options: tuple[str, ...] = ("--data-dir", str(directory))
        self.url = f"unix://{directory}/{SOCKET_NAME}"
        self._directory = directory
        self._between = between
        self._behind: list[int] = []
        """The processes behind the relay."""

    async def aiming(self) -> Relay:
        """Move the store's socket, put the relay in its place, and close all connections, so that clients reconnect
        through the relay. It stays so until the store is started again."""
        if (pids := self.pids()) != self._behind:
            store = await self._between.stand_in(self._directory / SOCKET_NAME)
            self._behind = pids
            with redis.Redis(unix_socket_path=str(store), socket_timeout=10) as client:
                throw_out(client)
        return self._between

    def pids(self) -> list[int]:
        """The valkey-server processes with our directory in their command line; none while it is being restarted."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (process / "cmdline").read_bytes()
                if b"valkey-server" in words and str(self._directory).encode() in words:
                    found.append(int(process.name))
        return found

    def owner(self) -> int:
        """The server, which is the store's parent process."""
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


class Server(_OneServer):
    """A redis-server or valkey-server on a port behind a relay. It syncs every write.

    Args:
        repairs: whether it needs no rewrite of an incomplete file after its start.
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
        """Rewrite its append-only file from memory."""
        with self.admin() as client:
            client.bgrewriteaof()
            async with asyncio.timeout(START_S):
                while rewriting(client.info("persistence")):  # noqa: ASYNC110 there is no event
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
    """Redis 7, which has no WAITAOF: each write is synced before its answer (appendfsync always); durability is memory.

    The writes of a script are between MULTI and EXEC in its file. Redis truncates a file that is incomplete in between
    after the last complete command, and keeps the MULTI; the start after the next one then applies half of the script
    (Valkey's issue 4342, fixed in Valkey 9.1.2). So its file is rewritten after such a truncation, as
    docs/operations.md asks of operators.
    """
    binary = shutil.which("redis-server")
    if binary is None:
        raise Missing("redis-server is not installed (apt-get install redis-server)")
    async with _server("redis", binary, "memory", repairs=False, env=env) as server:
        yield server


def _spawned(words: list[str | Path], env: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start a process that ignores SIGXFSZ, as Python does: a write beyond RLIMIT_FSIZE fails instead of killing it."""
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, restore_signals=False, env=env)


PLACES: dict[str, Callable[..., contextlib.AbstractAsyncContextManager[Place]]] = {
    "embedded": embedded,
    "valkey": valkey,
    "redis": redis7,
    "cluster": cluster,
    **configured.PLACES,
}
