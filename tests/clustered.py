"""A cluster on loopback: three primaries with a replica each. Tests can stop and kill these real servers."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from playhead.storage.embedded.valkey import server_binary
from playhead.storage.store import Store
from tests.inside import parts_of
from tests.ports import BUS, free_ports

PATIENCE_S = 30.0
NODE_TIMEOUT_MS = 1_000
"""How long a node may be silent before the others give its slots to its replica."""
PRIMARIES = 3
SLOTS = 16_384


@dataclass(frozen=True, slots=True)
class Secure:
    """How to start servers that accept TLS connections only, from each other as well."""

    binary: str
    """A server that is built with TLS; the embedded Valkey is not."""
    authority: Path
    """The certificate of the authority that has signed the servers' certificates."""
    options: tuple[str | Path, ...]
    """Server options that name both certificates and the key."""


class Member:
    """One server of a cluster."""

    def __init__(
        self,
        directory: Path,
        port: int,
        *options: str,
        secure: Secure | None = None,
        binary: str | Path | None = None,
        login: Mapping[str, str] | None = None,
    ) -> None:
        directory.mkdir(parents=True)
        self.directory = directory
        self.port = self.announced = port
        binary, listen = binary or server_binary(), ["--port", str(port)]
        self._reached: dict[str, Any] = dict(login or {})
        if secure is not None:
            binary = secure.binary
            self._reached |= {"ssl": True, "ssl_ca_certs": str(secure.authority)}
            listen = ["--port", "0", "--tls-port", str(port), "--tls-cluster", "yes", "--tls-replication", "yes"]
            options = (*options, *map(str, secure.options))
        self._command: list[str | Path] = [
            *(binary, "--bind", "127.0.0.1", *listen, "--dir", directory, "--save", ""),
            *("--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS)),
            *("--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0"),
            *options,
        ]
        self._log = directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self.environment: Mapping[str, str] = {}
        """Variables that are added to the environment of its process when it is next started."""
        self.start()

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.announced}"

    def announce(self, port: int) -> None:
        """Announce the port of a relay to clients; the other nodes still use the server's own bus port."""
        self.announced = port
        announcements = {"cluster-announce-port": port, "cluster-announce-bus-port": self.port + BUS}
        for name, value in announcements.items():
            self.ask("CONFIG", "SET", name, value)
            self._command += [f"--{name}", str(value)]

    @property
    def is_running(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the process. Like Python, it ignores SIGXFSZ: a write beyond RLIMIT_FSIZE then fails
        and does not kill the server."""
        env = os.environ | self.environment
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, restore_signals=False, env=env)

    def kill(self) -> None:
        """End it as kill -9 does."""
        self.end(signal.SIGKILL)

    def end(self, number: int) -> None:
        """End it by a signal, and wait until the process is gone. SIGTERM is sent only after a rewrite of the
        append-only file, because a server ignores it during its first one, as a replica makes after its sync."""
        if self._process is not None:
            if number == signal.SIGTERM:
                until(lambda: not rewriting(self.ask("INFO", "persistence")))
            self._process.send_signal(number)
            self._process.wait(PATIENCE_S)
            self._process = None

    def stop(self) -> None:
        """Suspend it: it accepts connections and answers nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def ask(self, *command: str | int) -> Any:
        patient: dict[str, Any] = {"retry": Retry(NoBackoff(), 3), "socket_timeout": PATIENCE_S, **self._reached}
        with redis.Redis(host="127.0.0.1", port=self.port, **patient) as client:
            return client.execute_command(*command)

    def login(self) -> tuple[str, ...]:
        """The arguments by which MIGRATE authenticates where the servers have users."""
        user = self._reached.get("username")
        return () if user is None else ("AUTH2", user, self._reached["password"])

    def replication(self) -> dict[str, Any]:
        """Its role, and the state of its replication, by INFO."""
        return dict(self.ask("INFO", "replication"))

    def id(self) -> str:
        answer = self.ask("CLUSTER", "MYID")
        return answer.decode() if isinstance(answer, bytes) else str(answer)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)


class ClusterServers:
    """The servers of a cluster; at first the first three are the primaries."""

    def __init__(
        self,
        directory: Path,
        *options: str,
        secure: Secure | None = None,
        binary: str | Path | None = None,
        login: Mapping[str, str] | None = None,
    ) -> None:
        """Args:
        binary: the server to run instead of the embedded Valkey.
        login: user and password of the connections that form the cluster.
        """
        ports = free_ports(2 * PRIMARIES)
        more: dict[str, Any] = {"secure": secure, "binary": binary, "login": login}
        self.members = [Member(directory / str(port), port, *options, **more) for port in ports]

    @property
    def url(self) -> str:
        """The address without TLS."""
        return f"redis+cluster://{','.join(member.name for member in self.members)}"

    def form(self, announced: Mapping[int, int] | None = None) -> None:
        """Make one cluster of them, and wait until it is whole. `announced`: by port, the port that it announces."""
        for number, member in enumerate(self.members):
            until(lambda member=member: bool(member.ask("PING")))  # type: ignore[misc]
            if announced is not None:
                member.announce(announced[member.port])
            member.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        share = -(-SLOTS // PRIMARIES)
        primaries, replicas = self.members[:PRIMARIES], self.members[PRIMARIES:]
        for number, member in enumerate(primaries):
            member.ask("CLUSTER", "ADDSLOTSRANGE", number * share, min(SLOTS, (number + 1) * share) - 1)
        for member in self.members[1:]:
            primaries[0].ask("CLUSTER", "MEET", "127.0.0.1", member.port)
        for primary, replica in zip(primaries, replicas, strict=True):
            identity = primary.id()
            until(lambda: identity in str(replica.ask("CLUSTER", "NODES")))  # noqa: B023 it is called in this iteration
            replica.ask("CLUSTER", "REPLICATE", identity)
        self.heal()

    def heal(self) -> None:
        """Start the servers that were killed, and wait until every primary has its replica again."""
        for member in self.members:
            if not member.is_running:
                member.start()
        until(self._is_whole)

    def primaries(self) -> list[Member]:
        running = [member for member in self.members if member.is_running]
        return [member for member in running if member.replication()["role"] == "master"]

    def replicas(self) -> list[Member]:
        primaries = self.primaries()
        return [member for member in self.members if member.is_running and member not in primaries]

    def primary_of(self, key: str) -> Member:
        slot = int(self._running_member().ask("CLUSTER", "KEYSLOT", key))
        for start, end, (_, port, *_), *_ in self._running_member().ask("CLUSTER", "SLOTS"):
            if start <= slot <= end:
                return next(member for member in self.members if member.announced == port)
        raise AssertionError(f"no member has slot {slot}")

    def replica_of(self, member: Member) -> Member:
        identity = member.id()
        for line in str(member.ask("CLUSTER", "REPLICAS", identity)).split("'"):
            for other in self.members:
                if f":{other.announced}@" in line:
                    return other
        raise AssertionError(f"{member.name} has no replica")

    def end(self) -> None:
        for member in self.members:
            member.kill()

    def is_covered(self) -> bool:
        """Whether every running server considers all slots served."""
        running = [member for member in self.members if member.is_running]
        return all(b"cluster_state:ok" in member.ask("CLUSTER", "INFO") for member in running)

    def _running_member(self) -> Member:
        return next(member for member in self.members if member.is_running)

    def _is_whole(self) -> bool:
        roles = [member.replication() for member in self.members]
        linked = [role["role"] == "master" or role["master_link_status"] == "up" for role in roles]
        primaries = [role for role in roles if role["role"] == "master"]
        replicated = [role.get("slave0", {}).get("state") == "online" for role in primaries]
        return self.is_covered() and len(primaries) == PRIMARIES and all(linked) and all(replicated)


def rewriting(persistence: Mapping[str, Any]) -> bool:
    """Whether a server is rewriting its append-only file, or is about to, by INFO persistence."""
    return bool(persistence["aof_rewrite_in_progress"] or persistence["aof_rewrite_scheduled"])


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(redis.ConnectionError, redis.BusyLoadingError, redis.ResponseError):
            if holds():
                return
        assert time.monotonic() < deadline, f"the condition did not hold within {PATIENCE_S:g} s"
        time.sleep(0.02)


@contextlib.contextmanager
def clustered(directory: Path, *options: str, secure: Secure | None = None) -> Iterator[ClusterServers]:
    """Run a cluster; `options` are those of each server."""
    servers = ClusterServers(directory, *options, secure=secure)
    try:
        servers.form()
        yield servers
    finally:
        servers.end()


def by_keys(source: Member, target: Member, slot: int) -> Iterator[None]:
    """Move a slot as `redis-cli --cluster reshard` does: key by key, while it is served. Yields after each step."""
    target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id())
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id())
    yield
    while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 1):
        source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5_000, *source.login(), "KEYS", *keys)
        yield
    for member in (target, source):
        member.ask("CLUSTER", "SETSLOT", slot, "NODE", target.id())
    yield


def at_once(source: Member, target: Member, slot: int) -> Iterator[None]:
    """Move a slot as a whole, as Valkey 9 can."""
    source.ask("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target.id())
    yield


async def everywhere(store: Store, *command: str) -> list[Any]:
    """Send a command to each primary of a store; a store without a cluster has one."""
    primaries = await parts_of(store).link.primaries()
    return [await primary.redis.execute_command(*command) for primary in primaries]  # type: ignore[no-untyped-call] # redis-py has no types here
