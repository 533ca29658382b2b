"""kill -9 of whatever runs: the server at random instants and at each step of a commit, a worker, the store."""

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
"""For acks on their way to arrive, when the store makes no more."""


async def server(place: str, effort: Effort) -> list[Row]:
    """At any instant of a flush, or between two. The embedded store follows its owner; another one lives on."""
    async with scene(place) as s:

        async def fault() -> None:
            await asyncio.sleep(s.dice.random() * 0.2)
            await s.service.kill()

        rows = [await s.under(Row("kill -9 of the server", place), fault, effort.times(20, 2))]
        if place == "embedded":

            async def both() -> None:
                await s.service.kill(also=s.place.pids())

            rows.append(
                await s.under(Row("kill -9 of the server and its store at once", place), both, effort.times(5, 1))
            )
        return rows


async def between_the_stages(place: str, effort: Effort) -> list[Row]:
    """Held by the relay right before a stage's script, or right before its answer; the server is killed there. What was
    held is dropped, or comes to the store late, after the next server has gone on; an embedded store has ended too."""
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
    """One of two; it is replaced, and the other goes on."""
    async with scene(place, workers=2) as s:

        async def fault() -> None:
            await asyncio.sleep(s.dice.random() * 0.2)
            await kill_a_worker(s.service, s.dice)

        times = effort.times(20 if place == "embedded" else 5, 2)
        return [await s.under(Row("kill -9 of one of two workers", place), fault, times)]


async def kill_a_worker(service: Service, dice: random.Random) -> None:
    """One that has players."""
    while not (serving := _workers(service)):  # noqa: ASYNC110 no event tells of another's child
        await asyncio.sleep(0.01)
    victim = dice.choice(serving)
    os.kill(victim, signal.SIGKILL)
    await gone([victim])


def _workers(service: Service) -> list[int]:
    """Children that hold players' connections."""
    found = []
    for pid in descendants(service.pid):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if connections(pid, service.port):
                found.append(pid)
    return sorted(found)


async def store(place: str, effort: Effort) -> list[Row]:
    """At any instant; then with the head of a command behind the last one in its file, as a power cut leaves it."""
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
    """All of the data, or their last bytes, are lost while the store is down.

    What was acked before counts only as far as the damaged files still hold it. All else must be there, every device
    must know exactly what is there, and after one more report of each record the totals are right again.
    """
    rows = []
    async with scene(place) as s:
        for name, change, remark in (
            (f"the store's file cut by {CUT_BYTES:,} bytes", cut, "acked before the cut: as the file still has it"),
            ("the store starts empty", wipe, "acked before it was emptied: not compared"),
        ):
            row = Row(name, place)

            async def fault(row: Row = row, change: Change = change, remark: str = remark) -> None:
                row.remark = f"{remark} ({await damaged(s, change):,} in the last run)"
                s.fleet.lap()

            rows.append(await s.under(row, fault, effort.times(3, 1)))
    return rows


async def between(place: str, effort: Effort) -> list[Row]:
    """The data are lost after stage 1 and before stage 2 of one commit: its heartbeats must not be acked for that."""
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
    """Kill the store, change its files, start it. How many heartbeats were acked before: the ledger forgets them."""
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
