"""Two nodes on one store behind a balancer are replaced one after the other while learners watch: no second is lost.

The balancer is the test's own and does what real ones do: it polls `/readyz` and sends new connections to ready nodes.
The players are the Python client, which knows nothing of this.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from playhead.client import Playhead
from playhead.storage.embedded.valkey import EmbeddedValkey
from playhead.storage.store import open_store
from tests.client.line import PATIENCE_S, client, until
from tests.intact import intact
from tests.ports import free_port
from tests.server.program import serve

LEARNERS = 20
LONGEST_S = 20_000
"""More seconds of video than are watched before the test ends."""
LOOK_S = 0.05
NOTICE_S = 1
"""Long enough for many polls."""


class Balancer:
    """A TCP balancer, round robin over the nodes that were ready at the last poll.

    A connection is tried on all of them before it fails.
    """

    def __init__(self) -> None:
        self.port = 0
        self.nodes: dict[int, bool] = {}
        self.failed = 0
        """Connections that no node took."""
        self._turn = 0

    async def look(self) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=2) as api:
            while True:
                for port in list(self.nodes):
                    with contextlib.suppress(KeyError):
                        self.nodes[port] = await ready(api, port)
                await asyncio.sleep(LOOK_S)

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self._turn += 1
            ports = sorted(port for port, is_ready in self.nodes.items() if is_ready)
            for n in range(len(ports)):
                with contextlib.suppress(OSError):
                    there, back = await asyncio.open_connection("127.0.0.1", ports[(self._turn + n) % len(ports)])
                    break
            else:
                self.failed += 1
                return
            try:
                await asyncio.gather(pump(reader, back), pump(there, writer))
            finally:
                back.close()
        finally:
            writer.close()


async def ready(api: httpx.AsyncClient, port: int) -> bool:
    try:
        return (await api.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200
    except httpx.HTTPError:
        return False


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


@contextlib.asynccontextmanager
async def balancer() -> AsyncIterator[Balancer]:
    opened = Balancer()
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(opened.carry(reader, writer)))

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    opened.port = listener.sockets[0].getsockname()[1]
    tasks.add(asyncio.create_task(opened.look()))
    try:
        yield opened
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Learner:
    """Watches continuously from 0 until stopped, every second once, dated as if in real time."""

    def __init__(self, player: Playhead, user: str) -> None:
        self.player, self.user, self.video = player, user, str(uuid4())
        self.watched = 0

    async def watch(self, enough: Callable[[], bool]) -> None:
        while not enough():
            start, self.watched = self.watched, self.watched + 5
            self.player.report(self.video, [(start, start + 5)], start + 5, age_s=max(0, LONGEST_S - start))
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("workers", [1, 2])
async def test_two_nodes_are_replaced_at_the_cost_of_a_reconnect(
    workers: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The records are what was reported, to the second. No client ends, is refused, or finds no server."""
    caplog.set_level(logging.WARNING)
    env = {"PLAYHEAD_DRAIN_NOTICE_S": str(NOTICE_S)}
    with EmbeddedValkey(tmp_path / "store", fsync=False) as valkey:
        options = ("--redis-url", valkey.url, "--workers", str(workers), "--flush-interval-s", "0.2")
        async with contextlib.AsyncExitStack() as stack:
            front = await stack.enter_async_context(balancer())
            nodes = []
            for _ in range(2):
                nodes.append(await stack.enter_async_context(serve(free_port(), *options, **env)))
                front.nodes[nodes[-1].port] = True
            learners = []
            for _ in range(LEARNERS):
                user = str(uuid4())
                player = client(f"http://127.0.0.1:{front.port}", user, transports=("ws",), close_timeout_s=PATIENCE_S)
                learners.append(Learner(await stack.enter_async_context(player), user))
            done = False
            watching = [asyncio.create_task(each.watch(lambda: done)) for each in learners]
            await until(lambda: all(each.player.state == "online" for each in learners))
            for old in nodes:
                assert await old.stop() == 0
                del front.nodes[old.port]
                new = await stack.enter_async_context(serve(free_port(), *options, **env))
                front.nodes[new.port] = True
                await until(lambda: all(each.player.state == "online" for each in learners))
            done = True
            await asyncio.gather(*watching)
            async with asyncio.timeout(PATIENCE_S):
                for each in learners:
                    await each.player.flush()
                    assert not each.player.rejected
            assert front.failed == 0, "there was always a node that accepted connections"
        store = open_store(valkey.url, worker="w")
        for each in learners:
            assert each.watched < LONGEST_S
            record = intact(await store.record(each.user, each.video))
            assert (record.seen, record.again) == ([0, each.watched], [])
            assert record.played_ms == 1_000 * each.watched
        await store.close()
