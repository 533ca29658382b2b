"""kill -9 of the server, at random times and at each step of a commit, of a worker, and of the store."""

import asyncio
import contextlib
import os
import random
import signal
from pathlib import Path

from playhead.storage.scripts import Script
from tests.faults.damage import CUT_BYTES, cut, held, tear, wipe
from tests.faults.effort import Effort
from tests.faults.place import Change
from tests.faults.scene import Row, Scene, Service, scene
from tests.server.commands.test_workers import connections
from tests.server.program import descendants, gone

STAGES = {"stage 1": Script("users").sha.encode(), "stage 2": Script("videos").sha.encode()}
QUIET_S = 0.3
"""Time for the last acks to arrive when the store has stopped."""


async def server(place: str, effort: Effort) -> list[Row]:
    """Kill the server during a flush or between two. The embedded store ends with its owner; others continue."""
    async with scene(place) as s:

        async def fault() -> None:
            await asyncio.sleep(s.dice.random() * 0.2)
            await s.service.kill()

        rows = [await s.under(Row("kill -9 of the server", place), fault, effort.times(20, 2))]
        if place == "embedded":

            async def both() -> None:
                await s.service.kill(also=s.place.pids())

            rows.append(await s.under(Row("kill -9 of the server and its store", place), both, effort.times(5, 1)))
        return rows


async def between_the_stages(place: str, effort: Effort) -> list[Row]:
    """Kill the server while the relay holds back a stage's script or its answer.

    The relay then drops it, or delivers it late, when the next server is running. An embedded store has ended too.
    """
    rows = []
    async with scene(place) as s:
        for stage in STAGES:
            for answer in (False, True):

                async def fault(stage: str = stage, answer: bool = answer) -> None:
                    catch = (await s.place.aiming()).catch(STAGES[stage], answer=answer)
                    await catch.caught.wait()
                    await s.service.kill()
                    catch.let_go(drop=s.dice.random() < 0.5)

                where = f"{'after' if answer else 'before'} {stage} of a commit"
                rows.append(await s.under(Row(f"kill -9 of the server {where}", place), fault, effort.times(5, 1)))
    return rows


async def worker(place: str, effort: Effort) -> list[Row]:
    """Kill one of two workers; it is replaced, and the other continues."""
    async with scene(place, workers=2) as s:

        async def fault() -> None:
            await asyncio.sleep(s.dice.random() * 0.2)
            await kill_a_worker(s.service, s.dice)

        times = effort.times(20 if place == "embedded" else 5, 2)
        return [await s.under(Row("kill -9 of one of two workers", place), fault, times)]


async def kill_a_worker(service: Service, dice: random.Random) -> None:
    """Kill a worker that has players."""
    while not (serving := _workers(service)):  # noqa: ASYNC110 there is no event for another process's children
        await asyncio.sleep(0.01)
    victim = dice.choice(serving)
    os.kill(victim, signal.SIGKILL)
    await gone([victim])


def _workers(service: Service) -> list[int]:
    """Child processes that hold connections of players."""
    found = []
    for pid in descendants(service.pid):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if connections(pid, service.port):
                found.append(pid)
    return sorted(found)


async def store(place: str, effort: Effort) -> list[Row]:
    """Kill the store at any time; then also with an incomplete command at the end of its file, as after a power cut."""
    async with scene(place) as s:

        async def fault() -> None:
            await asyncio.sleep(s.dice.random() * 0.2)
            await s.place.kill()

        async def torn() -> None:
            await s.place.kill(tear)

        return [
            await s.under(Row("kill -9 of the store", place), fault, effort.times(20, 2)),
            await s.under(Row("the same, the last write torn", place), torn, effort.times(5, 1)),
        ]


async def data(place: str, effort: Effort) -> list[Row]:
    """All of the data, or the last bytes of its file, are lost while the store is down.

    Of the reports acked before, only those that the damaged files still hold are expected. Everything else must be
    there, every device must know exactly the stored records, and one more report for each record makes the totals right
    again.
    """
    rows = []
    async with scene(place) as s:
        for name, change, remark in (
            (f"the store's file cut by {CUT_BYTES:,} bytes", cut, "earlier acks are expected as in the file"),
            ("the store starts empty", wipe, "earlier acks are not expected"),
        ):
            row = Row(name, place)

            async def fault(row: Row = row, change: Change = change, remark: str = remark) -> None:
                row.remark = f"{remark} ({await damaged(s, change):,} in the last run)"
                s.fleet.lap()

            rows.append(await s.under(row, fault, effort.times(3, 1)))
    return rows


async def between(place: str, effort: Effort) -> list[Row]:
    """The data are lost between stage 1 and stage 2 of a commit, so its heartbeats must not be acked."""
    rows = []
    async with scene(place) as s:
        damages = ((wipe, "its data gone"), (cut, "its file cut"))
        for change, what in damages[: effort.times(2, 1)]:

            async def fault(change: Change = change) -> None:
                relay = s.place.relay
                assert relay is not None
                catch = relay.catch(STAGES["stage 2"])
                await catch.caught.wait()
                relay.darken()
                await damaged(s, change)
                catch.let_go(drop=True)
                relay.lighten()
                s.fleet.lap()

            name = f"the store restarts between the stages of a commit, {what}"
            rows.append(await s.under(Row(name, place), fault, effort.times(5, 1)))
    return rows


async def damaged(s: Scene, change: Change) -> int:
    """Kill the store, change its files, and start it again. The ledger forgets the heartbeats acked before; returns
    their number."""
    given_up = 0

    def damage(directory: Path) -> None:
        nonlocal given_up
        change(directory)
        given_up = s.ledger.rebase({} if change is wipe else held(directory))

    for pid in s.place.pids():
        os.kill(pid, signal.SIGSTOP)
    await s.fleet.quiet(QUIET_S)
    await s.place.kill(damage)
    return given_up
