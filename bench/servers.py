"""Starts the service and its peers, each with its own embedded Valkey, configured as for the service."""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote

import redis

from bench.processes import ROOT, START_S, Failed, await_port, cpu_s, python, running
from playhead.storage.embedded.valkey import HASHES, server_binary
from playhead.storage.store import EmbeddedValkey, Level
from tests.clustered import clustered
from tests.ports import free_port

UNBOUND = {
    "MAX_CONNECTIONS": "30000",
    "MAX_CONNECTIONS_PER_ADDRESS": "30000",
    "HELLOS_PER_S": "100000",
    "HELLOS_BURST": "100000",
    "FRAMES_PER_S": "1000",
    "FRAMES_BURST": "10000",
    "REQUESTS_PER_S": "1000000",
    "REQUESTS_BURST": "1000000",
    "ADDRESS_REQUESTS_PER_S": "1000000",
    "ADDRESS_REQUESTS_BURST": "1000000",
}
"""Raised limits that a load from one address by one generator would reach; everything else has its default."""
NODE_HOME = ROOT / ".cache" / "bench-node"


class Unavailable(Exception):
    """A requirement of a peer is missing on this machine."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server and its store."""

    port: int
    pid: int
    store: EmbeddedValkey | None
    primaries: tuple[int, ...] = ()
    """The pids of the primaries, if the store is a cluster."""

    def cpu_s(self) -> tuple[float, float]:
        """CPU time of server and store so far; of a cluster, the sum of its primaries without replicas."""
        return cpu_s(self.pid), sum(map(cpu_s, (self.store.pid,) if self.store else self.primaries))


Start = Callable[[], contextlib.AbstractContextManager[Server]]


@contextlib.contextmanager
def store(fsync: bool = True) -> Iterator[tuple[EmbeddedValkey, Path]]:
    """Run a store whose directory is removed with the block. fsync: sync each write, as is the service's default."""
    with (
        TemporaryDirectory(prefix="playhead-bench-") as work,
        EmbeddedValkey(Path(work) / "data", fsync=fsync) as valkey,
    ):
        yield valkey, Path(work)


@contextlib.contextmanager
def playhead(durability: str = "fsync", **settings: str) -> Iterator[Server]:
    """Run `playhead serve` with one worker; `settings` have the names of the environment variables without prefix."""
    with (
        store(fsync=durability != "memory") as (valkey, work),
        _replicas(valkey, work, durability),
        _serving(work / "server.log", valkey.url, "--durability", durability, **settings) as (port, pid),
    ):
        yield Server(port, pid, valkey)


@contextlib.contextmanager
def playhead_on_cluster(**settings: str) -> Iterator[Server]:
    """The same with a cluster of three primaries with one replica each, all on this machine."""
    with (
        TemporaryDirectory(prefix="playhead-bench-") as work,
        clustered(Path(work) / "cluster", "--appendonly", "yes", "--appendfsync", "always", *HASHES) as cluster,
        _serving(Path(work) / "server.log", cluster.url, **settings) as (port, pid),
    ):
        yield Server(port, pid, None, tuple(primary.pid for primary in cluster.primaries()))


@contextlib.contextmanager
def _serving(log: Path, url: str, *options: str, **settings: str) -> Iterator[tuple[int, int]]:
    """The service's port and pid."""
    port = free_port()
    env = {f"PLAYHEAD_{name}": value for name, value in {**UNBOUND, **settings}.items()}
    command = python("server", "serve", "--port", str(port), "--redis-url", url, *options)
    with running(command, log, env) as process:
        assert process.stdout is not None  # noqa: S101 asked for
        if not process.stdout.readline().startswith("Playhead is ready"):
            raise Failed(f"the service did not start: {log.read_text()[-500:]}")
        yield port, process.pid


@contextlib.contextmanager
def _replicas(valkey: EmbeddedValkey, work: Path, durability: str) -> Iterator[None]:
    """Run as many replicas as the level needs, in sync when the block starts. The store gets a port on loopback."""
    wanted = Level.parse(durability).replicas
    if not wanted:
        yield
        return
    with contextlib.ExitStack() as stack, redis.Redis.from_url(valkey.url) as primary:
        port = free_port()
        for name, value in (("bind", "127.0.0.1"), ("port", port), ("repl-diskless-sync-delay", 0)):
            primary.config_set(name, value)
        for n in range(wanted):
            home = work / f"replica{n}"
            home.mkdir()
            command = [str(server_binary()), "--port", "0", "--unixsocket", str(home / "s"), "--dir", str(home)]
            command += ["--save", "", "--appendonly", "yes", "--appendfsync", "always"]
            stack.enter_context(running([*command, "--replicaof", f"127.0.0.1 {port}"], work / f"replica{n}.log"))
        deadline = time.monotonic() + START_S
        primary.incr("in-sync")
        while primary.waitaof(1, wanted, 500)[1] < wanted:
            if time.monotonic() > deadline:
                raise Failed("the replicas of the store do not get in sync")
        yield


@contextlib.contextmanager
def bare() -> Iterator[Server]:
    with TemporaryDirectory(prefix="playhead-bench-") as work, _peer("bare", Path(work)) as server:
        yield server


@contextlib.contextmanager
def direct() -> Iterator[Server]:
    with TemporaryDirectory(prefix="playhead-bench-") as work, _peer("direct", Path(work)) as server:
        yield server


@contextlib.contextmanager
def picows() -> Iterator[Server]:
    with TemporaryDirectory(prefix="playhead-bench-") as work, _peer("picows_server", Path(work)) as server:
        yield server


@contextlib.contextmanager
def naive() -> Iterator[Server]:
    with store() as (valkey, work), _peer("naive", work, valkey) as server:
        yield server


@contextlib.contextmanager
def socketio() -> Iterator[Server]:
    with store() as (valkey, work), _peer("socketio_server", work, valkey) as server:
        yield server


@contextlib.contextmanager
def node() -> Iterator[Server]:
    """Run the Node peer. Raises Unavailable: there is no Node, or npm could not install its packages."""
    _install_node()
    with store() as (valkey, work):
        port, log = free_port(), work / "server.log"
        path = unquote(valkey.url.removeprefix("unix://"))
        command = ["node", str(ROOT / "bench" / "node" / "server.js"), str(port), path]
        env = {"NODE_PATH": str(NODE_HOME / "node_modules"), "NODE_ENV": "production"}
        with running(command, log, env) as process:
            await_port(port, process, log)
            yield Server(port, process.pid, valkey)


@contextlib.contextmanager
def _peer(module: str, work: Path, valkey: EmbeddedValkey | None = None) -> Iterator[Server]:
    port, log = free_port(), work / "server.log"
    arguments = ["--port", str(port), *(["--store", valkey.url] if valkey else [])]
    with running(python(f"bench.peers.{module}", *arguments), log) as process:
        await_port(port, process, log)
        yield Server(port, process.pid, valkey)


def _install_node() -> None:
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise Unavailable("there is no Node on this machine")
    if (NODE_HOME / "node_modules" / "ioredis").is_dir():
        return
    NODE_HOME.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "bench" / "node" / "package.json", NODE_HOME)
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
    done = subprocess.run(command, cwd=NODE_HOME, env=os.environ, capture_output=True, text=True, timeout=180)
    if done.returncode:
        raise Unavailable(f"npm could not install ws and ioredis: {done.stderr[-300:]}")
