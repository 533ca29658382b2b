"""A cluster on loopback: three primaries with a replica each, real servers that may be stopped and killed."""

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
    """Servers that speak nothing but TLS, to each other as well."""

    binary: str
    """One that can; the embedded Valkey can't."""
    authority: Path
    """The certificate of who has signed theirs."""
    options: tuple[str | Path, ...]
    """That name it, theirs and its key."""


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
        """More in that of its process, from its next start on."""
        self.start()

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.announced}"

    def announce(self, port: int) -> None:
        """Tell everybody to come there instead, where something carries to us; but for the other nodes' own talk."""
        self.announced = port
        said = {"cluster-announce-port": port, "cluster-announce-bus-port": self.port + BUS}
        for name, value in said.items():
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
        """As Python ignores it, so does it: SIGXFSZ, that a write beyond RLIMIT_FSIZE fails and does not kill."""
        env = os.environ | self.environment
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, restore_signals=False, env=env)

    def kill(self) -> None:
        """At once, as kill -9 does it."""
        self.end(signal.SIGKILL)

    def end(self, number: int) -> None:
        """By a signal. Returns when it is gone. One that writes its first append-only file, as a replica does once it
        is in sync, would not end by SIGTERM."""
        if self._process is not None:
            if number == signal.SIGTERM:
                until(lambda: not rewriting(self.ask("INFO", "persistence")))
            self._process.send_signal(number)
            self._process.wait(PATIENCE_S)
            self._process = None

    def stop(self) -> None:
        """It takes connections and answers nobody."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def ask(self, *command: str | int) -> Any:
        patient: dict[str, Any] = {"retry": Retry(NoBackoff(), 3), "socket_timeout": PATIENCE_S, **self._reached}
        with redis.Redis(host="127.0.0.1", port=self.port, **patient) as client:
            return client.execute_command(*command)

    def login(self) -> tuple[str, ...]:
        """What MIGRATE needs to be let in where there are users."""
        user = self._reached.get("username")
        return () if user is None else ("AUTH2", user, self._reached["password"])

    def replication(self) -> dict[str, Any]:
        """What it says of its role."""
        return dict(self.ask("INFO", "replication"))

    def id(self) -> str:
        answer = self.ask("CLUSTER", "MYID")
        return answer.decode() if isinstance(answer, bytes) else str(answer)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)


class ClusterServers:
    """The members; the first three are primaries when it begins."""

    def __init__(
        self,
        directory: Path,
        *options: str,
        secure: Secure | None = None,
        binary: str | Path | None = None,
        login: Mapping[str, str] | None = None,
    ) -> None:
        """Args:
        binary: of the servers, where it is not the embedded Valkey.
        login: user and password of who forms the cluster.
        """
        ports = free_ports(2 * PRIMARIES)
        more: dict[str, Any] = {"secure": secure, "binary": binary, "login": login}
        self.members = [Member(directory / str(port), port, *options, **more) for port in ports]

    @property
    def url(self) -> str:
        """In the clear."""
        return f"redis+cluster://{','.join(member.name for member in self.members)}"

    def form(self, announced: Mapping[int, int] | None = None) -> None:
        """Make one cluster of them, and wait until it is whole. `announced`: by port, where each is to be come to."""
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
            until(lambda: identity in str(replica.ask("CLUSTER", "NODES")))  # noqa: B023 called at once
            replica.ask("CLUSTER", "REPLICATE", identity)
        self.heal()

    def heal(self) -> None:
        """Start whatever was killed, and wait until every primary has its replica again."""
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
        slot = int(self._anybody().ask("CLUSTER", "KEYSLOT", key))
        for start, end, (_, port, *_), *_ in self._anybody().ask("CLUSTER", "SLOTS"):
            if start <= slot <= end:
                return next(member for member in self.members if member.announced == port)
        raise AssertionError("nobody has the slot")

    def replica_of(self, member: Member) -> Member:
        identity = member.id()
        for line in str(member.ask("CLUSTER", "REPLICAS", identity)).split("'"):
            for other in self.members:
                if f":{other.announced}@" in line:
                    return other
        raise AssertionError("it has no replica")

    def end(self) -> None:
        for member in self.members:
            member.kill()

    def is_covered(self) -> bool:
        """Whether each that runs takes every slot for served."""
        running = [member for member in self.members if member.is_running]
        return all(b"cluster_state:ok" in member.ask("CLUSTER", "INFO") for member in running)

    def _anybody(self) -> Member:
        return next(member for member in self.members if member.is_running)

    def _is_whole(self) -> bool:
        roles = [member.replication() for member in self.members]
        tied = [role["role"] == "master" or role["master_link_status"] == "up" for role in roles]
        primaries = [role for role in roles if role["role"] == "master"]
        followed = [role.get("slave0", {}).get("state") == "online" for role in primaries]
        return self.is_covered() and len(primaries) == PRIMARIES and all(tied) and all(followed)


def rewriting(persistence: Mapping[str, Any]) -> bool:
    """Whether a server writes its append-only file anew, by what it says of its persistence."""
    return bool(persistence["aof_rewrite_in_progress"] or persistence["aof_rewrite_scheduled"])


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(redis.ConnectionError, redis.BusyLoadingError, redis.ResponseError):
            if holds():
                return
        assert time.monotonic() < deadline, "it does not come to that"
        time.sleep(0.02)


@contextlib.contextmanager
def clustered(directory: Path, *options: str, secure: Secure | None = None) -> Iterator[ClusterServers]:
    """A cluster; `options` are those of each server."""
    servers = ClusterServers(directory, *options, secure=secure)
    try:
        servers.form()
        yield servers
    finally:
        servers.end()


def by_keys(source: Member, target: Member, slot: int) -> Iterator[None]:
    """As `redis-cli --cluster reshard` moves one: key by key, while it is served."""
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
    """As Valkey 9 moves one."""
    source.ask("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target.id())
    yield


async def everywhere(store: Store, *command: str) -> list[Any]:
    """A command to each primary of a store, of whatever kind it is."""
    primaries = await parts_of(store).link.primaries()
    return [await primary.redis.execute_command(*command) for primary in primaries]  # type: ignore[no-untyped-call] # redis-py has no types here
