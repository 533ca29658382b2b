"""kill -9 at any instant: what was acked is stored, and the player resends the rest, which gives the same record.

The player does what the protocol requires: it numbers its heartbeats, keeps each until its ack, and after every lost
connection resends those not acked, with the same session, the same seqs, and their current age.
"""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from playhead.storage.embedded.valkey import EmbeddedValkey
from playhead.storage.store import open_store
from tests.conftest import StoreServer
from tests.device import JSON, Device, device
from tests.inside import parts_of, recounted
from tests.intact import intact
from tests.ports import free_port
from tests.rest import ok, rest
from tests.server.program import Program, alive, descendants, gone, serve
from tests.serving import Running, serving

BEATS = 400
BEAT_S = 5
KILLS = 4
PATIENCE_S = 60.0
"""Bound on a whole run, restarts included."""


def an_evening(dice: random.Random, videos: list[str]) -> list[dict[str, Any]]:
    """The heartbeats of one session: playing, changing the video now and then, seeking back, and rewatching parts."""
    at = dict.fromkeys(videos, 0)
    video = videos[0]
    beats = []
    for _ in range(BEATS):
        seek = dice.random() < 0.1
        if seek:
            video = dice.choice(videos)
            at[video] = dice.randrange(600)
        start, at[video] = at[video], at[video] + BEAT_S
        beats.append({"videoId": video, "played": [[start, at[video]]], "position": at[video], "seek": seek})
    return beats


@dataclass
class Player:
    """Sends its heartbeats until all are acked, over as many connections as needed."""

    user: str
    beats: list[dict[str, Any]]
    window: int
    """Heartbeats that it sends ahead of their acks."""
    session: str = field(default_factory=lambda: uuid4().hex)
    acked: int = 0
    connections: int = 0
    ended_at: float = field(default_factory=time.time)
    """When the last heartbeat happened; each other BEAT_S before the next."""

    async def play(self, server: Running) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.acked < len(self.beats):
                with contextlib.suppress(OSError, ConnectionClosed, InvalidHandshake):
                    await self._converse(server)
                await asyncio.sleep(0.01)

    async def _converse(self, server: Running) -> None:
        async with connect(server.ws) as socket:
            self.connections += 1
            link = Device(socket, self.user, self.session, JSON)
            await link.hello()
            sent = self.acked
            while self.acked < len(self.beats):
                while sent < min(self.acked + self.window, len(self.beats)):
                    sent += 1
                    happened = self.ended_at - BEAT_S * (len(self.beats) - sent)
                    age = (time.time() - happened) * 1_000
                    await link.beat(seq=sent, age=age, span=BEAT_S * 1_000, **named(self.beats[sent - 1]))
                ack = await link.until("ack")
                assert ack["session"] == self.session
                assert not ack.get("rejected"), ack
                assert not ack.get("capped"), ack
                self.acked = max(self.acked, ack["seq"])


def named(beat: dict[str, Any]) -> dict[str, Any]:
    """The heartbeat as arguments of Device.beat."""
    return {"video_id": beat["videoId"], **{key: beat[key] for key in ("played", "position", "seek")}}


@dataclass
class Service:
    """The real program, restarted whenever it was killed, on the same port and the same store."""

    port: int
    options: tuple[str, ...]
    stack: contextlib.AsyncExitStack
    program: Program | None = None

    async def start(self) -> Program:
        self.program = await self.stack.enter_async_context(serve(self.port, *self.options))
        return self.program

    def pids(self, victim: str) -> list[int]:
        """The processes to kill: the server, its embedded store, or both, the store first."""
        assert self.program is not None
        store = descendants(self.program.process.pid)
        server = [self.program.process.pid]
        return {"server": server, "store": store, "both": store + server}[victim]

    async def kill(self, victim: str) -> None:
        """SIGKILL the processes, and restart what does not restart by itself."""
        assert self.program is not None
        pids, program = self.pids(victim), self.program
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        await gone(pids)
        if victim != "store":
            await program.process.wait()
            await self.start()


@contextlib.asynccontextmanager
async def service(*options: str) -> AsyncIterator[Service]:
    async with contextlib.AsyncExitStack() as stack:
        opened = Service(free_port(), ("--flush-interval-s", "0.02", *options), stack)
        await opened.start()
        yield opened


async def records(server: Running, player: Player) -> dict[str, dict[str, Any]]:
    """All records of a player by video, without the fields that differ between runs."""
    async with rest(server) as http:
        listed = ok(await http.get(f"/progress/{player.user}?detail=full"))["progressData"]
    kept = ("seen", "again", "watchedDuration", "playedDuration", "position", "completed")
    return {record["videoId"]: {name: record[name] for name in kept} for record in listed}


async def killed_and_not(opened: Service, victim: str, seed: int, window: int) -> None:
    """Two learners with the same evening; during the first one's heartbeats `victim` is killed repeatedly."""
    dice = random.Random(seed)
    videos = [str(uuid4()) for _ in range(3)]
    evening = an_evening(dice, videos)
    unlucky, lucky = (Player(str(uuid4()), evening, window) for _ in range(2))
    assert opened.program is not None
    server = opened.program.running
    playing = asyncio.create_task(unlucky.play(server))
    try:
        for kill in range(KILLS):
            reached = len(evening) * kill // KILLS + dice.randrange(len(evening) // KILLS // 2)
            while unlucky.acked < reached:
                await asyncio.sleep(0)
                assert not playing.done(), playing.result()
            await asyncio.sleep(dice.random() * 0.03)  # at any moment of a flush
            await opened.kill(victim)
        await playing
    finally:
        playing.cancel()
        await asyncio.wait({playing})
    await lucky.play(server)
    assert unlucky.connections > 1 or victim == "store"  # two kills may happen between two connections
    expected = await records(server, lucky)
    assert set(expected) == set(videos)
    assert await records(server, unlucky) == expected
    async with rest(server) as http:
        for video in videos:
            analytics = ok(await http.get(f"/analytics/videos/{video}"))
            watched = {second for start, end in expected[video]["seen"] for second in range(start, end)}
            replayed = {second for start, end in expected[video]["again"] for second in range(start, end)}
            length = max(watched) + 1
            assert analytics["viewers"] == 2
            assert analytics["averageWatchedDuration"] == len(watched)
            assert analytics["retention"] == [2 * (second in watched) for second in range(length)]
            assert analytics["replays"] == [2 * (second in replayed) for second in range(length)]


@pytest.mark.parametrize("window", [4, 40], ids=["one-by-one", "in-bursts"])
@pytest.mark.parametrize("seed", range(2))
async def test_the_server_is_killed_and_the_store_is_not(tmp_path: Path, seed: int, window: int) -> None:
    """The server is killed in the middle of a flush, and the player resends.

    The record equals that without a kill, to the second, and the totals equal their recount.
    """
    with EmbeddedValkey(tmp_path, fsync=False) as valkey:
        async with service("--redis-url", valkey.url) as opened:
            await killed_and_not(opened, "server", seed, window)
        store = open_store(valkey.url, worker="recount", key_prefix="ph")
        try:
            (audiences,) = await parts_of(store).run([("KEYS", "ph:*:audience:*")])
            assert len(audiences) == 3
            for key in audiences:
                video = key.decode().rpartition(":")[2]
                totals, curve, _ = intact(await store.analytics(video, 0))
                assert (totals, curve) == await recounted(store, video)
        finally:
            await store.close()


@pytest.mark.parametrize("victim", ["server", "store", "both"])
async def test_the_embedded_store_is_killed_or_its_owner_or_both(tmp_path: Path, victim: str) -> None:
    """The same with the embedded store: either process is killed, or both at once."""
    async with service("--data-dir", str(tmp_path / "data")) as opened:
        await killed_and_not(opened, victim, seed=7, window=4)


@pytest.mark.parametrize("victim", ["server", "both"])
async def test_an_acked_heartbeat_survives_a_kill(tmp_path: Path, victim: str) -> None:
    """kill -9 right after the ack, of the server alone or with its store: exactly what was acked is stored."""
    user, video = str(uuid4()), str(uuid4())
    async with service("--data-dir", str(tmp_path / "data")) as opened:
        for turn in range(1, 4):
            assert opened.program is not None
            async with device(opened.program.running, user) as player:
                await player.play(video, 10 * turn, 10 * turn + 5)
                await opened.kill(victim)
            async with rest(opened.program.running) as http:
                record = ok(await http.get(f"/progress/{user}/{video}?detail=full"))
            assert record["seen"] == [[10 * t, 10 * t + 5] for t in range(1, turn + 1)]
            assert record["playedDuration"] == 5 * turn


@pytest.mark.parametrize("stored", [1, 3, 7])
async def test_an_outbox_that_is_partly_stored_already_counts_in_full(
    store_server: StoreServer, prefix: str, stored: int
) -> None:
    """The store has some heartbeats whose acks were lost.

    The player resends these together with all new ones: the old ones count once, the new ones in full.
    """
    user, video, session = (str(uuid4()) for _ in range(3))
    beats = [{"played": [[5 * i, 5 * i + 5]], "age": (100 - i) * 5_000} for i in range(20)]
    async with serving(redis_url=store_server.url, key_prefix=prefix, flush_interval_s=0.2) as server:
        for sent in (stored, len(beats)):
            async with device(server, user, session) as player:
                for beat in beats[:sent]:
                    await player.beat(video, **beat)
                await player.acked()
        async with rest(server) as http:
            record = ok(await http.get(f"/progress/{user}/{video}?detail=full"))
    assert (record["seen"], record["playedDuration"]) == ([[0, 100]], 100)


async def test_a_killed_server_leaves_no_store_behind(tmp_path: Path) -> None:
    """The embedded store ends with its owner, however that died, and the next owner can use the directory."""
    async with service("--data-dir", str(tmp_path / "data")) as opened:
        assert opened.program is not None
        (store,) = opened.pids("store")
        os.kill(opened.program.process.pid, signal.SIGKILL)
        await gone([store])
        assert not alive(store)
        await opened.program.process.wait()
        await opened.start()
