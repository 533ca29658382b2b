"""Each documented store, with the configuration files that we ship, keeps what was acked when it is restarted.

`make faults` tests the same under load, and with more faults.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from playhead.storage.keys import Keys
from playhead.storage.maintenance.store_audit import concerns
from tests.clustered import Member, at_once, by_keys
from tests.configurations import CONFIGURATIONS
from tests.configured import Cluster, Stores, configured, until
from tests.device import PATIENCE_S, device
from tests.inside import parts_of
from tests.rest import ok, rest
from tests.serving import Running, serving
from tests.storage.own_store import opened

LEARNERS = 5
Played = dict[tuple[str, str], list[list[int]]]
"""The acked seconds of each learner and video."""
Move = Callable[[Member, Member, int], Iterator[None]]


def rows() -> Iterator[Any]:
    """Each configuration once, on Redis 7 and Valkey in turn; `make faults` restarts each of them on both."""
    for number, configuration in enumerate(CONFIGURATIONS.values()):
        kind = configuration.kinds[number % len(configuration.kinds)]
        yield pytest.param((configuration.name, kind), id=f"{configuration.name}-{kind}")


@pytest.fixture(params=list(rows()))
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stores]:
    name, kind = request.param
    with configured(name, kind, tmp_path) as stores:
        yield stores


async def test_acked_reports_survive_a_restart(stores: Stores) -> None:
    """Every server that accepts writes is restarted while the service goes on.

    Later acks are durable too. The warnings at startup are those that the documents describe for this store.
    """
    durability = stores.configuration.durability(stores.kind)
    played: Played = {}
    async with served(stores, durability) as (server, http):
        await play(server, played, 0)
        await asyncio.to_thread(stores.restart, signal.SIGTERM, replicas_too=False)
        await answers(http)
        await play(server, played, 40)
        assert await held(http, played) == played
        ready = ok(await http.get("/readyz"))
    notes = ready.get("notes", [])
    if stores.kind == "redis7" and durability != "memory":
        (note,) = notes
        assert "too old for WAITAOF" in note
    else:
        assert notes == []
    async with served(stores, durability) as (_, http):
        assert await held(http, played) == played
    async with opened(stores.url) as store:
        await store.check()
        told = await concerns(parts_of(store).link)
    if stores.configuration.file == "no":
        assert ["no append-only file" in sentence for sentence in told] == [True]
    else:
        assert told == []


@pytest.mark.parametrize("move", [by_keys, at_once])
async def test_slots_move_on_a_cluster_with_users(tmp_path: Path, move: Move) -> None:
    """With the permissions that the documents add, nothing is lost during the move; without them Valkey moves no slot
    at once."""
    played: Played = {}
    with configured("cluster-users", "valkey", tmp_path) as stores:
        assert isinstance(stores, Cluster)
        servers = stores.members
        async with served(stores, "memory") as (server, http):
            await play(server, played, 0)
            key = Keys().progress(next(iter(played))[0])
            source = servers.primary_of(key)
            target = next(member for member in servers.primaries() if member is not source)
            slot = int(source.ask("CLUSTER", "KEYSLOT", key))
            if move is at_once:
                await asyncio.to_thread(list, at_once(source, target, slot))
                await asyncio.to_thread(until, lambda: "failed" in str(source.ask("CLUSTER", "GETSLOTMIGRATIONS")))
                assert servers.primary_of(key) is source
                stores.allow_slot_migration()
            for _ in move(source, target, slot):
                await play(server, played, 40)
            await asyncio.to_thread(until, lambda: servers.primary_of(key) is target)
            await play(server, played, 80)
            assert await held(http, played) == played


@asynccontextmanager
async def served(stores: Stores, durability: str) -> AsyncIterator[tuple[Running, httpx.AsyncClient]]:
    async with (
        serving(redis_url=stores.url, durability=durability, store_timeout_s=2.0) as server,
        rest(server) as http,
    ):
        yield server, http


async def play(server: Running, played: Played, start: int) -> None:
    """Each learner plays half a minute of a video of their own and of one that all watch, until it is acked."""

    async def one(number: int) -> None:
        user, videos, end = str(uuid4()), (str(uuid4()), f"00000000-0000-4000-8000-{start:012}"), start + 20 + number
        async with device(server, user) as player:
            for video in videos:
                await player.beat(video, played=[[start, end]], position=end, state="playing", span=60_000)
            assert (await player.acked())["rejected"] == []
        for video in videos:
            played[user, video] = [[start, end]]

    await asyncio.gather(*map(one, range(LEARNERS)))


async def held(http: httpx.AsyncClient, played: Played) -> Played:
    """What the service returns for these learners and videos."""
    answers = {key: await http.get(f"/progress/{'/'.join(key)}?detail=full") for key in played}
    return {key: ok(answer)["seen"] for key, answer in answers.items() if answer.status_code == 200}


async def answers(http: httpx.AsyncClient) -> None:
    """Wait until the service is ready again."""
    async with asyncio.timeout(PATIENCE_S):
        while (await http.get("/readyz")).status_code != 200:  # noqa: ASYNC110 nothing tells us
            await asyncio.sleep(0.05)
