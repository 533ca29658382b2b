"""The user in examples/playhead.acl may run every command that the service needs, and nothing else."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import pytest
import redis
from websockets.exceptions import ConnectionClosed

from playhead.server.clock import StoreClock
from playhead.storage.connection.rights import lacked_right
from playhead.storage.maintenance.rebuild import Rebuild
from playhead.storage.maintenance.store_audit import concerns
from playhead.storage.maintenance.transfer import Export, Import
from playhead.storage.store import Store, StoreUnavailable
from tests.device import device
from tests.inside import keys_of, parts_of
from tests.rest import ok, rest
from tests.serving import Running, serving
from tests.storage.own_store import (
    PASSWORD,
    PATIENCE_S,
    as_operator,
    as_playhead,
    opened,
    rights,
    running,
    written_acl,
)

SINCE_7_2 = " +waitaof +client|setinfo"
"""What the ACL file says nothing of, because Redis 7.0 would refuse to start with names it does not know."""

OF_SEVERAL_SERVERS = {"wait", "cluster|slots", "asking"}
"""Replicas need the first, a cluster the others: test_configurations.py."""


@dataclass(frozen=True)
class Guarded:
    """A store with the users of the example only."""

    url: str
    path: Path
    durability: str
    allowed: set[str]


@pytest.fixture(params=["redis7", "valkey", "valkey-fsync"])
def guarded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Guarded]:
    """The file as it is on both stores; on Valkey also with the permissions for durability fsync."""
    kind, _, fsync = request.param.partition("-")
    more = SINCE_7_2 if fsync else ""
    acl, path = written_acl(tmp_path, more), tmp_path / "store.sock"
    url = as_playhead(path, db=1)
    options = ("--unixsocket", path, "--aclfile", acl, "--appendonly", "yes" if fsync else "no")
    allowed = rights("playhead") | {word[1:] for word in more.split()}
    with running(kind, tmp_path, url, *options):
        yield Guarded(url, path, fsync or "memory", allowed)


async def test_the_user_of_the_example_has_exactly_the_permissions_it_needs(guarded: Guarded) -> None:
    """Every kind of request, on two processes: no command is refused, and no permitted command is unused."""
    async with opened(guarded.url, durability=guarded.durability) as store:
        by_the_server = await commands(store)  # Valkey reads its own configuration
        async with contextlib.AsyncExitStack() as stack:
            servers = [
                await stack.enter_async_context(serving(redis_url=guarded.url, durability=guarded.durability))
                for _ in range(2)
            ]
            await conversation(servers[0], servers[1])
        await store.check()
        await unsubscribed(store)
        turned_away = {name for name, count in (await commands(store)).items() if count["rejected_calls"]}
        assert turned_away <= {"client|setinfo"}, "redis-py sends its name; a refusal does no harm"
        assert not [sentence for sentence in await concerns(parts_of(store).link) if "could not be checked" in sentence]
        used = {name for name, count in (await commands(store)).items() if count["calls"] and name not in by_the_server}
    assert guarded.allowed - by_the_server.keys() - used - OF_SEVERAL_SERVERS == set(), "permitted but unused"
    assert used <= guarded.allowed | {"auth", "hello"}, "these two are permitted to everybody"


async def commands(store: Store) -> dict[str, dict[str, int]]:
    """The commands that the server has received, from all clients and in scripts."""
    (stats,) = await parts_of(store).run([("INFO", "commandstats")])
    return {name.removeprefix("cmdstat_"): count for name, count in stats.items()}


async def conversation(here: Running, there: Running) -> None:
    """Everything that learners and pages do with the service."""
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
        assert ok(await http.get("/readyz"))["status"] == "ready"


async def unsubscribed(store: Store) -> None:
    """Unsubscribe, as the hub does some time after a learner has left."""
    channels = parts_of(store).listen(lambda name, data: None, lambda name: None)
    name = keys_of(store).push("u")
    task = asyncio.create_task(channels.run())
    try:
        async with asyncio.timeout(PATIENCE_S):
            await channels.subscribe(name).wait()
            channels.unsubscribe(name)
            while (await parts_of(store).run([("PUBSUB", "SHARDNUMSUB", name)]))[0][1]:  # noqa: ASYNC110 nothing tells us
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.wait({task})


@pytest.mark.parametrize("kind", ["redis7", "valkey"])
async def test_the_operators_user_may_run_all_operators_commands(kind: str, tmp_path: Path) -> None:
    """A rebuild with something to repair while learners play, an export and an import: nothing is refused."""
    options = ("--unixsocket", tmp_path / "s", "--aclfile", written_acl(tmp_path), "--appendonly", "yes")
    url = as_playhead(tmp_path / "s", db=1)
    with running(kind, tmp_path, url, *options):
        async with serving(redis_url=url) as server, opened(url) as store:
            await operate(as_operator(tmp_path / "s", db=1), server)
            counts = await commands(store)
    assert {name for name, count in counts.items() if count["rejected_calls"]} <= {"client|setinfo"}


async def test_the_operators_user_needs_each_of_its_permissions(tmp_path: Path) -> None:
    """Without any one of them a command is refused, and the error names it."""
    acl = written_acl(tmp_path)
    acl.write_text(f"user admin on nopass ~* +@all\n{acl.read_text()}")
    url = as_playhead(tmp_path / "s", db=1)
    options = ("--unixsocket", tmp_path / "s", "--aclfile", acl, "--save", "")
    with (
        running("redis7", tmp_path, url, *options),
        redis.Redis.from_url(f"unix://admin:x@{tmp_path / 's'}?db=1") as admin,
    ):
        async with serving(redis_url=url) as server:
            for right in sorted(rights("playhead-operator") - OF_SEVERAL_SERVERS):
                admin.script_flush()
                for key in admin.scan_iter(match="ph:{*"):
                    admin.delete(key)
                admin.acl_setuser("playhead-operator", enabled=True, commands=[f"-{right}"])
                with pytest.raises(StoreUnavailable) as refused:
                    await operate(as_operator(tmp_path / "s", db=1), server)
                lacks, name = lacked_right(refused.value), right.upper().replace("|", " ")
                if right != "script|load":  # then a script is unknown
                    assert lacks == name or "videos.lua" in str(lacks), "which calls it through a variable"
                admin.acl_setuser("playhead-operator", enabled=True, commands=[f"+{right}"])


async def operate(url: str, server: Running) -> None:
    """Run all commands of operators with the user of this URL, while the service uses the same store."""
    async with opened(url) as store:
        await store.check()
        await StoreClock.of(store)
        user, video = str(uuid4()), str(uuid4())
        async with rest(server) as http, device(server, user) as player:
            ok(await http.put(f"/videos/{video}", json={"title": "A title", "duration": 60}))
            await player.play(video, 0, 30, span=30_000)
            summary, before = keys_of(store).summary(video), keys_of(store).before(video)
            await parts_of(store).run([("HSET", before, "", "t 0"), ("HSET", summary, "recount", "t")])
            await player.play(video, 30, 40, span=30_000)
            assert await parts_of(store).run([("HEXISTS", before, user)]) == [1]
            ok(await http.delete(f"/sessions/{user}"))
        audience = keys_of(store).audience(video)
        await parts_of(store).run([("HSET", audience, user, b"garbage"), ("HSET", audience, str(uuid4()), b"garbage")])
        found = await Rebuild(parts_of(store), repair=True, grace_s=0, now=lambda: server.clock.wall).run()
        assert (found.drift.total(), found.failed) == (3, {})
        lines = [line async for page in Export(parts_of(store)).pages(1) for line in page.lines]
        assert (
            await Import(parts_of(store), threshold_permille=900, now=lambda: server.clock.wall).take(
                list(enumerate(lines))
            )
            == []
        )
        await parts_of(store).run([("DEL", keys_of(store).progress(user))])
        work = Import(parts_of(store), threshold_permille=900, now=lambda: server.clock.wall)
        assert (await work.take(list(enumerate(lines))), work.changed) == ([], 1)


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
    """Neither directly nor in a script."""
    with redis.Redis.from_url(guarded.url) as client:
        for command in DENIED:
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command.split())
        for script in SCRIPTED:
            with pytest.raises(redis.exceptions.ResponseError, match=r"permission|ACL|not allowed"):
                client.evalsha(client.script_load(script), 1, "other:key")
        assert client.ping()


OPERATORS_TOO = {"SCAN 0", "DEL ph:epoch"}


async def test_the_operators_user_may_do_nothing_else_either(guarded: Guarded) -> None:
    """Except for scanning all keys and deleting those of the service."""
    with redis.Redis.from_url(as_operator(guarded.path)) as client:
        for command in sorted({*DENIED} - OPERATORS_TOO):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command.split())
        for script in SCRIPTED:
            with pytest.raises(redis.exceptions.ResponseError, match=r"permission|ACL|not allowed|can't"):
                client.evalsha(client.script_load(script), 1, "other:key")


STRANGERS = ["", ":@", ":x@", "default:@", "default:x@", f"default:{quote(PASSWORD, safe='')}@", "playhead:x@"]
"""Users and passwords of those who have none."""


@pytest.mark.parametrize("given", STRANGERS)
@pytest.mark.parametrize("protocol", [2, 3])
async def test_nobody_can_log_in_as_the_default_user(guarded: Guarded, given: str, protocol: int) -> None:
    """With any password, by AUTH or by HELLO."""
    with redis.Redis.from_url(f"unix://{given}{guarded.path}", protocol=protocol) as stranger:
        for command in ("GET ph:epoch", "FLUSHALL", "ACL WHOAMI", "PING"):
            with pytest.raises((redis.AuthenticationError, redis.ResponseError), match=r"(?i)auth|WRONGPASS|invalid"):
                stranger.execute_command(*command.split())


@pytest.mark.parametrize("kind", ["redis7", "valkey"])
def test_a_password_in_the_configuration_does_not_enable_the_default_user(kind: str, tmp_path: Path) -> None:
    """`requirepass` is the default user's password; the ACL file, which is read after it, removes it."""
    options = ("--unixsocket", tmp_path / "s", "--requirepass", "secret", "--aclfile", written_acl(tmp_path))
    with running(kind, tmp_path, as_playhead(tmp_path / "s"), *options):
        for given in ("", ":secret@", "default:secret@"):
            stranger = redis.Redis.from_url(f"unix://{given}{tmp_path / 's'}")
            with stranger, pytest.raises(redis.AuthenticationError):
                stranger.get("ph:epoch")


async def test_fsync_without_permission_for_waitaof_is_refused_at_startup(tmp_path: Path) -> None:
    """The example as it is does not permit WAITAOF. The error comes at startup, not with a heartbeat."""
    url = as_playhead(tmp_path / "s")
    options = ("--unixsocket", tmp_path / "s", "--aclfile", written_acl(tmp_path), "--appendonly", "yes")
    with running("valkey", tmp_path, url, *options):
        async with opened(url, durability="fsync") as store:
            with pytest.raises(StoreUnavailable, match=r"(?i)WAITAOF.*no permissions") as refusal:
                await store.check()
    assert PASSWORD not in str(refusal.value)


async def test_another_key_prefix_needs_other_patterns(tmp_path: Path) -> None:
    """The keys and channels of the example have the prefix ph; another prefix needs its own."""
    url = as_playhead(tmp_path / "s")
    acl = written_acl(tmp_path)
    for path, prefix in ((acl, "mine"), (tmp_path / "other.acl", "ph")):
        path.write_text(acl.read_text().replace("~ph:", "~mine:").replace("&ph:", "&mine:"))
        with running("redis7", tmp_path, url, "--unixsocket", tmp_path / "s", "--aclfile", path, "--save", ""):
            async with opened(url, key_prefix=prefix) as store:
                if prefix == "mine":
                    await store.check()
                else:
                    with pytest.raises(StoreUnavailable, match="permission"):
                        await store.check()
