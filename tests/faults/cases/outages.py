"""The store runs, but does not answer, answers late, or its answers are lost."""

import asyncio
import os
import signal
from uuid import uuid4

from tests.faults.cases.kills import STAGES
from tests.faults.effort import Effort
from tests.faults.scene import Row, scene


async def stopped(place: str, effort: Effort) -> list[Row]:
    """SIGSTOP: the store accepts connections and data, and answers nothing."""
    rows = []
    async with scene(place) as s:
        for seconds in effort.either((1, 10, 60), (1, 3)):

            async def fault(seconds: int = seconds) -> None:
                pids = s.place.pids()
                for pid in pids:
                    os.kill(pid, signal.SIGSTOP)
                await asyncio.sleep(seconds)
                for pid in pids:
                    os.kill(pid, signal.SIGCONT)

            rows.append(await s.under(Row(f"the store is stopped for {seconds} s", place), fault))
    return rows


async def line(place: str, effort: Effort) -> list[Row]:
    """Faults of the network between the service and its store."""
    timeout_s = effort.either(5.0, 1.0)
    async with scene(place, STORE_TIMEOUT_S=str(timeout_s)) as s:
        relay = s.place.relay
        assert relay is not None

        async def slow() -> None:
            relay.delay_s = 0.2
            await asyncio.sleep(effort.either(10, 1))
            await s.fleet.more(20)
            relay.delay_s = 0.0

        async def resets() -> None:
            for _ in range(10):
                relay.reset()
                await asyncio.sleep(s.dice.random() * 0.1)

        async def dark() -> None:
            relay.darken()
            await asyncio.sleep(timeout_s * 2.5)
            relay.lighten()

        rows = [
            await s.under(Row("each answer of the store is 200 ms late", place), slow),
            await s.under(Row("all connections to the store reset, ten times", place), resets, effort.times(10, 1)),
            await s.under(Row(f"nothing passes for {timeout_s * 2.5:g} s, then everything", place), dark),
        ]
        for stage, needle in STAGES.items():

            async def lost(needle: bytes = needle) -> None:
                catch = relay.catch(needle, answer=True)
                await catch.caught.wait()
                catch.let_go(drop=True)

            name = f"the answer to {stage} is lost after its script has run"
            rows.append(await s.under(Row(name, place), lost, effort.times(10, 1)))
        return rows


async def silent(place: str, effort: Effort) -> list[Row]:
    """The service's subscription connections stay open and stop carrying data. Connected players are unaffected, and
    new ones are accepted as soon as the service has given up these connections."""
    ways = {"either way": (True, True), "towards the store": (True, False), "towards the service": (False, True)}
    rows = []
    async with scene(place, nodes=2, STORE_TIMEOUT_S=str(effort.either(5.0, 1.0))) as s:
        relay = s.place.relay
        assert relay is not None
        for way, (asked, answered) in ways.items():
            row = Row(f"the subscriptions carry no data {way}", place)

            async def fault(row: Row = row, asked: bool = asked, answered: bool = answered) -> None:
                if not relay.silence(b"SSUBSCRIBE", asked=asked, answered=answered):
                    row.wrong.append("nothing was subscribed")
                newcomer = s.fleet.join(s.service.running.http, str(uuid4()), s.dice, transports=("ws",))
                async with newcomer.client:
                    s.fleet.follow(newcomer)
                    newcomer.report()
                    await newcomer.client.flush()
                s.fleet.players.remove(newcomer)

            rows.append(await s.under(row, fault, effort.times(3, 1)))
    return rows
