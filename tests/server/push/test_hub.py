"""Pushes: every device of a learner receives what another one changes, whichever process they are connected to.

Two servers on one store and one prefix are two processes in all that matters here: each has a store client, a name and
a hub of its own, and they know of each other only through the store.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import httpx
import pytest
import redis.asyncio as redis
from websockets.exceptions import ConnectionClosed

from playhead.protocol.record import Report
from playhead.protocol.scalars import format_instant
from playhead.server.push.hub import Hub
from playhead.storage.connection.link import StageGuard
from playhead.storage.connection.pipeline import Command
from playhead.storage.embedded.valkey import EmbeddedValkey
from playhead.storage.keys import Keys
from playhead.storage.parts import Parts
from playhead.storage.store import Store, open_store
from playhead.storage.write.pending import Pending
from tests.clustered import everywhere
from tests.conftest import StoreServer
from tests.device import PATIENCE_S, Device, device
from tests.inside import keys_of, parts_of
from tests.rest import ok, rest
from tests.serving import START_MS, Running, serving

pytestmark = [pytest.mark.stores("valkey", "redis7"), pytest.mark.frame_paths]


class IgnoringOrigin:
    """A reporter that ignores every notification."""

    since = 0

    def committing(self) -> None: ...
    def outcome(self, op: object, outcome: object) -> None: ...
    def stored(self, committed: object) -> None: ...


@dataclass
class Pair:
    """Two servers on one store, or the same one twice."""

    here: Running
    there: Running
    store: Store
    keys: Keys


@pytest.fixture(params=["one-process", "two-processes"])
async def pair(
    request: pytest.FixtureRequest, store_server: StoreServer, direct: bool, prefix: str
) -> AsyncIterator[Pair]:
    """The changing device connects to `here`, the receiving one to `there`."""
    async with paired(store_server.url, prefix, two=request.param == "two-processes", direct=direct) as opened:
        yield opened


@pytest.fixture
async def processes(store_server: StoreServer, direct: bool, prefix: str) -> AsyncIterator[Pair]:
    """Two processes."""
    async with paired(store_server.url, prefix, direct=direct) as opened:
        yield opened


@contextlib.asynccontextmanager
async def paired(url: str, prefix: str, two: bool = True, **settings: Any) -> AsyncIterator[Pair]:
    chosen: dict[str, Any] = {"redis_url": url, "key_prefix": prefix, "flush_interval_s": 0.02, **settings}
    async with contextlib.AsyncExitStack() as stack:
        here = await stack.enter_async_context(serving(**chosen))
        there = await stack.enter_async_context(serving(**chosen)) if two else here
        store = open_store(url, worker="nobody", key_prefix=prefix)
        stack.push_async_callback(store.close)
        yield Pair(here, there, store, keys_of(store))


def new_id() -> str:
    return str(uuid4())


async def until_sent(listener: Device, rev: int) -> None:
    """Wait until the device was sent every change up to a revision."""
    while listener.rev < rev:
        await listener.until("progress")


async def all_records(http: httpx.AsyncClient, user: str) -> tuple[dict[str, Any], int]:
    """Return all records of a user by videoId, including tombstones, and the revision."""
    body = ok(await http.get(f"/progress/{user}?since=0"))
    return {record["videoId"]: record for record in body["progressData"]}, body["rev"]


async def no_more_messages(listener: Device) -> None:
    """Check that the device has received nothing but what the test has waited for."""
    await listener.send(type="ping")
    await listener.until("pong")
    assert listener.inbox == []


Change = Callable[[httpx.AsyncClient, str, str], Awaitable[httpx.Response]]
WATCHED_AT = format_instant(START_MS - 1_000)


async def update(http: httpx.AsyncClient, user: str, video: str) -> httpx.Response:
    body = {"userId": user, "videoId": video, "watchedDuration": 70, "lastWatched": WATCHED_AT}
    return await http.post("/progress/update", json=body)


async def realtime(http: httpx.AsyncClient, user: str, video: str) -> httpx.Response:
    body = {"userId": user, "videoId": video, "watchedDuration": 70, "lastWatched": WATCHED_AT}
    return await http.post("/progress/realtime", json=body)


async def sync(http: httpx.AsyncClient, user: str, video: str) -> httpx.Response:
    items = [{"videoId": v, "watchedDuration": 70, "lastWatched": WATCHED_AT} for v in (new_id(), video)]
    return await http.post("/progress/sync", json={"userId": user, "progressData": items})


async def envelope(http: httpx.AsyncClient, user: str, video: str) -> httpx.Response:
    beat = {"seq": 1, "videoId": video, "played": [[0, 70]], "position": 70}
    return await http.post("/progress/realtime", json={"userId": user, "session": "beacon", "heartbeats": [beat]})


async def delete(http: httpx.AsyncClient, user: str, video: str) -> httpx.Response:
    return await http.delete(f"/progress/{user}/{video}")


@pytest.mark.stores("valkey", "redis7", "cluster")
@pytest.mark.parametrize("change", [update, realtime, sync, envelope, delete])
async def test_a_change_by_rest_reaches_every_device_of_that_learner(pair: Pair, change: Change) -> None:
    """Each writing endpoint pushes to all devices of the learner and to no others."""
    user, video = new_id(), new_id()
    async with (
        rest(pair.here) as http,
        device(pair.here, user) as laptop,
        device(pair.there, user) as phone,
        device(pair.there, new_id()) as stranger,
    ):
        await laptop.play(video, 0, 20)
        await phone.pushed(video)
        ok(await change(http, user, video))
        records, rev = await all_records(http, user)
        for listener in (laptop, phone):
            await until_sent(listener, rev)
            assert listener.records[video] == records[video]
        assert ("deletedAt" in records[video]) == (change is delete)
        await no_more_messages(stranger)
        assert stranger.records == {}


async def test_a_heartbeat_reaches_every_other_device_and_only_those(pair: Pair) -> None:
    """A change by WebSocket is pushed to the learner's other devices, without an echo to the one that made it."""
    user, video = new_id(), new_id()
    async with (
        rest(pair.here) as http,
        device(pair.here, user) as laptop,
        device(pair.here, user) as tablet,
        device(pair.there, user) as phone,
        device(pair.there, new_id()) as stranger,
    ):
        await laptop.play(video, 0, 20, duration=100)
        records, _ = await all_records(http, user)
        assert await tablet.pushed(video) == records[video]
        assert await phone.pushed(video) == records[video]
        for quiet in (laptop, stranger):
            await no_more_messages(quiet)
            assert quiet.records == {}


async def test_two_devices_in_one_batch_are_pushed_each_others_changes(store_server: StoreServer, prefix: str) -> None:
    """Where both have contributed to a record in the same batch, neither knows all of it."""
    user, video = new_id(), new_id()
    slow: dict[str, Any] = {"redis_url": store_server.url, "key_prefix": prefix, "flush_interval_s": 60}
    async with (
        serving(**slow) as server,
        rest(server) as http,
        device(server, user) as laptop,
        device(server, user) as phone,
    ):
        await laptop.beat(video, played=[[0, 20]], position=20)
        await phone.beat(video, played=[[100, 130]], position=130)
        for sender in (laptop, phone):
            await sender.send(type="ping")
            await sender.until("pong")
        await http.delete(f"/progress/{user}/{new_id()}")  # it waits for the batch, which is therefore flushed at once
        (record,) = (await all_records(http, user))[0].values()
        assert record["seen"] == [[0, 20], [100, 130]]
        assert await laptop.pushed(video) == record
        assert await phone.pushed(video) == record


async def stream(pair: Pair, user: str, videos: list[str], dice: random.Random, changes: int) -> None:
    """Change records by devices and by REST in both processes, as fast as the changes are stored."""

    async def heartbeats(server: Running) -> None:
        async with device(server, user) as player:
            for i in range(changes):
                at = dice.randrange(1_000)
                await player.play(dice.choice(videos), at, at + 5, age=60_000 * (changes - i))

    async def requests(server: Running) -> None:
        async with rest(server) as http:
            for i in range(changes):
                at = format_instant(START_MS - 1_000 * (changes - i))
                item = {"videoId": dice.choice(videos), "watchedDuration": dice.randrange(2_000), "lastWatched": at}
                match dice.randrange(8):
                    case 0:
                        await http.delete(f"/progress/{user}/{dice.choice(videos)}")
                    case 1:
                        await http.post("/progress/sync", json={"userId": user, "progressData": [item]})
                    case _:
                        await http.post("/progress/update", json={"userId": user, **item})

    async with asyncio.TaskGroup() as writers:
        for each in (pair.here, pair.there):
            writers.create_task(heartbeats(each))
            writers.create_task(requests(each))


async def join_at_random(pair: Pair, user: str, dice: random.Random, until: asyncio.Future[int]) -> dict[str, Any]:
    """Connect a device for a while, reconnect it with what it has, and return its records at the end."""
    knows: dict[str, Any] = {}
    hello: dict[str, Any] = {}
    while True:
        for _ in range(dice.randrange(20)):
            await asyncio.sleep(0)
        last = until.done()
        async with device(dice.choice((pair.here, pair.there)), user, **hello) as joined:
            if last:
                await until_sent(joined, until.result())
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(dice.random() * 0.2):
                        while True:
                            await joined.receive()
        knows |= joined.records
        hello = {"since": max(joined.rev, hello.get("since", 0)), "epoch": joined.welcome["epoch"]}
        if last:
            return knows


async def listen(server: Running, user: str, until: asyncio.Future[int]) -> dict[str, Any]:
    """Keep a device connected and return its records at the end."""
    async with device(server, user) as listener:
        while not until.done() or listener.rev < until.result():
            receiving = asyncio.ensure_future(listener.receive())
            await asyncio.wait(cast(set[asyncio.Future[Any]], {receiving, until}), return_when=asyncio.FIRST_COMPLETED)
            if not receiving.done() and listener.rev < until.result():
                await receiving
            elif not receiving.done():
                receiving.cancel()
                await asyncio.wait({receiving})
            else:
                receiving.result()
        return listener.records


@pytest.mark.parametrize("trouble", ["none", "channels-killed"])
@pytest.mark.parametrize("seed", range(3))
async def test_a_device_that_connects_during_changes_misses_nothing(processes: Pair, seed: int, trouble: str) -> None:
    """Whenever a device connects, leaves or reconnects, and however often subscriptions break in between, in the end it
    has exactly the stored records, including deletions."""
    dice = random.Random(seed)
    user, videos = new_id(), [new_id() for _ in range(6)]
    final: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def break_channels() -> None:
        while not final.done():
            await asyncio.sleep(dice.random() * 0.05)
            await everywhere(processes.store, "CLIENT", "KILL", "TYPE", "pubsub")

    async with asyncio.TaskGroup() as tasks, rest(processes.here) as http, asyncio.timeout(6 * PATIENCE_S):
        if trouble != "none":
            tasks.create_task(break_channels())
        devices = [tasks.create_task(listen(server, user, final)) for server in (processes.here, processes.there)]
        devices += [
            tasks.create_task(join_at_random(processes, user, random.Random(f"{seed}/{i}"), final)) for i in range(3)
        ]
        await stream(processes, user, videos, dice, changes=40)
        records, rev = await all_records(http, user)
        final.set_result(rev)
    for joined in devices:
        assert joined.result() == records


async def commit_unpublished(store: Store, user: str, video: str, second: int) -> None:
    """Commit as a process that wrongly considers itself the only subscriber, so that nothing is published."""
    pending = Pending(10, START_MS)
    pending.add(user, video, Report(START_MS, START_MS, claimed=second), IgnoringOrigin())
    await store.commit(pending.take(START_MS), START_MS, lambda _: True)


async def test_the_next_push_reveals_a_lost_one(processes: Pair) -> None:
    """A lost push leaves a gap in the revisions. The next push reveals it, and both changes arrive."""
    user, lost, seen = new_id(), new_id(), new_id()
    async with device(processes.there, user) as phone, device(processes.here, new_id()) as other:
        store = open_store(
            processes.here.settings.redis_url or "", worker=uuid4().hex, key_prefix=processes.keys.prefix
        )
        try:
            await commit_unpublished(store, user, lost, 33)
        finally:
            await store.close()
        await other.play(new_id(), 0, 5)
        await no_more_messages(phone)
        assert phone.records == {}
        async with rest(processes.here) as http:
            ok(await update(http, user, seen))
        await until_sent(phone, 2)
    assert phone.records[lost]["watchedDuration"] == 33
    assert phone.records[seen]["watchedDuration"] == 70


BUSY = "for _ = 1, 1e8 do end"
"""Blocks a store for about half a second; bounded, because a script's clock may stand still."""


async def pubsub_ids(client: redis.Redis) -> set[str]:
    return {entry["id"] for entry in await client.client_list(_type="pubsub")}


async def test_a_commit_before_a_broken_subscription_is_noticed_is_published(
    store_server: StoreServer, prefix: str
) -> None:
    """A process counts itself as subscribed until it notices the broken connection. What it commits in between reaches
    the other process as well."""
    user, video = new_id(), new_id()
    chosen: dict[str, Any] = {"redis_url": store_server.url, "key_prefix": prefix, "flush_interval_s": 0.02}
    store = open_store(store_server.url, worker="nobody", key_prefix=prefix)
    async with contextlib.aclosing(parts_of(store).link) as link:
        named = {primary.name: primary for primary in await link.primaries()}
        client = named[link.primary_of(keys_of(store).push(user))].redis
        before = await pubsub_ids(client)
        async with serving(**chosen) as here, device(here, user) as laptop:
            (channels_of_here,) = await pubsub_ids(client) - before
            async with serving(**chosen) as there, device(there, user) as phone:
                await laptop.play(video, 0, 5)
                await phone.pushed(video)
                # While the store is busy the commit arrives behind the kill, and so is executed right after it.
                stalling = client.pipeline(transaction=False)
                stalling.eval(BUSY, 0)
                stalling.execute_command("CLIENT", "KILL", "ID", channels_of_here)
                await asyncio.gather(stalling.execute(), laptop.play(video, 5, 10))
                assert (await phone.pushed(video))["seen"] == [[0, 10]]


async def test_resubscribing_during_a_read_causes_one_more_read(processes: Pair) -> None:
    """Subscriptions renewed while records are read for a device cause another read, but not endlessly."""
    user = new_id()
    async with device(processes.there, user) as phone:
        for _ in range(30):
            await everywhere(processes.store, "CLIENT", "KILL", "TYPE", "pubsub")
            for _ in range(20):
                await phone.send(type="sync", since=0)
        for _ in range(600):
            await phone.until("synced")
        calls = -1
        async with asyncio.timeout(PATIENCE_S):
            while calls != (calls := await script_calls(processes.store)):
                for _ in range(50):
                    await phone.send(type="ping")
                    await phone.until("pong")


async def script_calls(store: Store) -> int:
    stats = await everywhere(store, "INFO", "commandstats")
    return sum(int(each.get("cmdstat_evalsha", {}).get("calls", 0)) for each in stats)


class InterruptedStore(Store):
    """A store client with commits of others between its calls, which a pipeline permits."""

    intruder: Store
    user: str

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(Parts(*args, **more))
        link = self._parts.link
        self._ask, link.ask = link.ask, self._interrupted  # type: ignore[method-assign]

    async def _interrupted(
        self, commands: list[Command], guard: StageGuard | None = None, also: Iterable[str] = ()
    ) -> list[Any]:
        scripts = [i for i, command in enumerate(commands) if command[0] == "EVALSHA"]
        if len(scripts) < 2:
            return await self._ask(commands, guard, also)
        before = await self._ask(commands[: scripts[0] + 1])
        await commit_unpublished(self.intruder, self.user, new_id(), 1)
        return before + await self._ask(commands[scripts[0] + 1 :], guard, also)


async def test_a_commit_in_between_the_calls_of_a_large_batch_is_a_gap(processes: Pair) -> None:
    """A batch that needs several calls does not claim the revisions that others committed in between."""
    user = new_id()
    url = processes.here.settings.redis_url or ""
    store = InterruptedStore(url, worker=new_id(), key_prefix=processes.keys.prefix)
    intruder = open_store(url, worker=new_id(), key_prefix=processes.keys.prefix)
    store.intruder, store.user = intruder, user
    pending = Pending(1_000, START_MS)
    for _ in range(300):
        pending.add(user, new_id(), Report(START_MS, START_MS, claimed=9), IgnoringOrigin())
    try:
        committed = await store.commit(pending.take(START_MS), START_MS, lambda _: False)
    finally:
        await store.close()
        await intruder.close()
    before, rev = committed.revs[user]
    assert rev == 301
    assert before > 200


async def test_a_device_that_connects_during_a_commit_misses_nothing(
    store_server: StoreServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the batch was committed no other device was connected, so the store did not return its records."""
    monkeypatch.setattr(Hub, "needs_value", lambda hub, user_id, reporters: False)
    async with paired(store_server.url, prefix, two=False) as processes:
        user, video = new_id(), new_id()
        async with device(processes.here, user) as player, device(processes.here, user) as listener:
            await player.play(video, 0, 10)
            await until_sent(listener, 1)
            assert [record["videoId"] for record in listener.records.values()] == [video]


async def goodbye_and_close(listener: Device) -> tuple[str, int | None]:
    """Return the code of the goodbye and the code of the close after it."""
    goodbye = await listener.until("goodbye")
    assert goodbye["retryAfter"] > 0
    with pytest.raises(ConnectionClosed) as closed:
        await listener.receive()
    return goodbye["code"], closed.value.rcvd.code if closed.value.rcvd else None


async def test_every_device_reconnects_after_the_store_lost_its_data(tmp_path: Path) -> None:
    """After FLUSHALL the first commit finds another epoch: all devices in all processes get a goodbye and 4001. They
    reconnect with what they have, and receive everything of the new epoch."""
    user, old, new = new_id(), new_id(), new_id()
    with EmbeddedValkey(tmp_path, fsync=False) as valkey:
        async with paired(valkey.url, "ph") as processes:
            async with contextlib.AsyncExitStack() as stack:
                devices = [
                    await stack.enter_async_context(device(server, owner))
                    for server in (processes.here, processes.there)
                    for owner in (user, user, new_id())
                ]
                await devices[0].play(old, 0, 10)
                known = devices[0].welcome["epoch"]
                await everywhere(processes.store, "FLUSHALL")
                await devices[0].beat(new, played=[[0, 5]], position=5)
                assert [await goodbye_and_close(each) for each in devices] == [("unavailable", 4001)] * len(devices)
            async with device(processes.there, user, since=1, epoch=known) as back:
                assert back.welcome["epoch"] != known
                assert set(back.records) == {new}


async def test_a_batch_without_reports_does_not_restore_an_old_epoch(tmp_path: Path) -> None:
    """An ack by a process that was notified of another epoch, and has committed nothing since, has no effect on it."""
    with EmbeddedValkey(tmp_path, fsync=False) as valkey:
        async with paired(valkey.url, "ph") as processes:
            async with device(processes.there, new_id()) as old, device(processes.here, new_id()) as other:
                await old.play(new_id(), 0, 10)
                await other.play(new_id(), 0, 10)
                await everywhere(processes.store, "FLUSHALL")
                await other.beat(new_id(), played=[[0, 5]], position=5)
                assert await goodbye_and_close(old) == ("unavailable", 4001)
            async with device(processes.there, new_id()) as back:
                await back.beat("no video")
                assert [each["code"] for each in (await back.acked())["rejected"]] == ["invalid"]
                await back.send(type="ping")
                await back.until("pong")
