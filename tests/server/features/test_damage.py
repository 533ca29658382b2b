"""Damaged values under load: whatever bytes the store holds of one learner and one video, the acks, pushes and records
of all others are the same as without them, in both of two processes; and the learner with the damaged record is
notified. A bug here may end the test process, because an error in a background task does that."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx
import pytest

from playhead.protocol.record import Record
from playhead.storage.connection.pipeline import Command
from playhead.storage.maintenance.rebuild import Rebuild
from playhead.storage.maintenance.transfer import Export
from playhead.storage.store import Store, open_store
from playhead.storage.values.damage import Damaged
from playhead.storage.values.packing import pack_record, unpack_record
from tests.conftest import StoreServer
from tests.device import Device, device
from tests.inside import keys_of, parts_of, records_in
from tests.random_damage import RandomDamage
from tests.rest import ok, rest, scraped
from tests.serving import FakeClock, Running, serving

pytestmark = pytest.mark.stores("valkey", "redis7", "cluster")
ROUNDS = 6
USERS = [str(UUID(int=n)) for n in range(4)]
VIDEOS = [str(UUID(int=100 + n)) for n in range(5)]
VICTIM, OWN, *OTHERS = VIDEOS
"""The damaged video, which all watch; one that the learner who is damaged watches alone; and the rest."""
UNLUCKY, *HONEST = USERS


@dataclass
class Seen:
    """Everything sent to the other learners, and everything stored of them."""

    acks: dict[str, list[Any]] = field(default_factory=dict)
    pushes: dict[str, list[Any]] = field(default_factory=dict)
    records: dict[str, Any] = field(default_factory=dict)
    totals: dict[str, Any] = field(default_factory=dict)


@dataclass
class World:
    """Two processes on one store."""

    here: Running
    there: Running
    clock: FakeClock
    store: Store


@contextlib.asynccontextmanager
async def world(url: str, prefix: str) -> AsyncIterator[World]:
    clock = FakeClock()
    settings: dict[str, Any] = {"redis_url": url, "key_prefix": prefix, "flush_interval_s": 0.01}
    async with serving(clock, **settings) as here, serving(clock, direct=False, **settings) as there:
        store = open_store(url, worker="hand", key_prefix=prefix)
        try:
            yield World(here, there, clock, store)
        finally:
            await store.close()


async def played(world: World, harm: Callable[[int], list[list[Command]]]) -> Seen:
    """All learners watch on two devices, one at each process, and `harm` is done at a random moment of each round."""
    seen = Seen({user: [] for user in HONEST}, {user: [] for user in HONEST})
    async with contextlib.AsyncExitStack() as opened:
        pairs = [
            [
                await opened.enter_async_context(device(server, user, f"{name}-{user[-1]}"))
                for name, server in (("here", world.here), ("there", world.there))
            ]
            for user in USERS
        ]
        for round_ in range(ROUNDS):
            world.clock.advance(5)
            learners = [watch(seen, user, pair, round_) for user, pair in zip(USERS, pairs, strict=True)]
            await asyncio.gather(*learners, harmed(world.store, harm(round_)))
    for server in (world.here, world.there):
        async with rest(server) as api:
            for user in HONEST:
                body = ok(await api.get(f"/progress/{user}", params={"detail": "full"}))
                del body["epoch"]
                assert seen.records.setdefault(user, body) == body
                ok(await api.get(f"/progress/engagement/{user}"))
            for video in OTHERS:
                assert (
                    seen.totals.setdefault(video, totals := ok(await api.get(f"/analytics/videos/{video}"))) == totals
                )
    return seen


async def watch(seen: Seen, user: str, pair: list[Device], round_: int) -> None:
    """One device plays, then the other, each a video of its own choice. Undamaged learners also wait for the push."""
    choice = random.Random(f"{user} {round_}")
    for one, other in (pair, pair[::-1]):
        video = choice.choice([VICTIM, OWN] if user == UNLUCKY else [VICTIM, *OTHERS])
        start = choice.randrange(0, 60)
        ack = await one.play(video, start, start + 5)
        if user != UNLUCKY:
            seen.acks[user].append(ack)
            seen.pushes[user].append(await other.pushed(video))


async def harmed(store: Store, commands: list[list[Command]]) -> None:
    for some in commands:
        await parts_of(store).run_each(some)
        await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(8))
async def test_damage_to_one_learner_and_one_video_affects_no_other(
    store_server: StoreServer, prefix: str, seed: int
) -> None:
    """The messages to the others are the same, in order, and so is everything stored of them.

    The damaged values are read everywhere without a 5xx other than `damaged`, and are repaired; then nothing is wrong
    any more.
    """
    async with world(store_server.url, f"{prefix}a") as sound:
        want = await played(sound, lambda round_: [])
    async with world(store_server.url, f"{prefix}b") as damaged:
        keys = keys_of(damaged.store)
        # Where the harm meets the load by chance, this much has met it for certain.
        live = keys.live(keys.shards(VICTIM)[0])
        await parts_of(damaged.store).run([("SET", keys.catalogue(VICTIM), "text"), ("RPUSH", live, "a")])
        got = await played(damaged, RandomDamage(keys, seed, USERS, [VICTIM, OWN]))
        for part in ("acks", "pushes", "records", "totals"):
            assert getattr(got, part) == getattr(want, part)
        for server in (damaged.here, damaged.there):
            async with rest(server) as api:
                await read_all(api)
        await everything_mended(damaged, want)


async def read_all(api: httpx.AsyncClient) -> None:
    """Call every reader of damaged values, and put a new duration."""
    for path in (
        f"/progress/{UNLUCKY}",
        f"/progress/{UNLUCKY}?detail=full",
        f"/progress/{UNLUCKY}?since=0",
        f"/progress/{UNLUCKY}/{VICTIM}",
        f"/progress/{UNLUCKY}/{OWN}",
        f"/progress/engagement/{UNLUCKY}",
        f"/progress/summary/{VICTIM}",
        f"/analytics/videos/{VICTIM}",
        f"/videos/{VICTIM}",
    ):
        response = await api.get(path)
        code = response.json().get("type", "").rpartition(":")[2]
        assert (response.status_code, code) in ((200, ""), (404, "not_found"), (500, "damaged")), (path, response.text)
    for video in (VICTIM, OTHERS[0]):
        await api.put(f"/videos/{video}", json={"title": "Sets", "duration": 300})
    assert ok(await api.get(f"/videos/{OTHERS[0]}"))["duration"] == 300
    assert ok(await api.get("/readyz"))["status"] == "ready"
    samples = await scraped(api)
    assert sum(value for name, value in samples.items() if name.startswith("playhead_damaged_values_total")) > 0


async def everything_mended(world: World, want: Seen) -> None:
    """Check that everything is repaired or reported, and that undamaged values are unchanged."""
    store = world.store

    async def rebuilt(repair: bool) -> Any:
        return await Rebuild(parts_of(store), repair=repair, grace_s=0.1, now=lambda: world.clock.wall).run()

    assert (found := await rebuilt(repair=True)).drift or found.failed
    again = await rebuilt(repair=False)
    assert again.drift == {}, (found, again)
    export = Export(parts_of(store))
    lines = [line async for page in export.pages(world.clock.wall) for line in page.lines]
    assert len(lines) > len(HONEST)
    for user, body in want.records.items():
        changes = await store.changes(user)
        assert not isinstance(changes, Damaged)
        assert {video for video, _ in records_in(changes)} == {view["videoId"] for view in body["progressData"]}
        assert changes.damaged == []


# What the learner with a damaged record receives


@pytest.fixture
async def store(server: Running) -> AsyncIterator[Store]:
    opened = open_store(str(server.settings.redis_url), worker="hand", key_prefix=server.settings.key_prefix)
    yield opened
    await opened.close()


UNSORTED = pack_record(Record(1, 0, 400, seen=[7, 9, 0, 3]))


async def test_a_second_device_and_another_heartbeat_end_no_process(server: Running, store: Store) -> None:
    """The heartbeat is rejected as `damaged`, by its seq, so that the player drops it. No device is disconnected."""
    await parts_of(store).run([("HSET", keys_of(store).progress(UNLUCKY), VICTIM, UNSORTED, "rev", 1)])
    async with device(server, UNLUCKY) as one, device(server, UNLUCKY) as other, device(server, HONEST[0]) as third:
        ack = await one.play(VICTIM, 0, 5)
        assert [(rejection["seq"], rejection["code"]) for rejection in ack["rejected"]] == [(1, "damaged")]
        assert (await one.play(OWN, 0, 5))["rejected"] == []
        assert (await other.pushed(OWN))["seen"] == [[0, 5]]
        assert (await third.play(VICTIM, 0, 5))["rejected"] == []
    assert await parts_of(store).run([("HGET", keys_of(store).progress(UNLUCKY), VICTIM)]) == [UNSORTED]


async def test_hello_names_damaged_records_and_returns_the_rest(server: Running, store: Store) -> None:
    """In an error; the connection stays open, and a repaired record is pushed to it."""
    async with device(server, UNLUCKY) as first:
        await first.play(OWN, 0, 5)
    await parts_of(store).run([("HSET", keys_of(store).progress(UNLUCKY), VICTIM, UNSORTED, "rev", 2)])
    async with device(server, UNLUCKY) as late:
        assert late.records.keys() == {OWN}
        (error,) = [message for message in late.greeted if message["type"] == "error"]
        assert (error["code"], VICTIM in error["detail"]) == ("damaged", True)
        found = await Rebuild(parts_of(store), repair=True, grace_s=0.1, now=lambda: server.clock.wall).run()
        assert not found.failed
        assert (await late.pushed(VICTIM))["seen"] == [[0, 3], [7, 9]]
        assert (await late.play(VICTIM, 20, 25))["rejected"] == []


@pytest.mark.parametrize("make", [("SET", "text"), ("RPUSH", "text"), ("HSET", "rev", "x")], ids=lambda make: make[0])
async def test_a_learner_whose_records_are_all_damaged_is_accepted_and_notified(
    server: Running, store: Store, make: tuple[str, ...]
) -> None:
    """A refused player would retry forever.

    Instead it stays, its reports are rejected, and after a repair it plays on.
    """
    key = keys_of(store).progress(UNLUCKY)
    await parts_of(store).run([(make[0], key, *make[1:])])
    async with device(server, UNLUCKY, since=5, epoch="of another time") as one, rest(server) as api:
        assert [message["code"] for message in one.greeted if message["type"] == "error"] == ["damaged"]
        ack = await one.play(OWN, 0, 5)
        assert [rejection["code"] for rejection in ack["rejected"]] == ["damaged"]
        update = {"userId": UNLUCKY, "videoId": OWN, "watchedDuration": 5, "lastWatched": "2025-01-01T00:00:00Z"}
        for response in (
            await api.get(f"/progress/{UNLUCKY}"),
            await api.get(f"/progress/engagement/{UNLUCKY}"),
            await api.post("/progress/update", json=update),
            await api.post("/progress/realtime", json=update),
            await api.delete(f"/progress/{UNLUCKY}/{OWN}"),
        ):
            assert (response.status_code, response.json()["type"]) == (500, "urn:playhead:problem:damaged")
        await parts_of(store).run([("DEL", key)])
        assert (await one.play(OWN, 5, 10))["rejected"] == []
        assert ok(await api.get(f"/progress/{UNLUCKY}"))["progressData"][0]["watchedDuration"] == 5


async def test_rest_names_the_damaged_record(server: Running, store: Store) -> None:
    """It can be deleted, after which a new record begins."""
    await parts_of(store).run([("HSET", keys_of(store).progress(UNLUCKY), VICTIM, UNSORTED, "rev", 1)])
    update = {"videoId": VICTIM, "watchedDuration": 5, "lastWatched": "2025-01-01T00:00:00Z"}
    async with rest(server) as api:
        for response in (
            await api.get(f"/progress/{UNLUCKY}/{VICTIM}"),
            await api.post("/progress/update", json={"userId": UNLUCKY, **update}),
        ):
            assert (response.status_code, response.json()["type"]) == (500, "urn:playhead:problem:damaged")
        sync = {"userId": UNLUCKY, "progressData": [update, {**update, "videoId": OWN}]}
        body = ok(await api.post("/progress/sync", params={"detail": "full"}, json=sync))
        assert [(said["videoId"], said["outcome"]) for said in body["outcomes"]] == [
            (VICTIM, "failed"),
            (OWN, "stored"),
        ]
        assert [view["videoId"] for view in body["progressData"]] == [OWN]
        ok(await api.delete(f"/progress/{UNLUCKY}/{VICTIM}"))
        assert (await api.get(f"/progress/{UNLUCKY}/{VICTIM}")).status_code == 404
        assert (await api.post("/progress/update", json={"userId": UNLUCKY, **update})).status_code == 409
    async with device(server, UNLUCKY) as one:
        server.clock.advance(5)
        assert (await one.play(VICTIM, 0, 5))["rejected"] == []
    record = await store.record(UNLUCKY, VICTIM)
    assert isinstance(record, Record)
    assert record.seen == [0, 5]


async def test_damage_is_logged_once_and_counted(
    server: Running, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names the record without its content; `/metrics` has the number by kind."""
    assert isinstance(unpack_record(UNSORTED), Damaged)
    await parts_of(store).run([("HSET", keys_of(store).progress(UNLUCKY), VICTIM, UNSORTED, "rev", 1)])
    async with device(server, UNLUCKY) as one, rest(server) as api:
        for _ in range(5):
            await one.play(VICTIM, 0, 5)
        samples = await scraped(api)
    assert samples["playhead_damaged_values_total{record}"] >= 5
    lines = [line for line in caplog.messages if "can't be read" in line]
    assert len(lines) == 1
    assert UNLUCKY in lines[0]
    assert VICTIM in lines[0]
