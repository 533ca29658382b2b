"""Faults of the server: SIGTERM during a flush, SIGSTOP, full buffers, and learners who send too much."""

import asyncio
import contextlib
import os
import signal
from uuid import uuid4

from tests.faults.cases.kills import STAGES
from tests.faults.effort import Effort
from tests.faults.players import Player
from tests.faults.scene import Row, scene

VIDEO_S = 600
WAITING = 200
"""Reports that a player may have waiting before it pauses."""


async def cancelled(place: str, effort: Effort) -> list[Row]:
    """SIGTERM during a stage: the flush is cancelled, and repeated before the server ends.

    No player uses HTTP, because a pending request would delay the end until the flush is done.
    """
    rows = []
    async with scene(place, http=False) as s:
        for stage, needle in list(STAGES.items())[effort.times(0, 1) :]:

            async def fault(needle: bytes = needle) -> None:
                assert s.place.relay is not None
                catch = s.place.relay.catch(needle)
                await catch.caught.wait()
                await s.service.stop()
                catch.let_go(drop=False)

            name = f"SIGTERM while {stage} of a flush is held back"
            rows.append(await s.under(Row(name, place), fault, effort.times(5, 1)))
    return rows


async def stopped(place: str, effort: Effort) -> list[Row]:
    """SIGSTOP of the server, like a machine that swaps or a container that is moved."""
    async with scene(place) as s:
        seconds = effort.either(10, 1)

        async def fault() -> None:
            os.kill(s.service.pid, signal.SIGSTOP)
            await asyncio.sleep(seconds)
            os.kill(s.service.pid, signal.SIGCONT)

        return [await s.under(Row(f"the server is stopped for {seconds} s", place), fault, effort.times(3, 1))]


async def full(place: str, effort: Effort) -> list[Row]:
    """More reports wait than the server may hold while the store is unavailable: players are disconnected, and send all
    of their reports again later.

    A learner's share is a quarter of the bound. It must hold what a client sends without an ack (48 reports), or a
    client with more would be disconnected again and again. A cluster's ack takes a second, so the bound must also hold
    the reports of one second.
    """
    room, seconds = 250, effort.either(5, 4)
    row = Row(f"more than {room} reports wait while the store is unavailable", place)
    async with scene(place, MAX_PENDING_REPORTS=str(room)) as s:

        def came_back() -> int:
            return sum(player.client.retries for player in s.fleet.players)

        async def fault() -> None:
            pids, before = s.place.pids(), came_back()
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(seconds)
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            row.remark = f"players disconnected {came_back() - before} times in the last run"
            if came_back() == before:
                row.wrong.append("no player was disconnected")

        return [await s.under(row, fault, effort.times(3, 1))]


async def share(place: str, effort: Effort) -> list[Row]:
    """One learner with four devices reports on more videos than may wait while the store is unavailable: only these
    devices are disconnected, and they send all of their reports again later."""
    room, seconds = 320, effort.either(3, 1)
    row = Row(f"one learner has more than {room} reports waiting while the store is unavailable", place)
    async with (
        scene(place, players=6, http=False, MAX_PENDING_REPORTS=str(room), MAX_PENDING_VIDEOS="5000") as s,
        contextlib.AsyncExitStack() as stack,
    ):
        others, user = list(s.fleet.players), str(uuid4())
        videos = [{str(uuid4()): VIDEO_S for _ in range(room // 4)} for _ in range(4)]
        eager = [s.fleet.join(s.service.running.http, user, s.dice, transports=("ws",), videos=each) for each in videos]
        for player in eager:
            await stack.enter_async_context(player.client)
            s.fleet.follow(player)

        def came_back(players: list[Player]) -> int:
            return sum(player.client.retries for player in players)

        async def fault() -> None:
            pids, before, calm = s.place.pids(), came_back(eager), came_back(others)
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            for player in eager:
                player.report_all()
            await asyncio.sleep(seconds)
            if came_back(others) != calm:
                row.wrong.append("other learners were disconnected")
            if came_back(eager) == before:
                row.wrong.append("no device of the learner was disconnected")
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

        return [await s.under(row, fault, effort.times(3, 1))]


async def many_videos(place: str, effort: Effort) -> list[Row]:
    """One learner reports on thousands of videos while 12 others watch. A connection may have 20 videos waiting here;
    beyond that it is disconnected, and reconnects later."""
    rows = []
    async with scene(place, players=12, MAX_PENDING_VIDEOS="20") as s:
        for transport, count in (("ws", effort.either(2_000, 40)), ("http", effort.either(3_000, 150))):
            videos = {str(uuid4()): VIDEO_S for _ in range(count)}
            where, user = s.service.running.http, str(uuid4())
            eager = s.fleet.join(where, user, s.dice, transports=(transport,), videos=videos)
            eager.wait_s = (
                0.02  # plays of many videos at the same time are short; longer ones would be capped, and rightly so
            )

            async def fault(eager: Player = eager, videos: dict[str, int] = videos) -> None:
                for video in videos:
                    while len(eager.client.pending) > WAITING:  # noqa: ASYNC110 a player that waits for its acks
                        await asyncio.sleep(0.01)
                    eager.report(video)

            async with eager.client:
                s.fleet.follow(eager)
                row = Row(f"one player reports on {count:,} videos by {transport}", place)
                rows.append(await s.under(row, fault))
                s.fleet.players.remove(eager)
        return rows
