"""A server whose clock was ahead, and one whose clock is right: instants stored by the first do not outrank those of
the second. A test's clock is that of a whole process. Two processes on one store differ when the store's clock is set
and one of them has not noticed yet."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
import redis.asyncio as redis
from websockets.exceptions import ConnectionClosed

from playhead.protocol.scalars import parse_instant
from playhead.storage.keys import Keys
from playhead.storage.values.damage import DamageLog
from playhead.storage.write.ended_sessions import EndedSessions
from tests.conftest import StoreServer
from tests.device import PATIENCE_S, Device, device
from tests.rest import iso, ok, rest
from tests.serving import START_MS, FakeClock, Running, serving

AHEAD_S = {"a minute": 60, "a day": 86_400, "years": 86_400 * 365 * 20}


@dataclass
class Nodes:
    """Two servers on one store."""

    fast: Running
    right: Running


@pytest.fixture(params=list(AHEAD_S.values()), ids=list(AHEAD_S))
async def nodes(request: pytest.FixtureRequest, store_server: StoreServer, prefix: str) -> AsyncIterator[Nodes]:
    chosen: dict[str, Any] = {"redis_url": store_server.url, "key_prefix": prefix}
    async with serving(FakeClock(START_MS + 1_000 * request.param), **chosen) as fast, serving(**chosen) as right:
        yield Nodes(fast, right)


def fresh() -> tuple[str, str]:
    return str(uuid4()), str(uuid4())


async def test_the_position_follows_the_current_player(nodes: Nodes) -> None:
    """Alternating between the two servers: the last report wins, and no reader gets an instant in the future."""
    user, video = fresh()
    async with device(nodes.fast, user) as tv, device(nodes.right, user) as phone, rest(nodes.right) as api:
        for turn, player in enumerate([tv, phone] * 3, 1):
            for clock in (nodes.fast.clock, nodes.right.clock):
                clock.advance(30)
            position = 600 - 30 * turn  # always further back, so that only the time can decide for it
            assert (await player.play(video, position - 30, position))["rejected"] == []
            record = ok(await api.get(f"/progress/{user}/{video}?detail=full"))
            assert record["position"] == position
            assert parse_instant(record["lastWatched"]) <= nodes.right.clock.wall
            assert record["seen"] == [[position - 30, 570]]
            other = phone if player is tv else tv
            pushed = await other.pushed(video)
            assert parse_instant(pushed["lastWatched"]) <= (nodes.right if other is phone else nodes.fast).clock.wall


async def test_a_play_after_a_deletion_by_the_fast_node_is_stored(nodes: Nodes) -> None:
    """At once, by heartbeat, update and sync. Plays before the deletion stay deleted."""
    user, video = fresh()
    async with device(nodes.right, user) as player, rest(nodes.fast) as fast, rest(nodes.right) as right:
        for _ in range(2):
            nodes.right.clock.advance(30)
            await player.play(video, 0, 10)
            ok(await fast.delete(f"/progress/{user}/{video}"))
            (tombstone,) = ok(await right.get(f"/progress/{user}?since=0"))["progressData"]
            assert parse_instant(tombstone["deletedAt"]) <= nodes.right.clock.wall
            nodes.right.clock.advance(5)
            assert (await player.play(video, 20, 30))["rejected"] == []
            assert ok(await right.get(f"/progress/{user}/{video}?detail=full"))["seen"] == [[20, 30]]
            ok(await fast.delete(f"/progress/{user}/{video}"))
            nodes.right.clock.advance(5)
            now = {"watchedDuration": 40, "lastWatched": iso(nodes.right.clock.wall)}
            ok(await right.post("/progress/update", json={"userId": user, "videoId": video, **now}))
            ok(await fast.delete(f"/progress/{user}/{video}"))
            nodes.right.clock.advance(5)
            now = {"videoId": video, "watchedDuration": 50, "lastWatched": iso(nodes.right.clock.wall)}
            (item,) = ok(await right.post("/progress/sync", json={"userId": user, "progressData": [now]}))[
                "progressData"
            ]
            assert item["watchedDuration"] == 50
            ok(await fast.delete(f"/progress/{user}/{video}"))
            nodes.right.clock.advance(5)
            late = await player.play(video, 50, 60, age=60_000)
            assert [rejection["code"] for rejection in late["rejected"]] == ["deleted"]


async def test_a_deletion_covers_what_the_fast_node_has_stored_and_nothing_later(nodes: Nodes) -> None:
    user, video = fresh()
    async with device(nodes.fast, user) as tv, device(nodes.right, user) as phone, rest(nodes.right) as api:
        await tv.play(video, 0, 10)
        nodes.right.clock.advance(30)
        ok(await api.delete(f"/progress/{user}/{video}"))
        (tombstone,) = ok(await api.get(f"/progress/{user}?since=0"))["progressData"]
        assert tombstone["deletedAt"] == iso(nodes.right.clock.wall)
        nodes.right.clock.advance(0.001)
        assert (await phone.play(video, 20, 30))["rejected"] == []


async def test_a_viewer_of_the_fast_node_is_not_counted_as_watching_for_ever(nodes: Nodes) -> None:
    """Not at the instant that the fast node stored either, and a learner who watches now is counted."""
    user, other, video = str(uuid4()), *fresh()
    async with device(nodes.fast, user) as tv, device(nodes.right, other) as phone, rest(nodes.right) as api:
        await tv.play(video, 0, 10)
        shown = nodes.fast.clock.wall
        assert ok(await api.get(f"/analytics/videos/{video}"))["watchingNow"] == 0
        await phone.play(video, 0, 10)
        assert ok(await api.get(f"/analytics/videos/{video}"))["watchingNow"] == 1
        nodes.right.clock.advance((shown - nodes.right.clock.wall) / 1_000)
        assert ok(await api.get(f"/analytics/videos/{video}"))["watchingNow"] == 0
        seen = ok(await api.get(f"/analytics/videos/{video}"))
        assert (seen["viewers"], seen["retention"]) == (2, [2] * 10)


async def test_a_new_duration_reaches_the_records_of_the_fast_node(nodes: Nodes) -> None:
    """It does not make the flush that writes it believe their instants."""
    user, video = fresh()
    async with device(nodes.fast, user) as tv, device(nodes.right, user) as phone, rest(nodes.right) as api:
        await tv.play(video, 0, 55)
        ok(await api.put(f"/videos/{video}", json={"title": "A title", "duration": 60}))
        nodes.right.clock.advance(30)
        await phone.play(video, 0, 20)
        record = ok(await api.get(f"/progress/{user}/{video}?detail=full"))
        assert (record["duration"], record["completed"], record["position"]) == (60, True, 20)
        assert parse_instant(record["completedAt"]) <= nodes.right.clock.wall


async def test_an_idle_process_stores_the_first_play_after_such_a_deletion(
    store_server: StoreServer, prefix: str
) -> None:
    """Its last batch was long ago, and this batch is as recent as the play."""
    user, video = fresh()
    chosen: dict[str, Any] = {"redis_url": store_server.url, "key_prefix": prefix}
    async with (
        serving(FakeClock(START_MS + 3_600_000), **chosen) as fast,
        serving(**chosen) as right,
        rest(fast) as there,
        rest(right) as here,
    ):
        update = {"userId": user, "videoId": video, "watchedDuration": 40}
        ok(await there.post("/progress/update", json={**update, "lastWatched": iso(fast.clock.wall)}))
        ok(await there.delete(f"/progress/{user}/{video}"))
        right.clock.advance(600)
        at = right.clock.wall - 300_000
        late = await here.post("/progress/update", json={**update, "lastWatched": iso(at)})
        assert late.status_code == 409, "it happened before everything that is stored"
        ok(await here.post("/progress/update", json={**update, "lastWatched": iso(right.clock.wall)}))


@pytest.mark.parametrize("steps_s", [(86_400, -86_400), (-86_400, 86_400), (60, -120, 60), (-3_600, -3_600, 7_200)])
async def test_a_clock_that_is_set_forward_and_back(
    store_server: StoreServer, prefix: str, steps_s: tuple[float, ...]
) -> None:
    """Also between a report and its flush: reports are stored once, the newest position wins after each step, and so do
    a deletion and the play after it."""
    user, video = fresh()
    settings: dict[str, Any] = {"redis_url": store_server.url, "key_prefix": prefix, "flush_interval_s": 0.2}
    async with serving(**settings) as server, rest(server) as api, device(server, user) as player:
        position = 600
        for step_s in (0, *steps_s):
            server.clock.advance(10)
            await player.beat(video, played=[[position, position + 10]], position=position + 10, state="playing")
            await player.send(type="ping")
            await player.until("pong")
            server.clock.wall += round(1_000 * step_s)
            assert (await player.acked())["rejected"] == []
            position -= 40
            server.clock.advance(10)
            assert (await player.play(video, position, position + 10))["rejected"] == []
            record = ok(await api.get(f"/progress/{user}/{video}?detail=full"))
            assert record["position"] == position + 10
            assert record["playedDuration"] == 20
            assert parse_instant(record["lastWatched"]) <= server.clock.wall
            server.clock.advance(1)
            ok(await api.delete(f"/progress/{user}/{video}"))
            position -= 40


async def ended(player: Device) -> int | None:
    """The close code."""
    with pytest.raises(ConnectionClosed) as closed:
        await player.until("never")
    return closed.value.rcvd.code if closed.value.rcvd else None


async def test_sessions_that_a_fast_clock_ended_are_ended_once(store_server: StoreServer, prefix: str) -> None:
    """After each resubscription a process checks what it has missed.

    Sessions that began later are not ended, and an operator can still end them.
    """
    user, keys = str(uuid4()), Keys(prefix)
    async with (
        serving(redis_url=store_server.url, key_prefix=prefix) as server,
        redis.Redis.from_url(store_server.url) as store,
        rest(server) as api,
    ):

        async def run(commands: list[tuple[object, ...]]) -> list[object]:
            return [await store.execute_command(*command) for command in commands if command[0] != "SPUBLISH"]  # type: ignore[no-untyped-call] # redis-py has no types here

        async def cut() -> None:
            """Cut every subscription, and wait until they are back."""
            assert await store.execute_command("CLIENT", "KILL", "TYPE", "pubsub") >= 1  # type: ignore[no-untyped-call] # redis-py has no types here
            async with asyncio.timeout(PATIENCE_S):
                while not dict(await store.pubsub_shardnumsub(keys.ended))[keys.ended.encode()]:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

        async with device(server, user) as player:
            await EndedSessions(run, keys, DamageLog()).add(user, server.clock.wall + 86_400_000)
            await cut()
            assert await ended(player) == 4500
        for _ in range(2):
            server.clock.advance(60)
            async with device(server, user) as player:
                await cut()
                assert (await player.play(str(uuid4()), 0, 10))["rejected"] == []
        async with device(server, user) as player:
            ok(await api.delete(f"/sessions/{user}"))
            assert await ended(player) == 4500


async def test_sessions_that_began_before_the_clock_was_set_back_can_be_ended(
    store_server: StoreServer, prefix: str
) -> None:
    """Also by a process that missed the message."""
    user, keys = str(uuid4()), Keys(prefix)
    clock = FakeClock(START_MS + 86_400_000)
    async with (
        serving(clock, redis_url=store_server.url, key_prefix=prefix) as server,
        redis.Redis.from_url(store_server.url) as store,
        contextlib.AsyncExitStack() as stack,
    ):
        player = await stack.enter_async_context(device(server, user))
        clock.wall = START_MS
        await store.zadd(keys.ended, {user: START_MS})
        assert await store.execute_command("CLIENT", "KILL", "TYPE", "pubsub") >= 1  # type: ignore[no-untyped-call] # redis-py has no types here
        assert await ended(player) == 4500
