"""A store of the operator's own: reached by TLS only, by a user with few rights, and what is told of its weaknesses."""

import asyncio
import contextlib
import os
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from websockets.exceptions import ConnectionClosed

from storage.embedded import _binary
from storage.keys import Keys
from storage.posture import concerns
from storage.rebuild import Rebuild
from storage.store import Store, StoreUnavailable
from storage.transfer import Export, Import
from tests.clustered import Secure, by_keys, clustered
from tests.conftest import _await_answer
from tests.device import device
from tests.ports import free_port
from tests.rest import ok, rest
from tests.server.program import refused
from tests.serving import Running, serving
from tests.storage.test_cluster import LEARNERS, batch, commit

PATIENCE_S = 20
PASSWORD = "Pass:w0rd@/%"
ACL = (Path(__file__).parents[2] / "examples" / "playhead.acl").read_text()
SINCE_7_2 = " +waitaof +client|setinfo"
"""What the ACL file says nothing of, because Redis 7.0 would refuse to start with names it does not know."""


def binary(kind: str) -> str:
    """redis7: Debian's, with TLS. valkey: the embedded one, without."""
    if kind == "valkey":
        return str(_binary())
    found = shutil.which("redis-server")
    if found is None:
        reason = "redis-server is not installed (apt-get install redis-server)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@contextlib.contextmanager
def running(kind: str, directory: Path, url: str, *options: str | Path) -> Iterator[None]:
    """A server of the test's own, from when `url` is answered."""
    command = [binary(kind), "--port", "0", "--dir", directory, *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _await_answer(process, url)
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


@contextlib.asynccontextmanager
async def opened(url: str, **more: Any) -> AsyncIterator[Store]:
    store = Store(url, worker=uuid4().hex, **more)
    try:
        yield store
    finally:
        await store.close()


# TLS


class Authority:
    """Issues certificates that a day later are worth nothing."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = self._builder(self._name, self._key.public_key(), x509.BasicConstraints(ca=True, path_length=0))
        self.path = directory / f"{name}.pem"
        self.path.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, *hosts: str) -> tuple[Path, Path]:
        """Paths of a certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = [x509.IPAddress(ip_address(host)) if host[0].isdigit() else x509.DNSName(host) for host in hosts]
        builder = self._builder(subject, key.public_key(), x509.BasicConstraints(ca=False, path_length=None))
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate, private = self._directory / f"{name}.crt", self._directory / f"{name}.key"
        certificate.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate, private

    def _builder(
        self, subject: x509.Name, public: ec.EllipticCurvePublicKey, constraints: x509.BasicConstraints
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(constraints, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(authority, critical=False)
        )


def tls(authority: Authority, port: int, *hosts: str, clients: str = "no") -> tuple[str | Path, ...]:
    """Options of a server that speaks nothing but TLS."""
    certificate, key = authority.issue("server", *hosts)
    return (
        *("--tls-port", str(port)),
        *("--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", authority.path),
        *("--tls-auth-clients", clients),
    )


async def test_a_heartbeat_goes_to_a_store_that_speaks_only_tls(tmp_path: Path) -> None:
    """rediss:// with the authority's certificate: played, acked, read back; in the clear nothing is answered."""
    authority, port = Authority(tmp_path, "authority"), free_port()
    url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={quote(str(authority.path))}"
    with running("redis7", tmp_path, url, *tls(authority, port, "127.0.0.1")):
        async with serving(redis_url=url) as server, rest(server) as http:
            user, video = str(uuid4()), str(uuid4())
            async with device(server, user) as player:
                assert (await player.play(video, 0, 30, span=30_000))["rejected"] == []
            record = ok(await http.get(f"/progress/{user}/{video}?detail=full"))
            assert (record["seen"], record["position"]) == ([[0, 30]], 30)
            assert ok(await http.get("/readyz")) == {"status": "ready"}
        async with opened(f"redis://127.0.0.1:{port}/0", timeout_s=2) as store:
            with pytest.raises(StoreUnavailable):
                await store.check()


async def test_a_store_may_ask_for_our_certificate_too(tmp_path: Path) -> None:
    """With ssl_certfile and ssl_keyfile it lets us in, without them not."""
    authority, port = Authority(tmp_path, "authority"), free_port()
    certificate, key = authority.issue("client")
    without = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={quote(str(authority.path))}"
    url = f"{without}&ssl_certfile={quote(str(certificate))}&ssl_keyfile={quote(str(key))}"
    with running("redis7", tmp_path, url, *tls(authority, port, "127.0.0.1", clients="yes")):
        async with opened(url) as store:
            await store.check()
        async with opened(without) as store:
            with pytest.raises(StoreUnavailable):
                await store.check()


@pytest.mark.parametrize("wrong", ["authority", "host"])
async def test_a_certificate_that_proves_nothing_is_refused_in_a_sentence(tmp_path: Path, wrong: str) -> None:
    """Of an authority that is not ours, or for another host: the program says so and ends, and tells no password."""
    authority, port = Authority(tmp_path, "authority"), free_port()
    ours = Authority(tmp_path, "stranger") if wrong == "authority" else authority
    hosts = ["127.0.0.1"] if wrong == "authority" else ["store.example"]
    url = f"rediss://playhead:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/0?ssl_ca_certs={quote(str(ours.path))}"
    acl = written_acl(tmp_path)
    options = (*tls(authority, port, *hosts), "--unixsocket", tmp_path / "s", "--aclfile", acl)
    with running("redis7", tmp_path, as_playhead(tmp_path / "s"), *options):
        async with opened(url) as store:
            with pytest.raises(StoreUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
                await store.check()
        code, out, err = await refused("--port", str(free_port()), "--redis-url", url)
    assert (code, out) == (2, "")
    assert "CERTIFICATE_VERIFY_FAILED" in err
    assert "--redis-url" in err
    assert "Traceback" not in err
    assert PASSWORD not in err
    assert quote(PASSWORD, safe="") not in err


async def test_a_cluster_speaks_tls_at_every_node_that_it_names(tmp_path: Path) -> None:
    """Commits, pushes, a slot that moves and a primary that is killed; in the clear nothing is answered, and a
    stranger's certificate is refused."""
    authority = Authority(tmp_path, "authority")
    certificates = tls(authority, 0, "127.0.0.1")[2:]
    secure = Secure(binary("redis7"), authority.path, certificates)
    with clustered(tmp_path / "nodes", "--appendonly", "yes", secure=secure) as servers:
        url = servers.url.replace("redis+", "rediss+", 1)
        async with opened(f"{url}?ssl_ca_certs={quote(str(authority.path))}", timeout_s=2.0) as store:
            await store.check()
            await commit(store, batch(0))
            heard = asyncio.Queue[str]()
            listening = store.listen(lambda name, data: heard.put_nowait(name), lambda name: None)
            task = asyncio.create_task(listening.run())
            channel = store.keys.push(LEARNERS[0])
            async with asyncio.timeout(PATIENCE_S):
                await listening.want(channel).wait()
            key = store.keys.progress(LEARNERS[0])
            source = servers.primary_of(key)
            target = next(member for member in servers.primaries() if member is not source)
            for _ in by_keys(source, target, int(source.ask("CLUSTER", "KEYSLOT", key))):
                await commit(store, batch(1))
            target.kill()
            await commit(store, batch(2))
            while not heard.empty():
                heard.get_nowait()
            async with asyncio.timeout(PATIENCE_S):
                while heard.empty():  # until it is subscribed again
                    await store.announce(LEARNERS[0])
                    await asyncio.sleep(0.05)
            assert heard.get_nowait() == channel
            task.cancel()
            await asyncio.wait({task})
            assert (await store.record(LEARNERS[0], "v0")).seen == [0, 3]
        stranger = Authority(tmp_path, "stranger")
        for wrong in (servers.url, f"{url}?ssl_ca_certs={quote(str(stranger.path))}"):
            async with opened(wrong, timeout_s=2.0) as store:
                with pytest.raises(StoreUnavailable):
                    await store.check()


# The user of examples/playhead.acl


def written_acl(directory: Path, more: str = "") -> Path:
    """The example with a password, and whatever is added to the user's line, the last one."""
    assert ACL.count("CHANGE-ME") == 1
    path = directory / "users.acl"
    path.write_text(ACL.rstrip("\n").replace("CHANGE-ME", PASSWORD) + more + "\n")
    return path


def as_playhead(socket_path: Path, db: int = 0) -> str:
    return f"unix://playhead:{quote(PASSWORD, safe='')}@{quote(str(socket_path))}?db={db}"


@dataclass(frozen=True)
class Guarded:
    """A store with the users of the example, and nobody else."""

    url: str
    path: Path
    durability: str
    allowed: set[str]


@pytest.fixture(params=["redis7", "valkey", "valkey-fsync"])
def guarded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Guarded]:
    """The file as it is on both stores; on Valkey also with what durability fsync needs."""
    kind, _, fsync = request.param.partition("-")
    more = SINCE_7_2 if fsync else ""
    acl, path = written_acl(tmp_path, more), tmp_path / "store.sock"
    url = as_playhead(path, db=1)
    options = ("--unixsocket", path, "--aclfile", acl, "--appendonly", "yes" if fsync else "no")
    allowed = {word[1:] for word in acl.read_text().splitlines()[-1].split() if word.startswith("+")}
    with running(kind, tmp_path, url, *options):
        yield Guarded(url, path, fsync or "memory", allowed)


async def test_the_user_of_the_example_may_do_all_that_we_do_and_nothing_more(guarded: Guarded) -> None:
    """Every kind of request, on two processes: none of their commands is refused, and no command is allowed in vain."""
    async with opened(guarded.url, durability=guarded.durability) as store:
        by_the_server = await commands(store)  # Valkey asks itself for its configuration
        async with contextlib.AsyncExitStack() as stack:
            servers = [
                await stack.enter_async_context(serving(redis_url=guarded.url, durability=guarded.durability))
                for _ in range(2)
            ]
            await conversation(servers[0], servers[1])
        await store.check()
        await unsubscribed(store)
        turned_away = {name for name, count in (await commands(store)).items() if count["rejected_calls"]}
        assert turned_away <= {"client|setinfo"}, "redis-py names itself; it may not, without harm"
        assert not [sentence for sentence in await concerns(store) if "could not be checked" in sentence]
        used = {name for name, count in (await commands(store)).items() if count["calls"] and name not in by_the_server}
    assert guarded.allowed - by_the_server.keys() - used == set(), "allowed in vain"
    assert used <= guarded.allowed | {"auth", "hello"}, "these two are open to everybody"


async def commands(store: Store) -> dict[str, dict[str, int]]:
    """What the server has been asked, by everybody and inside scripts."""
    (stats,) = await store.run([("INFO", "commandstats")])
    return {name.removeprefix("cmdstat_"): count for name, count in stats.items()}


async def conversation(here: Running, there: Running) -> None:
    """What learners and pages do with the service."""
    user, video, by_beacon = (str(uuid4()) for _ in range(3))
    async with rest(here) as http:
        ok(await http.put(f"/videos/{video}", json={"title": "A title", "duration": 60}))
        assert ok(await http.get(f"/videos/{video}"))["duration"] == 60
        async with device(here, user) as player, device(there, user) as other:
            assert (await player.play(video, 0, 30, span=30_000))["rejected"] == []
            assert (await other.pushed(video))["seen"] == [[0, 30]]
        async with device(there, user, since=0) as back:
            assert back.records[video]["seen"] == [[0, 30]]
        item = {"videoId": video, "watchedDuration": 40, "lastWatched": "2025-11-24T10:00:00Z"}
        ok(await http.post("/progress/update", json={"userId": user, **item}))
        ok(await http.post("/progress/sync", json={"userId": user, "progressData": [item]}))
        beats = [{"seq": 1, "videoId": by_beacon, "played": [[0, 9]], "position": 9, "span": 9_000}]
        ok(await http.post("/progress/realtime", json={"userId": user, "session": "s", "heartbeats": beats}))
        assert len(ok(await http.get(f"/progress/{user}"))["progressData"]) == 2
        ok(await http.get(f"/progress/engagement/{user}"))
        assert ok(await http.get(f"/progress/summary/{video}"))["averageWatchedDuration"] == 40
        assert ok(await http.get(f"/analytics/videos/{video}"))["retention"] == [1] * 30
        ok(await http.delete(f"/progress/{user}/{video}"))
        assert ok(await http.get(f"/analytics/videos/{video}"))["viewers"] == 0
        async with device(there, user) as ended:
            ok(await http.delete(f"/sessions/{user}"))
            with pytest.raises(ConnectionClosed):
                await ended.until("never")
        assert ok(await http.get("/readyz")) == {"status": "ready"}


async def unsubscribed(store: Store) -> None:
    """As the hub does it when a learner has been gone for a while."""
    channels = store.listen(lambda name, data: None, lambda name: None)
    name = store.keys.push("u")
    task = asyncio.create_task(channels.run())
    try:
        async with asyncio.timeout(PATIENCE_S):
            await channels.want(name).wait()
            channels.drop(name)
            while (await store.run([("PUBSUB", "SHARDNUMSUB", name)]))[0][1]:  # noqa: ASYNC110 nothing tells us
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.wait({task})


OPERATORS = " +hincrby +scan +dbsize +exists +hexists +hlen +hsetnx +del +pttl"
"""What SECURITY.md says that their commands need besides."""


@pytest.mark.parametrize("kind", ["redis7", "valkey"])
async def test_the_commands_of_operators_need_what_is_said_and_no_more(kind: str, tmp_path: Path) -> None:
    """Rebuild with something to mend and learners who play on, export and import, by that user: nothing is refused."""
    assert f"`{OPERATORS.strip()}`" in (Path(__file__).parents[2] / "SECURITY.md").read_text()
    url = as_playhead(tmp_path / "s")
    with running(kind, tmp_path, url, "--unixsocket", tmp_path / "s", "--aclfile", written_acl(tmp_path, OPERATORS)):
        async with opened(url) as store, serving(redis_url=url) as server:
            user, video = str(uuid4()), str(uuid4())
            async with rest(server) as http, device(server, user) as player:
                ok(await http.put(f"/videos/{video}", json={"title": "A title", "duration": 60}))
                await player.play(video, 0, 30, span=30_000)
                summary, before = store.keys.summary(video), store.keys.before(video)
                await store.run([("HSET", before, "", "t 0"), ("HSET", summary, "recount", "t")])
                await player.play(video, 30, 40, span=30_000)
                assert await store.run([("HEXISTS", before, user)]) == [1]
            audience = store.keys.audience(video)
            await store.run([("HSET", audience, user, b"garbage"), ("HSET", audience, str(uuid4()), b"garbage")])
            found = await Rebuild(store, mend=True, grace_s=0, now=lambda: 1).run()
            assert (found.drift.total(), found.failed) == (3, {})
            lines = [line async for page in Export(store).pages(1) for line in page.lines]
            assert await Import(store, threshold_permille=900, now=lambda: 1).take(list(enumerate(lines))) == []
            await store.run([("DEL", store.keys.progress(user))])
            work = Import(store, threshold_permille=900, now=lambda: 1)
            assert (await work.take(list(enumerate(lines))), work.changed) == ([], 1)
            refused = {name for name, count in (await commands(store)).items() if count["rejected_calls"]}
            assert refused <= {"client|setinfo"}
            used = {name for name, count in (await commands(store)).items() if count["calls"]}
            assert {word[1:] for word in OPERATORS.split()} <= used


SCRIPTED = ["return redis.call('FLUSHALL')", "return redis.call('GET', KEYS[1])", "return redis.call('KEYS', '*')"]
"""EVALSHA and SCRIPT LOAD are needed, so any script can be run; but none may do more than its user."""

DENIED = [
    "FLUSHALL",
    "FLUSHDB",
    "KEYS *",
    "SCAN 0",
    "CONFIG SET save x",
    "CONFIG GET requirepass",
    "ACL LIST",
    "ACL SETUSER playhead +@all",
    "CLIENT LIST",
    "CLIENT KILL TYPE normal",
    "MONITOR",
    "REPLICAOF NO ONE",
    "SAVE",
    "SHUTDOWN NOSAVE",
    "SCRIPT FLUSH",
    "FUNCTION LIST",
    "MODULE LIST",
    "EVAL return 0",
    "DEL ph:epoch",
    "GET other:key",
    "SET other:key 1",
    "HGETALL ph2:{u00}:progress:u",
    "SPUBLISH other 1",
    "SPUBLISH ph:other 1",
    "SSUBSCRIBE other",
    "PUBLISH ph:epoch 1",
    "PSUBSCRIBE ph:*",
    "PUBSUB CHANNELS",
]


async def test_the_user_of_the_example_may_do_nothing_else(guarded: Guarded) -> None:
    """Neither by command nor inside a script; and nobody without the password may do anything."""
    with redis.Redis.from_url(guarded.url) as client:
        for command in DENIED:
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command.split())
        for script in SCRIPTED:
            with pytest.raises(redis.exceptions.ResponseError, match=r"permission|ACL|not allowed"):
                client.evalsha(client.script_load(script), 1, "other:key")
        assert client.ping()
    with redis.Redis.from_url(f"unix://{guarded.path}") as stranger, pytest.raises(redis.AuthenticationError):
        stranger.get("ph:epoch")


async def test_fsync_without_the_right_to_wait_for_the_disk_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """The example as it is lacks WAITAOF; who asks for fsync is told at the start, not by a heartbeat."""
    url = as_playhead(tmp_path / "s")
    options = ("--unixsocket", tmp_path / "s", "--aclfile", written_acl(tmp_path), "--appendonly", "yes")
    with running("valkey", tmp_path, url, *options):
        async with opened(url, durability="fsync") as store:
            with pytest.raises(StoreUnavailable, match=r"(?i)WAITAOF.*no permissions") as refusal:
                await store.check()
    assert PASSWORD not in str(refusal.value)


async def test_another_key_prefix_needs_other_patterns(tmp_path: Path) -> None:
    """The keys and channels of the example are those of the prefix ph; with them replaced another prefix is served."""
    url = as_playhead(tmp_path / "s")
    acl = written_acl(tmp_path)
    for path, prefix in ((acl, "mine"), (tmp_path / "other.acl", "ph")):
        path.write_text(acl.read_text().replace("~ph:", "~mine:").replace("&ph:", "&mine:"))
        with running("redis7", tmp_path, url, "--unixsocket", tmp_path / "s", "--aclfile", path, "--save", ""):
            async with opened(url, keys=Keys(prefix)) as store:
                if prefix == "mine":
                    await store.check()
                else:
                    with pytest.raises(StoreUnavailable, match="permission"):
                        await store.check()


# What is told of a store


WIRE, CERTIFICATE = "is not encrypted", "certificate is not fully checked"
OPEN, NOTHING_KEPT, SNAPSHOTS = "lets in whoever reaches it", "keeps nothing on disk", "no append-only file"
LOOKS_ONLY = "default on nopass resetchannels ~* -@all +get +ping +info +config|get"
"""For stores that are open for a moment: nobody who finds them can do harm."""
SECRET = ("--requirepass", PASSWORD)
AOF = ("--appendonly", "yes")
FULL = ("--maxmemory", "100mb", "--maxmemory-policy")
ANYWHERE = ("--bind", "0.0.0.0", "--protected-mode", "no")


@dataclass(frozen=True)
class Row:
    """A store, how it is reached, and what is told of it."""

    name: str
    url: str
    options: tuple[str, ...] = AOF
    told: list[str] = field(default_factory=list)
    user: str = LOOKS_ONLY


TCP, LAN = "redis://{secret}127.0.0.1:{port}", "redis://{secret}{lan}:{port}"
UNIX = "unix://{secret}{dir}/s"
TLS, TLS_LAN = "rediss://{secret}127.0.0.1:{port}?ssl_ca_certs={ca}", "rediss://{secret}{lan}:{port}?ssl_ca_certs={ca}"
ROWS = [
    Row("all-well", UNIX),
    Row("nothing-kept", UNIX, ("--save", ""), [NOTHING_KEPT]),
    Row("snapshots", UNIX, ("--save", "60", "1"), [SNAPSHOTS]),
    Row("evicts-anything", UNIX, (*AOF, *FULL, "allkeys-lru"), ["allkeys-lru: when it is full it drops all that"]),
    Row("evicts-what-expires", UNIX, (*AOF, *FULL, "volatile-ttl"), ["volatile-ttl: .* no record has one"]),
    Row("evicts-nothing", UNIX, (*AOF, *FULL, "noeviction")),
    Row("is-never-full", UNIX, (*AOF, "--maxmemory-policy", "allkeys-lru")),
    Row("several", UNIX, ("--save", "", *FULL, "allkeys-lfu"), [NOTHING_KEPT, "allkeys-lfu"]),
    Row("loopback-only", TCP, (*AOF, "--bind", "127.0.0.1", "--protected-mode", "no")),
    Row("seen-from-loopback-and-open", TCP, (*AOF, *ANYWHERE), [OPEN]),
    Row("seen-from-a-socket-and-open", UNIX, (*AOF, *ANYWHERE, "--port", "{port}"), [OPEN]),
    Row("protected-mode", TCP, (*AOF, "--bind", "0.0.0.0", "--protected-mode", "yes")),
    Row("a-password", TCP, (*AOF, *ANYWHERE, *SECRET), user=""),
    Row("open-and-in-the-clear", LAN, (*AOF, *ANYWHERE), [WIRE, OPEN]),
    Row("in-the-clear", LAN, (*AOF, *ANYWHERE, *SECRET), [WIRE], user=""),
    Row(
        "not-shown",
        UNIX,
        (),
        ["could not be checked .* on disk and .* evicts"],
        "default on nopass ~* -@all +get +ping",
    ),
    Row(
        "where-it-listens-is-not-shown",
        TCP,
        (*AOF, *ANYWHERE),
        ["could not be checked who else can reach it"],
        "default on nopass ~* -@all +get +ping +info",
    ),
    Row("strangers-may-not-read", TCP, (*AOF, *ANYWHERE), user="default on nopass ~mine:* -@all +get +ping +info"),
    Row("tls-and-a-password", TLS_LAN, (*AOF, *ANYWHERE, *SECRET), user=""),
    Row("tls-and-open", TLS_LAN, (*AOF, *ANYWHERE), [OPEN]),
    Row("tls-and-open-seen-from-loopback", TLS, (*AOF, *ANYWHERE), [OPEN]),
    Row("tls-unchecked", TLS_LAN + "&ssl_cert_reqs=none", (*AOF, *ANYWHERE, *SECRET), [CERTIFICATE], user=""),
    Row("tls-for-any-host", TLS + "&ssl_check_hostname=no", AOF, [CERTIFICATE]),
    Row(
        "tls-for-those-with-a-certificate",
        TLS_LAN + "&ssl_certfile={dir}/client.crt&ssl_keyfile={dir}/client.key",
        (*AOF, *ANYWHERE, "--tls-auth-clients", "yes"),
    ),
]


def cases() -> Iterator[Any]:
    for row in ROWS:
        for kind in ("redis7",) if row.url.startswith("rediss") else ("redis7", "valkey"):
            yield pytest.param(kind, row, id=f"{kind}-{row.name}")


def address_of_this_machine() -> str:
    """Not a loopback one; asked of the kernel, nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        return str(probe.getsockname()[0])


@pytest.mark.parametrize(("kind", "row"), list(cases()))
async def test_what_is_told_of_a_store(tmp_path: Path, kind: str, row: Row) -> None:
    """Each weakness once, in the order of the table, and nothing where there is none; never the password."""
    authority, port = Authority(tmp_path, "authority"), str(free_port())
    lan = address_of_this_machine() if "{lan}" in row.url else "127.0.0.1"
    authority.issue("client")
    secret = f":{quote(PASSWORD, safe='')}@" if SECRET[0] in row.options else ""
    url = row.url.format(secret=secret, port=port, lan=lan, dir=tmp_path, ca=authority.path)
    options: list[str | Path] = ["--unixsocket", tmp_path / "s", "--save", ""]
    if url.startswith("rediss"):
        options += tls(authority, int(port), "127.0.0.1", lan)
    elif url.startswith("redis:"):
        options += ["--port", port]
    options += ["--user", *row.user.split()] if row.user else []
    options += [option.format(port=port) for option in row.options]
    with running(kind, tmp_path, url, *options):
        async with opened(url) as store:
            told = await concerns(store)
    assert PASSWORD not in "".join(told)
    assert len(told) == len(row.told), told
    for sentence, expected in zip(told, row.told, strict=True):
        assert re.search(expected, sentence)
        assert sentence.endswith(".")


async def test_a_store_that_has_gone_raises_nothing(tmp_path: Path) -> None:
    """What it is asked at the start is no reason not to start: it could not be checked, and that is all."""
    async with opened(f"redis://u:{quote(PASSWORD, safe='')}@127.0.0.1:{free_port()}") as store:
        (told,) = await concerns(store)
    assert "could not be checked" in told
