"""Stores as the documents describe them, with the ACL files of examples/: real servers that tests stop and start."""

import contextlib
import functools
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis

from tests.clustered import PRIMARIES, ClusterServers, Member, Secure, rewriting
from tests.configurations import CONFIGURATIONS, Configuration, Kind
from tests.ports import free_ports
from tests.replicated import binary
from tests.storage.authority import Authority, tls
from tests.storage.own_store import read_example

PATIENCE_S = 30.0
DOWN_AFTER_MS = 2_000
SINCE_7_2 = " +waitaof +client|setinfo"
"""Rules that SECURITY.md says to append for newer stores; Redis 7.0 does not know them and would refuse to start."""
SERVICE = "sentinels-name-it"
ADMIN = "admin"
"""The tests' own user, besides the users of examples/: it promotes replicas, rewrites files and reads states."""
SHIPPED = ("playhead", "playhead-operator", "playhead-replica", "playhead-sentinel")
"""The files of examples/ that a server's ACL file is made of; a sentinel's is made of sentinel.acl."""
PASSWORDS = {
    "playhead": "a-Pass:w0rd@/%",
    "playhead-operator": "operators-password",
    "playhead-replica": "replicas-password",
    "playhead-sentinel": "sentinels-password",
    ADMIN: "admins-password",
}
SLOT_MIGRATION_RULES = " ~* +@write +select +multi +exec +cluster|syncslots"
"""Rules that SECURITY.md says to append to the replicas' user where Valkey migrates slots."""


class Server:
    """One server process. Tests reach it by its unix socket."""

    def __init__(self, kind: Kind, directory: Path, arguments: list[str | Path], users: bool) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        login = f"{ADMIN}:{PASSWORDS[ADMIN]}@" if users else ""
        self.socket = f"unix://{login}{directory}/s"
        self._command = [binary(kind), *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Start it, and wait until it has loaded its data and answers. It ignores SIGXFSZ, as `Member.start` says."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, restore_signals=False)
        self.until(lambda client: bool(client.ping()))

    def end(self, number: int = signal.SIGKILL) -> None:
        """End it by a signal; SIGTERM waits for a rewrite of the append-only file, as in `Member.end`."""
        if self._process is not None:
            if number == signal.SIGTERM:
                self.until(lambda client: not rewriting(client.info("persistence")))
            self._process.send_signal(number)
            self._process.wait(PATIENCE_S)
            self._process = None

    def admin(self) -> "redis.Redis":
        return redis.Redis.from_url(self.socket, socket_timeout=10)

    def until(self, holds: Callable[["redis.Redis"], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        with self.admin() as client:
            while True:
                with contextlib.suppress(redis.ConnectionError, redis.TimeoutError, redis.ResponseError):
                    if holds(client):
                        return
                assert self._process is not None
                assert self._process.poll() is None, f"the server ended: {self._log_tail()}"
                assert time.monotonic() < deadline, f"the condition did not hold in time: {self._log_tail()}"
                time.sleep(0.01)

    def _log_tail(self) -> str:
        return (self.directory / "log").read_text()[-2_000:]


def _has_rewritten(member: Member) -> bool:
    return not rewriting(member.ask("INFO", "persistence"))


class Nodes:
    """One server, or a primary and its replica, with three sentinels if the configuration has them."""

    def __init__(self, configuration: Configuration, kind: Kind, directory: Path) -> None:
        self.configuration, self.kind = configuration, kind
        self._directory = directory
        count = 1 if configuration.topology == "one" else 2
        self.ports = free_ports(count)
        self._sentinels = free_ports(3) if configuration.topology == "sentinels" else []
        self._sentinel_processes: list[subprocess.Popen[bytes]] = []
        self._authority = Authority(directory, "authority") if configuration.tls else None
        self._tls_lines = self._tls()
        self.servers = [self._server(number) for number in range(count)]
        for server in self.servers:
            server.start()
        if self._sentinels:
            self._start_sentinels()
        self.until_whole()

    @functools.cached_property
    def url(self) -> str:
        """The address that the service is given."""
        scheme = "rediss" if self._authority else "redis"
        login = f"playhead:{quote(PASSWORDS['playhead'], safe='')}@" if self.configuration.users else ""
        options = {}
        if self._authority:
            options["ssl_ca_certs"] = str(self._authority.path)
        if self.configuration.tls == "mutual" and self._authority:
            certificate, key = self._authority.issue("client")
            options |= {"ssl_certfile": str(certificate), "ssl_keyfile": str(key)}
        if self.configuration.socket:
            return f"unix://{login}{self.servers[0].directory}/s"
        if self._sentinels:
            if self.configuration.users:
                options |= {"sentinel_username": "playhead", "sentinel_password": PASSWORDS["playhead"]}
            hosts, path = ",".join(f"127.0.0.1:{port}" for port in self._sentinels), SERVICE
            scheme += "+sentinel"
        else:
            hosts, path = f"127.0.0.1:{self.ports[0]}", "0"
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in options.items())
        return f"{scheme}://{login}{hosts}/{path}" + (f"?{query}" if query else "")

    def primary(self) -> Server:
        """The server that accepts writes."""
        if len(self.servers) == 1:
            return self.servers[0]
        for server in self.servers:
            if server.is_running:
                with contextlib.suppress(redis.ConnectionError), server.admin() as client:
                    if client.info("replication")["role"] == "master":
                        return server
        raise AssertionError("no server is the primary")

    def replica(self) -> Server | None:
        """The primary's replica, or None."""
        primary = self.primary()
        return next((server for server in self.servers if server is not primary), None)

    def restart(self, number: int, replicas_too: bool = True) -> None:
        """End the primary by a signal and start it again, before sentinels would replace it; then its replica. Returns
        when both run and are in sync."""
        for victim in (self.primary(), *([self.replica()] if replicas_too else [])):
            if victim is not None:
                victim.end(number)
                victim.start()
                self.until_whole()

    def fail_over(self, number: int) -> None:
        """End the primary by a signal, and start it again as a replica when sentinels have promoted its replica."""
        assert self._sentinels, "without sentinels no replica is promoted"
        victim = self.primary()
        victim.end(number)
        until(self._has_a_primary)
        victim.start()
        self.until_whole()

    def rewrite(self) -> None:
        """Rewrite the append-only files."""
        for server in self.servers:
            with server.admin() as client:
                client.bgrewriteaof()
            server.until(lambda client: not rewriting(client.info("persistence")))

    def resync(self) -> None:
        """Restart the replica without its data, and wait until it has fetched them again."""
        replica = self.replica()
        assert replica is not None, "the configuration has no replica"
        replica.end()
        shutil.rmtree(replica.directory / "appendonlydir", ignore_errors=True)
        replica.start()
        self.until_whole()

    def until_whole(self) -> None:
        """Wait for a primary, a replica in sync with it, and three sentinels that see both."""
        until(self._is_whole)

    def end(self) -> None:
        for process in self._sentinel_processes:
            process.kill()
            process.wait(PATIENCE_S)
        for server in self.servers:
            server.end()

    def _server(self, number: int) -> Server:
        configuration, port = self.configuration, self.ports[number]
        directory = self._directory / f"node{number}"
        directory.mkdir(parents=True)
        lines = ["bind 127.0.0.1", f"unixsocket {directory}/s", f"dir {directory}", "repl-diskless-sync-delay 0"]
        lines += [f"{'port 0' + chr(10) + 'tls-port' if configuration.tls else 'port'} {port}", *self._tls_lines]
        if configuration.file == "no":
            lines += ["appendonly no", "save 3600 1"]
        else:
            lines += ["appendonly yes", f"appendfsync {configuration.file}", 'save ""']
        if configuration.users:
            lines += [f"aclfile {write_acl_file(directory, self.kind)}"]
            lines += ["masteruser playhead-replica", f"masterauth {PASSWORDS['playhead-replica']}"]
        if number:
            lines += [f"replicaof 127.0.0.1 {self.ports[0]}"]
        path = directory / "node.conf"
        path.write_text("\n".join(lines) + "\n")
        return Server(self.kind, directory, [path], configuration.users)

    def _tls(self) -> list[str]:
        if self._authority is None:
            return []
        clients = "yes" if self.configuration.tls == "mutual" else "no"
        words = iter(map(str, tls(self._authority, 0, "127.0.0.1", clients=clients)[2:]))
        return [f"{name[2:]} {value}" for name, value in zip(words, words, strict=True)] + ["tls-replication yes"]

    def _start_sentinels(self) -> None:
        for port in self._sentinels:
            directory = self._directory / f"sentinel{port}"
            directory.mkdir()
            lines = ["bind 127.0.0.1", f"{'port 0' + chr(10) + 'tls-port' if self._authority else 'port'} {port}"]
            lines += [f"dir {directory}", f"unixsocket {directory}/s", *self._tls_lines]
            lines += [f"sentinel monitor {SERVICE} 127.0.0.1 {self.ports[0]} 2"]
            lines += [f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}"]
            lines += [f"sentinel failover-timeout {SERVICE} 2000"]
            if self.configuration.users:
                lines += [f"sentinel auth-user {SERVICE} playhead-sentinel"]
                lines += [f"sentinel auth-pass {SERVICE} {PASSWORDS['playhead-sentinel']}"]
                users = [read_example("sentinel", "playhead").replace("CHANGE-ME", PASSWORDS["playhead"]).strip()]
                users += [f"user {ADMIN} on >{PASSWORDS[ADMIN]} ~* &* +@all"]
                (directory / "users.acl").write_text("\n".join(users) + "\n")
                lines += [f"aclfile {directory}/users.acl"]
                lines += [f"sentinel sentinel-user {ADMIN}", f"sentinel sentinel-pass {PASSWORDS[ADMIN]}"]
            (directory / "sentinel.conf").write_text("\n".join(lines) + "\n")
            with (directory / "log").open("ab") as log:
                command = [str(binary(self.kind)), str(directory / "sentinel.conf"), "--sentinel"]
                self._sentinel_processes.append(subprocess.Popen(command, stdout=log, stderr=log))

    def _is_whole(self) -> bool:
        for server in self.servers:
            if not server.is_running:
                return False
        roles = []
        for server in self.servers:
            with server.admin() as client:
                roles.append(client.info("replication"))
        primaries = [role for role in roles if role["role"] == "master"]
        if len(primaries) != 1 or any(r["role"] != "master" and r["master_link_status"] != "up" for r in roles):
            return False
        if len(roles) > 1 and primaries[0].get("slave0", {}).get("state") != "online":
            return False
        return all(self._sees_all(port) for port in self._sentinels)

    def _sees_all(self, port: int) -> bool:
        state = self._sentinel(port)
        (primary,) = [number for number, server in enumerate(self.servers) if server is self.primary()]
        agrees = state["port"] == self.ports[primary] and state["num-other-sentinels"] == 2
        return bool(agrees and state["num-slaves"] == 1 and not state["is_sdown"] and not state["is_odown"])

    def _has_a_primary(self) -> bool:
        running = [number for number, server in enumerate(self.servers) if server.is_running]
        return any(self._sentinel(self._sentinels[0])["port"] == self.ports[n] for n in running) and bool(
            self.primary()
        )

    def _sentinel(self, port: int) -> dict[str, Any]:
        login = f"{ADMIN}:{PASSWORDS[ADMIN]}@" if self.configuration.users else ""
        with redis.Redis.from_url(f"unix://{login}{self._directory}/sentinel{port}/s", socket_timeout=10) as client:
            return dict(client.sentinel_master(SERVICE))


class Cluster:
    """Three primaries with a replica each."""

    def __init__(self, configuration: Configuration, kind: Kind, directory: Path) -> None:
        self.configuration, self.kind = configuration, kind
        secure, self._authority, options = None, None, ["--appendonly", "yes", "--appendfsync", configuration.file]
        if configuration.tls:
            self._authority = Authority(directory, "authority")
            secure = Secure(binary(kind), self._authority.path, tls(self._authority, 0, "127.0.0.1")[2:])
        login = {}
        if configuration.users:
            options += ["--aclfile", str(write_acl_file(directory, kind)), "--masteruser", "playhead-replica"]
            options += ["--masterauth", PASSWORDS["playhead-replica"]]
            login = {"username": ADMIN, "password": PASSWORDS[ADMIN]}
        self.members = ClusterServers(directory, *options, secure=secure, binary=binary(kind), login=login)
        self.members.form()

    @property
    def url(self) -> str:
        url = self.members.url
        if self.configuration.users:
            url = url.replace("://", f"://playhead:{quote(PASSWORDS['playhead'], safe='')}@")
        if self._authority:
            url = f"{url.replace('redis+', 'rediss+')}?ssl_ca_certs={quote(str(self._authority.path), safe='')}"
        return url

    def restart(self, number: int, replicas_too: bool = True) -> None:
        """End each primary by a signal and start it again, one after another; then each replica."""
        for member in [*self.members.primaries(), *(self.members.replicas() if replicas_too else [])]:
            member.end(number)
            member.start()
            self.members.heal()

    def allow_slot_migration(self) -> None:
        """Give the replicas' user the rules that the documents name for slot migration."""
        for member in self.members.members:
            member.ask("ACL", "SETUSER", "playhead-replica", *SLOT_MIGRATION_RULES.split())

    def fail_over(self, number: int) -> None:
        """End a primary by a signal, and start it again when its replica has taken over."""
        victim = self.members.primaries()[0]
        victim.end(number)
        others = [member for member in self.members.members if member is not victim]
        until(lambda: sum(member.replication()["role"] == "master" for member in others) == PRIMARIES)
        self.members.heal()

    def rewrite(self) -> None:
        for member in self.members.members:
            member.ask("BGREWRITEAOF")
            until(functools.partial(_has_rewritten, member))

    def resync(self) -> None:
        for member in self.members.replicas():
            member.kill()
            shutil.rmtree(member.directory / "appendonlydir", ignore_errors=True)
            member.start()
            self.members.heal()

    def until_whole(self) -> None:
        self.members.heal()

    def end(self) -> None:
        self.members.end()


Stores = Nodes | Cluster


def write_acl_file(directory: Path, kind: Kind) -> Path:
    """Write an ACL file of the files in examples/, with passwords, the rules that the documents add for a store with
    WAITAOF, and the tests' own user."""
    lines = []
    for name in SHIPPED:
        text = read_example(name).replace("CHANGE-ME", PASSWORDS[name]).rstrip("\n")
        lines.append(text + (SINCE_7_2 if kind == "valkey" and name in ("playhead", "playhead-operator") else ""))
    lines.append(f"user {ADMIN} on >{PASSWORDS[ADMIN]} ~* &* +@all")
    path = directory / "users.acl"
    path.write_text("\n".join(lines) + "\n")
    return path


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(redis.ConnectionError, redis.TimeoutError, redis.ResponseError, AssertionError):
            if holds():
                return
        assert time.monotonic() < deadline, f"the condition did not hold within {PATIENCE_S:g} s"
        time.sleep(0.02)


@contextlib.contextmanager
def configured(name: str, kind: Kind, directory: Path) -> Iterator[Stores]:
    """Run a store of this configuration, and wait until it is whole."""
    configuration = CONFIGURATIONS[name]
    make = Cluster if configuration.topology == "cluster" else Nodes
    stores: Stores = make(configuration, kind, directory)
    try:
        yield stores
    finally:
        stores.end()
