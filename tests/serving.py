"""A real server on a real socket, in the test's own event loop, so that its clock can be the test's."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from playhead.protocol.session import Now
from playhead.server.app import create_app
from playhead.server.clock import Clock
from playhead.server.commands.serve import bound, uvicorn_config
from playhead.server.settings import Settings
from playhead.server.transport.config import PeerMistakeFilter
from playhead.server.transport.websocket import BoundedWebSocket

START_MS = 1_764_000_000_000
PATIENT = {"frames_burst": 1_000_000, "address_requests_burst": 1_000_000, "requests_burst": 1_000_000}
"""Tests come faster than people do, all from one address, by a clock that stands still."""

_MISTAKES = PeerMistakeFilter()


@dataclass
class FakeClock:
    """Both clocks of a server; they move only when told, and together unless told otherwise."""

    wall: int = START_MS
    mono: int = 5_000_000

    def __call__(self) -> Now:
        return Now(self.wall, self.mono)

    def advance(self, seconds: float) -> None:
        self.wall += round(seconds * 1_000)
        self.mono += round(seconds * 1_000)


@dataclass
class Running:
    """A server that runs."""

    port: int
    settings: Settings
    clock: FakeClock = field(default_factory=FakeClock)

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"


class _Server(uvicorn.Server):
    """uvicorn's server without its fixed waits, which would cost each test 0.15 s of idle time.

    Tests that start the real program (tests/server/program.py) run uvicorn's own loop and shutdown.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        self.should_exit = True
        self._stopping.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        """Leave signals to pytest."""
        yield

    async def main_loop(self) -> None:
        """Run until `stop`; uvicorn looks every 0.1 s."""
        ticks = 0
        while not await self.on_tick(ticks):
            ticks += 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await self._stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close as uvicorn does, but wait for connections in small steps instead of 0.1 s at least."""
        for server in self.servers:
            server.close()
        for each in sockets or ():
            each.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        try:
            async with asyncio.timeout(self.config.timeout_graceful_shutdown):
                while self.server_state.connections or self.server_state.tasks:  # noqa: ASYNC110 it has no event
                    await asyncio.sleep(0.002)
                for server in self.servers:
                    await server.wait_closed()
        except TimeoutError:
            for task in self.server_state.tasks:
                task.cancel()
        await self.lifespan.shutdown()


@contextlib.asynccontextmanager
async def serving(
    clock: Clock | None = None, *, direct: bool = True, dual_stack: bool = False, **settings: Any
) -> AsyncIterator[Running]:
    """Serve until the block ends; `settings` as the environment could give them, `redis_url` among them.

    Args:
        clock: a `FakeClock` of its own by default.
        direct: False: frames go by ASGI alone, as under a server that is not ours.
        dual_stack: listen as `--host ::` does.
    """
    clock = clock or FakeClock()
    chosen = Settings(port=0, **{"flush_interval_s": 0.05, **PATIENT, **settings})
    config = uvicorn_config(chosen, None)
    config.app = lambda: create_app(chosen, clock)
    if not direct:
        config.ws = BoundedWebSocket
    logging.getLogger("uvicorn.error").addFilter(_MISTAKES)
    server = _Server(config)
    family = socket.AF_INET6 if dual_stack else socket.AF_INET
    with socket.socket(family, proto=socket.IPPROTO_TCP) as listener:  # without it asyncio leaves Nagle on
        bound(listener, chosen)
        listener.bind(("::" if dual_stack else "127.0.0.1", 0))
        listener.listen()
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            while not server.started:
                assert not task.done(), "the server did not start"
                await asyncio.sleep(0.002)
            yield Running(listener.getsockname()[1], chosen, clock if isinstance(clock, FakeClock) else FakeClock())
        finally:
            server.stop()
            await task
