"""Wall clocks that are wrong or are set: of a node, of the store, and of the machine that runs both."""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import httpx

from tests.faketime import LIBRARY, WITHOUT, WallClock
from tests.faults.effort import Effort
from tests.faults.place import Missing
from tests.faults.players import PATIENCE_S
from tests.faults.scene import Row, Scene, scene

DAY_S = 86_400
NEAR_MS = 1_000
"""How much a node's measurement of its clock's offset may be off on a busy machine."""


@contextlib.contextmanager
def wall_clock() -> Iterator[WallClock]:
    if LIBRARY is None:
        raise Missing(WITHOUT)
    with TemporaryDirectory(prefix="faults-clock-") as directory:
        yield WallClock(Path(directory) / "offset")


async def of_a_node(place: str, effort: Effort) -> list[Row]:
    """Two nodes on one store, with devices of the same learner on both; the wall clock of one node is wrong.

    It has no effect, not even on what was played before or after a deletion by the other node.
    """
    with wall_clock() as wall:
        async with scene(place, nodes=2, own=({}, wall.environment)) as s:
            rows = []
            for name, offsets_s in (
                ("one node's clock is a minute ahead", (60,)),
                ("one node's clock is a day ahead for a while, then right", (DAY_S, 0)),
                ("one node's clock is set back and on by an hour", (-3_600, 3_600, -3_600, 0)),
            ):
                row = Row(name, place)

                async def fault(row: Row = row, offsets_s: Sequence[int] = offsets_s) -> None:
                    for offset_s in offsets_s:
                        wall.set(offset_s)
                        await _wait_for_offset(s, -1, 1_000 * offset_s)
                        await s.fleet.more(effort.either(120, 40))
                        await _deletions(s, row)

                rows.append(await s.under(row, fault, effort.times(3, 1)))
            return rows


async def of_the_store(place: str, effort: Effort) -> list[Row]:
    """The store's clock, which all nodes use, is set while all play: ahead and back, then back and ahead.

    The nodes follow it. Coverage and played time do not depend on it. When it is right again, so are new reports.
    """
    embedded = place == "embedded"
    with wall_clock() as wall:
        faked = {"own": (wall.environment,)} if embedded else {"store_env": wall.environment, "nodes": 2}
        async with scene(place, live=True, http=False, **faked) as s:
            rows = []
            for name, by_s in (("on by an hour", 3_600), ("back by an hour", -3_600), ("on by a day", DAY_S)):
                if effort.short and by_s == DAY_S:
                    continue
                row = Row(f"the store's clock is put {name}, and then right again", place)

                async def fault(row: Row = row, by_s: int = by_s) -> None:
                    for offset_s in (by_s, 0):
                        wall.set(offset_s)
                        for node in range(len(s.services)):
                            await _wait_for_offset(s, node, 0 if embedded else -1_000 * offset_s)
                        await s.fleet.more(effort.either(120, 40))
                        await _deletions(s, row)
                    s.fleet.lap()

                rows.append(await s.under(row, fault, effort.times(3, 1)))
            return rows


async def _wait_for_offset(s: Scene, node: int, offset_ms: int) -> None:
    """Wait until the node knows how far its machine's clock is ahead of the store's. Raises TimeoutError."""
    async with _rest(s, node) as http, asyncio.timeout(PATIENCE_S):
        while True:
            ready = (await http.get("/readyz")).json()
            if "clock" in ready and abs(ready["clock"]["offsetMs"] - offset_ms) < NEAR_MS:
                return
            await asyncio.sleep(0.05)


async def _deletions(s: Scene, row: Row) -> None:
    """A learner plays, deletes and plays again, by alternating nodes."""
    async with contextlib.AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(_rest(s, node)) for node in range(len(s.services))]
        for first, second in zip(nodes, reversed(nodes), strict=True):
            user, video = str(uuid4()), str(uuid4())
            await _play(first, user, video, 1, 0, row)
            await _play(second, user, video, 2, 100, row)
            await _play(first, user, video, 3, 50, row)
            if (await second.delete(f"/progress/{user}/{video}")).status_code != 200:
                row.wrong.append("a deletion found nothing")
            await _play(first, user, video, 4, 20, row)
            record = (await second.get(f"/progress/{user}/{video}?detail=full")).json()
            if (record.get("seen"), record.get("position")) != ([[20, 30]], 30):
                row.wrong.append(f"after a deletion: {record}")


async def _play(http: httpx.AsyncClient, user: str, video: str, seq: int, start: int, row: Row) -> None:
    beat = {"seq": seq, "videoId": video, "played": [[start, start + 10]], "position": start + 10, "span": 10_000}
    body = {"userId": user, "session": "page", "heartbeats": [beat]}
    (ack,) = (await http.post("/progress/realtime", json=body)).json()["acks"]
    if ack.get("rejected"):
        row.wrong.append(f"play {seq}: {ack['rejected']}")
    record = (await http.get(f"/progress/{user}/{video}?detail=full")).json()
    if record.get("position") != start + 10:
        row.wrong.append(f"play {seq}: the position is {record.get('position')}, not {start + 10}")


def _rest(s: Scene, node: int) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=s.services[node].running.http, timeout=PATIENCE_S, trust_env=False)
