"""The cost of reading many records: requests from the same bucket, by the number and the size of records read."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from playhead.protocol.record import Record, Report
from playhead.server.limits.rates import Bucket
from playhead.storage.store import open_store
from playhead.storage.values.packing import pack_record
from playhead.storage.write.pending import Batch, Delta
from tests.conftest import StoreServer
from tests.device import JSON, Device
from tests.inside import keys_of, parts_of
from tests.rest import iso, ok, refused, rest
from tests.security.callers import bearer, close_code, guarded, learner, say_hello, socket
from tests.security.issuer import token
from tests.serving import START_MS, Running

BURST = 10
MANY, FEW = 1_500, 200
MANY_COST, FEW_COST = 1 + 3, 1


def video(n: int) -> str:
    return f"7c9e6679-7425-40de-944b-{n:012d}"


@pytest.fixture
async def server(store_server: StoreServer, prefix: str) -> AsyncIterator[Running]:
    """A server on which users have BURST requests, and no more for a long time."""
    limits = {"requests_burst": BURST, "requests_per_s": 0.001, "user_hellos_burst": 100}
    async with guarded(store_server, prefix, **limits) as running:
        yield running


@pytest.fixture
async def api(server: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with rest(server) as client:
        yield client


async def with_records(server: Running, count: int, value: bytes | None = None) -> str:
    """A learner with a number of records, or with many copies of one."""
    user = str(uuid4())
    store = open_store(str(server.settings.redis_url), worker="filling", key_prefix=server.settings.key_prefix)
    if value is not None:
        key = keys_of(store).progress(user)
        for n in range(count):
            await parts_of(store).run([("HSET", key, "rev", 1, video(n), value)])
    for start in range(0, count if value is None else 0, 500):
        batch = Batch()
        for n in range(start, min(count, start + 500)):
            batch.deltas[user, video(n)] = Delta([Report(START_MS, START_MS, claimed=9)])
        await store.commit(batch, START_MS, lambda user_id: False)
    await store.close()
    return user


async def affordable(api: httpx.AsyncClient, user: str, path: str, most: int = 12) -> int:
    """How many such requests are answered before one is refused. The refusal has a retry delay."""
    for count in range(most):
        answer = await api.get(path, headers=bearer(token(user)))
        if answer.status_code != 200:
            refused(answer, "rate")
            assert int(answer.headers["retry-after"]) >= 1
            return count
    return most


@pytest.mark.parametrize("path", ["/progress/{}", "/progress/{}?detail=full", "/progress/engagement/{}"])
async def test_reads_are_charged_by_the_number_of_records(server: Running, api: httpx.AsyncClient, path: str) -> None:
    """With a usual number of videos a read costs as much as any request."""
    many, few = await with_records(server, MANY), await with_records(server, FEW)
    assert await affordable(api, few, path.format(few)) == BURST // FEW_COST
    assert await affordable(api, many, path.format(many)) == BURST // MANY_COST


async def test_recent_changes_are_cheap_however_many_records_there_are(server: Running, api: httpx.AsyncClient) -> None:
    """The trail lists recent changes. Only a device that was away for long has all records searched."""
    user = await with_records(server, MANY)
    assert await affordable(api, user, f"/progress/{user}?since={MANY - 5}") == BURST
    other = await with_records(server, MANY)
    assert await affordable(api, other, f"/progress/{other}?since=5") == BURST // MANY_COST


async def test_large_records_are_charged_by_size(server: Running, api: httpx.AsyncClient) -> None:
    """Their cost is known once they are read, so the next requests wait."""
    comb = [second for n in range(2_000) for second in (70_000 + 2 * n, 70_001 + 2 * n)]
    value = pack_record(Record(rev=1, last_watched=9, seen=comb, again=comb))
    user = await with_records(server, 100, value)
    assert await affordable(api, user, f"/progress/{user}") == 1


async def test_a_sync_is_answered_and_charged_later(server: Running, api: httpx.AsyncClient) -> None:
    """A stored sync is not refused because of the cost of the response."""
    user = await with_records(server, MANY)
    item: dict[str, Any] = {"videoId": video(1), "watchedDuration": 9, "lastWatched": iso(START_MS)}
    body, headers = {"userId": user, "progressData": [item]}, bearer(token(user))
    for _ in range(3):
        assert len(ok(await api.post("/progress/sync", json=body, headers=headers))["progressData"]) == MANY
    refused(await api.post("/progress/sync", json=body, headers=headers), "rate")


async def test_hello_and_sync_cost_the_same(server: Running) -> None:
    """A user without enough requests left is asked to retry later, by goodbye and close code.

    A device that lacks little pays nothing.
    """
    user = await with_records(server, MANY)
    for _ in range(BURST // (MANY_COST - 1)):
        async with learner(server, token(user), user) as player:
            assert len(player.records) == MANY
    async with socket(server) as opened:
        said = await say_hello(opened, token(user))
        assert (said["type"], said["code"]) == ("goodbye", "rate")
        assert said["retryAfter"] > 0
        assert await close_code(opened) == 4003
    async with socket(server) as opened:
        player = Device(opened, user, "page", JSON)
        await player.hello(token=token(user), since=MANY - 1)
        await player.send(type="sync", since=MANY - 2)
        await player.until("synced")
        await player.send(type="sync", since=0)
        assert (await player.until("goodbye"))["code"] == "rate"


async def test_services_are_not_charged(server: Running, api: httpx.AsyncClient) -> None:
    user = await with_records(server, MANY)
    headers = bearer(token(str(uuid4()), scope="progress:any"))
    for _ in range(4):
        ok(await api.get(f"/progress/{user}", headers=headers))


def test_debts_are_bounded_and_paid_off() -> None:
    """A debt is at most the burst, however much was read."""
    bucket = Bucket(1.0, 10.0, 0.0)
    bucket.owe(0.0, 4.0)
    assert bucket.take(0.0, 6.0)
    bucket.owe(0.0, 1_000.0)
    assert not bucket.take(10.5)
    assert bucket.take(11.0)
