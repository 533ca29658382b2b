"""The WebSocket endpoint: moves frames and carries out the effects of `protocol.connection`.

From a received frame to the pending buffer nothing is awaited. What is sent goes through a bounded queue to one
writing task, so that a slow reader holds up nobody, and is let go when its queue is full.
"""

import asyncio
import random
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from starlette.types import Receive, Scope, Send

from protocol.codecs import CODECS
from protocol.connection import Bring, Close, Connection, Effect, Greet, State, Take, Touch
from protocol.connection import Send as SendFrame
from protocol.errors import CloseCode, Problem
from protocol.messages import Message, Synced, Welcome
from protocol.record import Outcome, Report
from protocol.session import Plausibility
from server.services import Services
from storage.pending import Committed, Full
from storage.store import Changes, StoreUnavailable

RETRY_AFTER_S = 2.0
"""What a client is told to wait, at the least, before it comes back; twice that at the most."""


class SocketChannel:
    """One accepted WebSocket: a hub's channel and a flusher's origin."""

    __slots__ = (
        "_bytes",
        "_close",
        "_connection",
        "_drained",
        "_limit",
        "_queue",
        "_wake",
        "missed",
        "ready",
        "rev",
        "user_id",
    )

    def __init__(self, connection: Connection, limit: int) -> None:
        self._connection = connection
        self._limit = limit
        self._queue: deque[str | bytes] = deque()
        self._bytes = 0
        self._wake = asyncio.Event()
        self._drained = asyncio.Event()
        self._close: Close | None = None
        self.user_id = ""
        self.rev = 0
        self.ready = False
        self.missed = 0

    def taken(self) -> None:
        self._connection.taken()

    def outcome(self, op: Report | int, outcome: Outcome) -> None:
        if isinstance(op, Report):
            self._connection.outcome(op.session, op.seqs, outcome)

    def stored(self, committed: Committed) -> None:
        for frame in self._connection.stored():
            self.queue(frame)

    def tell(self, message: Message) -> None:
        self.queue(self._connection.encode(message))

    def restart(self) -> None:
        self.end(Problem.UNAVAILABLE, CloseCode.RESTART)

    def end(self, problem: Problem, code: CloseCode) -> None:
        """Say goodbye, and close when that is written."""
        retry_after = round(RETRY_AFTER_S * random.uniform(1.0, 2.0), 2)  # noqa: S311 jitter, not a secret
        self.carry_out(self._connection.goodbye(problem.code, code, retry_after))

    def carry_out(self, effects: Sequence[Effect]) -> None:
        """The effects that only say something."""
        for effect in effects:
            if isinstance(effect, SendFrame):
                self.queue(effect.frame)
            elif isinstance(effect, Close):
                self._close = self._close or effect
                self._wake.set()

    def queue(self, frame: str | bytes) -> None:
        """Let the writer send it; where too much waits already, drop all and close."""
        if self._close is not None:
            return
        self._bytes += len(frame)
        if self._bytes > self._limit:
            self._queue.clear()
            self._connection.closed()
            self._close = Close(CloseCode.TOO_SLOW, "too slow")
        else:
            self._queue.append(frame)
            self._drained.clear()
        self._wake.set()

    async def drained(self) -> None:
        """All that was queued is written, or never will be. Bounded by the writer's own deadlines."""
        await self._drained.wait()

    async def write(self, send: Send, timeout_s: float) -> None:
        """Send what is queued until the close is. A peer that takes no byte for `timeout_s` is given up."""
        try:
            # RuntimeError: uvicorn's, when it has closed by itself (a frame too large, no pong) a moment ago.
            with suppress(TimeoutError, OSError, RuntimeError):
                await self._write_all(send, timeout_s)
        finally:
            self._drained.set()

    async def _write_all(self, send: Send, timeout_s: float) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                frame = self._queue.popleft()
                self._bytes -= len(frame)
                kind = "text" if isinstance(frame, str) else "bytes"
                async with asyncio.timeout(timeout_s):
                    await send({"type": "websocket.send", kind: frame})
            self._drained.set()
            if self._close is not None:
                async with asyncio.timeout(timeout_s):
                    code, reason = self._close.code, self._close.reason
                    await send({"type": "websocket.close", "code": code, "reason": reason})
                return


class SocketEndpoint:
    """ASGI app for `/ws`."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._rules = Plausibility(max_rate=services.settings.max_rate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services, settings = self._services, self._services.settings
        await receive()  # websocket.connect
        offered = scope.get("subprotocols") or []
        codec = next((CODECS[name] for name in CODECS if name in offered), None)
        await send({"type": "websocket.accept", "subprotocol": codec.subprotocol if codec else None})
        if offered and codec is None:
            await send({"type": "websocket.close", "code": CloseCode.VERSION, "reason": "unknown subprotocol"})
            return
        connection = Connection(codec or next(iter(CODECS.values())), self._rules)
        channel = SocketChannel(connection, settings.max_queue_bytes)
        writer = asyncio.create_task(channel.write(send, settings.write_timeout_s))
        try:
            async with asyncio.timeout(settings.hello_timeout_s) as deadline:
                with _ends_with(writer, deadline):
                    await self._converse(connection, channel, receive, deadline)
        except TimeoutError:
            channel.carry_out(connection.no_hello())
            await asyncio.wait({writer}, timeout=settings.write_timeout_s)
        finally:
            connection.closed()
            services.heartbeats.forget(channel)
            writer.cancel()
            services.hub.leave(channel)

    async def _converse(
        self, connection: Connection, channel: SocketChannel, receive: Receive, deadline: asyncio.Timeout
    ) -> None:
        """Take frames until the client is gone. After our own close the transport says so too."""
        clock, heartbeats = self._services.clock, self._services.heartbeats
        while True:
            event = await receive()
            if event["type"] == "websocket.disconnect":
                return
            if connection.state is State.CLOSED:
                continue
            frame = event.get("text")
            for effect in connection.receive(event["bytes"] if frame is None else frame, clock()):
                if isinstance(effect, Take):
                    try:
                        heartbeats.add(channel.user_id, effect.video_id, effect.report, channel)
                    except Full:
                        channel.end(Problem.UNAVAILABLE, CloseCode.RESTART)
                elif isinstance(effect, Touch):
                    heartbeats.touch(channel)
                elif isinstance(effect, Greet):
                    deadline.reschedule(None)
                    await self._greet(connection, channel, effect)
                elif isinstance(effect, Bring):
                    await self._bring(channel, effect.since)
                else:
                    channel.carry_out((effect,))

    async def _greet(self, connection: Connection, channel: SocketChannel, effect: Greet) -> None:
        hello, settings = effect.hello, self._services.settings
        channel.user_id = connection.user_id
        try:
            changes = await self._services.hub.enter(channel, hello.since, hello.epoch)
        except StoreUnavailable:
            channel.end(Problem.UNAVAILABLE, CloseCode.RESTART)
            return
        channel.tell(
            Welcome(
                server_time=self._services.clock().wall,
                epoch=changes.epoch,
                rev=changes.rev,
                heartbeat_interval=settings.heartbeat_interval_s,
                flush_interval=settings.flush_interval_s,
                max_frame=settings.max_frame_bytes,
            )
        )
        await self._sync(channel, changes)

    async def _bring(self, channel: SocketChannel, since: int) -> None:
        try:
            channel.ready = False
            changes = await self._services.store.changes(channel.user_id, since)
        except StoreUnavailable:
            channel.end(Problem.UNAVAILABLE, CloseCode.RESTART)
            return
        await self._sync(channel, changes)

    async def _sync(self, channel: SocketChannel, changes: Changes) -> None:
        await self._services.hub.tell_all(channel, changes)
        channel.tell(Synced(rev=changes.rev))
        self._services.hub.follow(channel, changes.rev)


@contextmanager
def _ends_with(writer: asyncio.Task[None], deadline: asyncio.Timeout) -> Iterator[None]:
    """Stop reading as soon as nothing can be written: the close is sent, or the peer takes no byte."""
    reading = True

    def give_up(_: asyncio.Task[None]) -> None:
        if reading:
            deadline.reschedule(0)

    writer.add_done_callback(give_up)
    try:
        yield
    finally:
        reading = False
