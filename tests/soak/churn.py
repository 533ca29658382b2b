"""Learners who connect to the real program, watch, disconnect in every way and reconnect; then nothing may be left.

Between two rounds all clients are disconnected. The gauges of the process must then be as after the first round:
connections, waiting reports, tasks, descriptors, and memory, except what an allocator keeps. A witness watches
throughout: of the seconds acked to it, none may be missing or counted twice.
"""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import httpx
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from playhead.storage.connection.primary import MAX_CONNECTIONS
from tests.device import JSON, MSGPACK, Device, device
from tests.ports import free_port
from tests.rest import ok, rest
from tests.server.program import Program, serve
from tests.serving import Running

SETTLE_S = 60.0
"""Bound on the wait until nothing is left of disconnected clients; idle subscriptions end after two store timeouts."""
REGULARS = 200
VIDEOS = 40
SPARE_BYTES = 32 * 1_048_576
"""Memory that an allocator may keep, or that is not worth a collection yet (lifecycle/gc_schedule.py, 20 MB)."""
PATIENT = {
    "PLAYHEAD_FRAMES_BURST": "1000000",
    "PLAYHEAD_HELLOS_PER_S": "100000",
    "PLAYHEAD_ADDRESS_REQUESTS_BURST": "1000000000",
    "PLAYHEAD_ADDRESS_REQUESTS_PER_S": "1000000",
    "PLAYHEAD_FLUSH_INTERVAL_S": "0.1",
    "PLAYHEAD_STORE_TIMEOUT_S": "2",
}
GONE = (ConnectionClosed, InvalidHandshake, OSError, EOFError, TimeoutError)


class Unsettled(AssertionError):
    """Something is left of disconnected clients; the message names it."""


@dataclass(frozen=True, slots=True)
class State:
    """Gauges of the process when no client but the scraper is connected."""

    connections: int
    waiting: int
    tasks: int
    descriptors: int
    rss_bytes: int

    def beyond(self, base: "State") -> list[str]:
        """The gauges that exceed `base`. The pool of store connections may have grown with demand, up to its bound."""
        bounds = {
            "connections": 0,
            "waiting": 0,
            "tasks": base.tasks,
            "descriptors": base.descriptors + MAX_CONNECTIONS,
            "rss_bytes": base.rss_bytes + SPARE_BYTES,
        }
        return [
            f"{name}: {getattr(self, name):,}, at most {most:,}"
            for name, most in bounds.items()
            if getattr(self, name) > most
        ]


async def state_of(api: httpx.AsyncClient) -> State:
    samples: Counter[str] = Counter()
    for family in text_string_to_metric_families((await api.get("/metrics")).text):
        for sample in family.samples:
            samples[sample.name] += int(sample.value)
    names = ("playhead_connections", "playhead_pending_reports", "playhead_tasks", "process_open_fds")
    connections, waiting, tasks, descriptors = (samples[name] for name in names)
    return State(connections, waiting, tasks, descriptors, samples["process_resident_memory_bytes"])


async def settled(api: httpx.AsyncClient, base: State | None = None) -> State:
    """Wait until nothing is left of disconnected clients, and return the state: until it does not exceed `base`, or
    without one, until it no longer changes.

    Raises:
        Unsettled: something was still left after SETTLE_S.
    """
    until, calm = time.monotonic() + SETTLE_S, 0
    before = await state_of(api)
    while True:
        await asyncio.sleep(0.2)
        state = await state_of(api)
        if base is not None:
            left = state.beyond(base)
        else:
            calm = calm + 1 if (state.tasks, state.descriptors) == (before.tasks, before.descriptors) else 0
            left = [] if calm >= 5 and not state.connections + state.waiting else [repr(state)]
        if not left:
            return state
        if time.monotonic() > until:
            raise Unsettled("; ".join(left))
        before = state


@dataclass
class Crowd:
    """Actors that each play one client after another, until the end of a round."""

    server: Running
    api: httpx.AsyncClient
    dice: random.Random
    lives: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._regulars = [self._id() for _ in range(REGULARS)]
        self._videos = [self._id() for _ in range(VIDEOS)]
        self._ways: dict[str, Callable[[], Awaitable[None]]] = {
            "watched and left": self._watch,
            "vanished": self._vanish,
            "vanished amid a frame": self._vanish_amid_a_frame,
            "came back": self._come_back,
            "never said hello": self._say_nothing,
            "spoke nonsense": self._speak_nonsense,
            "asked by REST": self._ask,
        }

    async def act(self, until: float) -> None:
        while time.monotonic() < until:
            way = self.dice.choice(list(self._ways))
            self.lives[way] += 1
            with contextlib.suppress(*GONE):
                await self._ways[way]()

    def _id(self) -> str:
        return str(UUID(int=self.dice.getrandbits(128), version=4))

    def _user_id(self) -> str:
        """A userId, usually of a learner who has connected before."""
        return self.dice.choice(self._regulars) if self.dice.random() < 0.8 else self._id()

    def _device(self, session: str | None = None) -> contextlib.AbstractAsyncContextManager[Device]:
        return device(self.server, self._user_id(), session, self.dice.choice((JSON, MSGPACK)))

    async def _beat(self, player: Device) -> None:
        at = self.dice.randrange(3_000)
        await player.beat(self.dice.choice(self._videos), played=[[at, at + 5]], position=at + 5, state="playing")

    async def _watch(self) -> None:
        async with self._device() as player:
            for _ in range(self.dice.randrange(1, 6)):
                await self._beat(player)
            await player.acked()

    async def _vanish(self) -> None:
        """Abort the connection while reports and acks are in transit."""
        async with self._device() as player:
            for _ in range(self.dice.randrange(4)):
                await self._beat(player)
            player.socket.transport.abort()

    async def _vanish_amid_a_frame(self) -> None:
        async with self._device() as player:
            await self._beat(player)
            player.socket.transport.write(b"\x81\xfe\x10\x00half a frame")
            player.socket.transport.abort()

    async def _come_back(self) -> None:
        """Connect three times in the same session, with and without a close in between."""
        user, session = self._user_id(), f"{self.dice.getrandbits(64):x}"
        for seq in range(1, 4):
            async with device(self.server, user, session) as player:
                player.seq = seq - 1
                await self._beat(player)
                await player.acked()
                if self.dice.random() < 0.5:
                    player.socket.transport.abort()

    async def _say_nothing(self) -> None:
        async with connect(self.server.ws) as socket:
            await socket.ping()
            socket.transport.abort()

    async def _speak_nonsense(self) -> None:
        async with connect(self.server.ws) as socket:
            await socket.send(self.dice.randbytes(20))
            await socket.wait_closed()

    async def _ask(self) -> None:
        user, video = self._user_id(), self.dice.choice(self._videos)
        body = {"userId": user, "videoId": video, "watchedDuration": self.dice.randrange(600)}
        ok(await self.api.post("/progress/update", json=body | {"lastWatched": "2024-05-01T10:00:00Z"}))
        ok(await self.api.get(f"/progress/{user}"))
        ok(await self.api.get(f"/progress/summary/{video}"))
        assert (await self.api.delete(f"/progress/{self._id()}/{video}")).status_code == 404


class Witness:
    """Watches one video second by second, with one connection a round, and notes what was acked."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd, self.user, self.video, self.seconds = crowd, crowd._id(), crowd._id(), 0

    async def act(self, until: float) -> None:
        async with device(self._crowd.server, self.user) as player:
            while time.monotonic() < until:
                ack = await player.play(self.video, self.seconds, self.seconds + 1)
                assert not ack["rejected"], ack
                assert not ack["capped"], ack
                self.seconds += 1
                await asyncio.sleep(0.3)

    async def verify(self) -> None:
        record = ok(await self._crowd.api.get(f"/progress/{self.user}/{self.video}?detail=full"))
        assert record["seen"] == [[0, self.seconds]], record
        assert (record["again"], record["playedDuration"]) == ([], float(self.seconds)), record


@contextlib.asynccontextmanager
async def program(directory: Path) -> AsyncIterator[Program]:
    env = {**PATIENT, "PLAYHEAD_DATA_DIR": str(directory / "data")}
    async with serve(free_port(), **env) as running:
        yield running


async def soak(
    directory: Path, seconds: float, actors: int, rounds: int, seed: int
) -> list[tuple[State, Counter[str]]]:
    """Run rounds of the same length, the first only to warm up. Returns the state after each round, with the number of
    clients of each kind.

    Raises:
        Unsettled: something is left of a round.
    """
    found: list[tuple[State, Counter[str]]] = []
    async with program(directory) as running, rest(running.running) as api:
        crowd = Crowd(running.running, api, random.Random(seed))
        witness = Witness(crowd)
        for until in _ends(seconds, rounds):
            crowd.lives.clear()
            async with asyncio.TaskGroup() as everybody:
                everybody.create_task(witness.act(until()))
                for _ in range(actors):
                    everybody.create_task(crowd.act(until()))
            await witness.verify()
            found.append((await settled(api, found[0][0] if found else None), Counter(crowd.lives)))
            print(f"{found[-1][0]} after {dict(crowd.lives)}", flush=True)
        assert await running.stop() == 0
    return found


def _ends(seconds: float, rounds: int) -> Iterator[Callable[[], float]]:
    for _ in range(rounds):
        end = time.monotonic() + seconds / rounds
        yield lambda end=end: end  # type: ignore[misc]
