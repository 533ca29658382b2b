"""A primary and a replica for one test: real servers on loopback that it can stop, continue and kill."""

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import redis

from playhead.storage.embedded.valkey import server_binary
from tests.missing import program
from tests.ports import free_port

PATIENCE_S = 20.0


def binary(kind: str) -> str:
    """The server of a kind: `valkey`, which has WAITAOF, or Debian's `redis7`, which has only WAIT."""
    return str(server_binary()) if kind == "valkey" else program("redis-server")


class Node:
    """One server; `options` are its command-line options."""

    def __init__(self, kind: str, directory: Path, *options: str | Path) -> None:
        directory.mkdir()
        self.url = f"unix://{directory}/s"
        self._command = [binary(kind), "--unixsocket", directory / "s", "--dir", directory, "--save", "", *options]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        self.until(lambda client: bool(client.ping()))

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE_S)
            self._process = None

    def until(self, holds: Callable[["redis.Redis"], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        with redis.Redis.from_url(self.url) as client:
            while True:
                with contextlib.suppress(redis.ConnectionError, redis.BusyLoadingError):
                    if holds(client):
                        return
                assert time.monotonic() < deadline, f"the condition did not hold within {PATIENCE_S:g} s"
                time.sleep(0.01)


class Replicated:
    """A primary and one replica of it."""

    def __init__(self, kind: str, directory: Path, disk: str = "yes") -> None:
        self.port = free_port()
        self._kind, self._directory, self._disk = kind, directory, disk
        listen = ("--bind", "127.0.0.1", "--port", str(self.port), "--repl-diskless-sync-delay", "0")
        file = ("--appendonly", disk, "--appendfsync", "always")
        self.primary = Node(kind, directory / "primary", *listen, *file)
        self.replica: Node | None = None

    @property
    def url(self) -> str:
        return self.primary.url

    def follow(self) -> Node:
        """Start the replica. When this returns it has everything in memory, and soon on its disk."""
        file = ("--appendonly", self._disk, "--appendfsync", "always")
        source = ("--port", "0", "--replicaof", f"127.0.0.1 {self.port}")
        self.replica = Node(self._kind, self._directory / "replica", *source, *file)
        self.primary.until(_has_a_replica)
        return self.replica

    def stop_replica(self) -> None:
        assert self.replica is not None
        self.replica.signal(signal.SIGSTOP)

    def continue_replica(self) -> None:
        assert self.replica is not None
        self.replica.signal(signal.SIGCONT)

    def end(self) -> None:
        for node in (self.replica, self.primary):
            if node is not None:
                node.kill()


def _has_a_replica(client: "redis.Redis") -> bool:
    return bool(client.info("replication").get("slave0", {}).get("state") == "online")


@contextlib.contextmanager
def replicated(kind: str, directory: Path, disk: str = "yes") -> Iterator[Replicated]:
    """Run a primary; `follow` starts its replica."""
    store = Replicated(kind, directory, disk)
    try:
        yield store
    finally:
        store.end()
