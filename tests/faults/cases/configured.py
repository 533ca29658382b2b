"""The stores that the documents describe are restarted and killed, their files rewritten, their replicas emptied.

Everything that was acked is on the server that accepts writes afterwards.
"""

import asyncio
import functools
import signal
from pathlib import Path
from typing import cast

import redis

from tests.configured import Nodes, Stores
from tests.faults.cases.kills import damaged
from tests.faults.configured import Configured
from tests.faults.effort import Effort
from tests.faults.players import PATIENCE_S
from tests.faults.scene import Act, Row, Scene, scene

TIMEOUT_S = "2"
"""The service's timeout for the store's answers."""


async def restarts(place: str, effort: Effort) -> list[Row]:
    """Restart every server of the store in turn: by SIGTERM, by kill -9, and by kill -9 after a rewrite of its file."""
    async with scene(place, STORE_TIMEOUT_S=TIMEOUT_S) as s:
        stores = _stores(s)

        async def row(name: str, act: Act) -> Row:
            return await s.under(Row(name, place), act, effort.times(3, 1))

        async def ended(number: int) -> None:
            await asyncio.to_thread(stores.restart, number)

        async def rewritten() -> None:
            await asyncio.to_thread(stores.rewrite)
            await s.fleet.more(20)
            await ended(signal.SIGKILL)

        rows = [await row("SIGTERM to each server of the store", functools.partial(ended, signal.SIGTERM))]
        if stores.configuration.file == "no":
            return [*rows, await _since_the_snapshot(s, effort)]
        rows.append(await row("kill -9 of each server of the store", functools.partial(ended, signal.SIGKILL)))
        rows.append(await row("the same after a rewrite of its files", rewritten))
        return rows


async def resyncs(place: str, effort: Effort) -> list[Row]:
    """A replica that has lost its data fetches them again and equals its primary: it takes over where sentinels or a
    cluster promote it; elsewhere the two are compared."""
    async with scene(place, STORE_TIMEOUT_S=TIMEOUT_S) as s:
        stores = _stores(s)
        takes_over = stores.configuration.topology != "replica"

        async def emptied() -> None:
            await asyncio.to_thread(stores.resync)
            if takes_over:
                await s.fleet.more(20)
                await asyncio.to_thread(stores.fail_over, signal.SIGKILL)

        async def alike() -> None:
            if isinstance(stores, Nodes) and not takes_over:
                await _same_on_both(s, stores)

        name = f"each replica starts empty{', then takes over' if takes_over else ''}"
        return [await s.under(Row(name, place), emptied, effort.times(3, 1), alike)]


async def _since_the_snapshot(s: Scene, effort: Effort) -> Row:
    """Reports acked after the last snapshot are lost with the store, and the service notices. Snapshots promise no
    more."""
    row = Row("kill -9 of a store with snapshots only", s.place.name)

    async def fault() -> None:
        (admin,) = s.place.writers()
        with admin() as client:
            client.bgsave()
            await _until_saved(client)
        await s.fleet.more(20)
        row.remark = f"earlier acks are expected as in the snapshot ({await damaged(s, _unchanged):,} in the last run)"
        s.fleet.lap()

    return await s.under(row, fault, effort.times(3, 1))


def _unchanged(directory: Path) -> None:
    """Leave the store's files as they are."""


async def _until_saved(client: "redis.Redis") -> None:
    async with asyncio.timeout(PATIENCE_S):
        while client.info("persistence")["rdb_bgsave_in_progress"]:  # noqa: ASYNC110 there is no event
            await asyncio.sleep(0.01)


async def _same_on_both(s: Scene, stores: Nodes) -> None:
    """Wait until the replica has what the primary has. Raises TimeoutError."""
    s.fleet.gate.clear()
    await s.fleet.acked(s.ledger.unacked())
    replica = stores.replica()
    assert replica is not None
    with stores.primary().admin() as one, replica.admin() as other:
        async with asyncio.timeout(PATIENCE_S):
            while _records(one) != _records(other):  # noqa: ASYNC110 there is no event
                await asyncio.sleep(0.1)


def _records(client: "redis.Redis") -> dict[bytes, dict[bytes, bytes]]:
    return {
        key: cast(dict[bytes, bytes], client.hgetall(key))
        for key in client.scan_iter(match="ph:{u*:progress:*", count=1_000)
    }


def _stores(s: Scene) -> Stores:
    assert isinstance(s.place, Configured)
    return s.place.stores
