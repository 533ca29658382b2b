"""A TCP relay that fails on demand: between the service and its store, or between the players and the service.

It causes faults that a program cannot be asked for: delays, silence, resets, connections that are forgotten on one side
only, lost answers to requests that were executed, and a stop right before a chosen request.
"""

import asyncio
import contextlib
import functools
import os
import random
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

CHUNK = 65_536
HEAD = 4_096
"""Bytes at the beginning of a connection by which `silence` finds it."""
Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
"""Connects to a target."""


@dataclass(eq=False)
class _Link:
    """One connection: `near` is the peer that connected, `far` the target."""

    near: asyncio.StreamWriter
    far: asyncio.StreamWriter | None = None
    forgotten: bool = False
    asked: bytes = b""
    """The first bytes of its requests."""
    silence: "Silence | None" = None
    awaited: "Catch | None" = None
    """The catch that waits for the next answer."""

    def abort(self) -> None:
        """Send RST to both sides."""
        for writer in (self.near, self.far):
            if writer is not None and not writer.is_closing():
                end = writer.get_extra_info("socket")
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()


@dataclass(frozen=True, slots=True)
class Silence:
    """Connections whose requests have contained these bytes stay open and carry no more data in these directions."""

    needle: bytes
    asked: bool
    """Whether requests are dropped."""
    answered: bool
    """Whether answers are dropped."""


@dataclass(eq=False)
class Catch:
    """Holds back the next request that contains the needle, or its answer, until `let_go`."""

    needle: bytes
    answer: bool
    caught: asyncio.Event = field(default_factory=asyncio.Event)
    _gone: asyncio.Event = field(default_factory=asyncio.Event)
    _drop: bool = False

    def let_go(self, *, drop: bool) -> None:
        """Forward it now; or drop it, and reset both sides."""
        self._drop = drop
        self._gone.set()

    async def hold(self) -> bool:
        """Wait for `let_go`. Returns whether to drop it."""
        self.caught.set()
        await self._gone.wait()
        return self._drop


class Relay:
    """Listens on ports of 127.0.0.1 and forwards to other ports, for the duration of the block of `relay`.

    Attributes:
        ports: by target port, the port that forwards to it.
        delay_s: the delay of each answer.
    """

    def __init__(self) -> None:
        self.ports: dict[int, int] = {}
        self.delay_s = 0.0
        self._light = asyncio.Event()
        self._light.set()
        self._coming: Silence | None = None
        self._links: set[_Link] = set()
        self._catches: list[Catch] = []
        self._listeners: list[asyncio.Server] = []

    @property
    def port(self) -> int:
        """The port of the only target."""
        (port,) = self.ports.values()
        return port

    async def listen(self, target: int) -> None:
        """Listen on a port of its own for this target port."""
        carry = functools.partial(self._carry, functools.partial(asyncio.open_connection, "127.0.0.1", target))
        self._listeners.append(await asyncio.start_server(carry, "127.0.0.1", 0))
        self.ports[target] = self._listeners[-1].sockets[0].getsockname()[1]

    async def stand_in(self, path: Path) -> Path:
        """Take the place of a unix socket. Returns the path to which that socket was moved."""
        behind = path.with_suffix(".behind")
        os.rename(path, behind)
        carry = functools.partial(self._carry, functools.partial(asyncio.open_unix_connection, behind))
        self._listeners.append(await asyncio.start_unix_server(carry, path))
        return behind

    def darken(self) -> None:
        """Carry no data, and leave connections open. What is sent meanwhile is delivered afterwards."""
        self._light.clear()

    def lighten(self) -> None:
        self._light.set()
        self._coming = None

    def silence(self, needle: bytes, *, asked: bool = True, answered: bool = True, coming: bool = False) -> int:
        """Silence connections in these directions forever. Returns how many.

        Args:
            needle: bytes that their requests have contained.
            coming: also silence such connections that are opened later, until `lighten`.
        """
        silence = Silence(needle, asked, answered)
        chosen = [link for link in self._links if link.silence is None and needle in link.asked]
        for link in chosen:
            link.silence = silence
        self._coming = silence if coming else None
        return len(chosen)

    def reset(self, share: float = 1.0, dice: random.Random | None = None) -> int:
        """Reset all connections, or a random share of them, on both sides. Returns how many."""
        chosen = [link for link in self._links if dice is None or dice.random() < share]
        for link in chosen:
            link.abort()
        return len(chosen)

    def forget(self, share: float, dice: random.Random) -> int:
        """Carry no more data on a random share of the connections, and leave them open. Returns how many."""
        chosen = [link for link in self._links if not link.forgotten and dice.random() < share]
        for link in chosen:
            link.forgotten = True
        return len(chosen)

    def catch(self, needle: bytes, *, answer: bool = False) -> Catch:
        """Hold back the next request that contains these bytes, or its answer."""
        catch = Catch(needle, answer)
        self._catches.append(catch)
        return catch

    async def _carry(self, connect: Connect, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(writer)
        self._links.add(link)
        try:
            with contextlib.suppress(OSError):
                await self._light.wait()
                back, link.far = await connect()
                tasks = [
                    asyncio.create_task(self._ask(link, reader, link.far)),
                    asyncio.create_task(self._answer(link, back, writer)),
                ]
                try:
                    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            self._links.discard(link)
            for end in (writer, link.far):
                if end is not None:
                    end.close()

    async def _ask(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tail = b""
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                catch = next((each for each in self._catches if each.needle in tail + data), None)
                tail = data[-64:]
                link.asked += data[: max(0, HEAD - len(link.asked))]
                if self._coming is not None and link.silence is None and self._coming.needle in link.asked:
                    link.silence = self._coming
                if catch is not None:
                    self._catches.remove(catch)
                    if catch.answer:
                        link.awaited = catch
                    elif await catch.hold():
                        link.abort()
                        return
                if link.silence is None or not link.silence.asked:
                    await self._pass(link, writer, data)

    async def _answer(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                catch, link.awaited = link.awaited, None
                if catch is not None and await catch.hold():
                    link.abort()
                    return
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if link.silence is None or not link.silence.answered:
                    await self._pass(link, writer, data)

    async def _pass(self, link: _Link, writer: asyncio.StreamWriter, data: bytes) -> None:
        await self._light.wait()
        if not link.forgotten:
            writer.write(data)
            await writer.drain()

    async def close(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._light.set()
        for catch in self._catches:
            catch.let_go(drop=True)
        self.reset()
        async with asyncio.timeout(10):
            for listener in self._listeners:
                await listener.wait_closed()
            while self._links:  # noqa: ASYNC110 they end by themselves
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def relay(*targets: int) -> AsyncIterator[Relay]:
    """Run a relay to these ports until the block ends. Its faults affect all of them."""
    opened = Relay()
    try:
        for target in targets:
            await opened.listen(target)
        yield opened
    finally:
        await opened.close()
