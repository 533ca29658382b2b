"""One accepted WebSocket: what is said to it is written at once, or goes through a bounded queue to a writing task.

So a slow reader holds up nobody, and is let go when its queue is full.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import suppress

from starlette.types import Send

from playhead.protocol.connection import Close, Connection, Effect
from playhead.protocol.connection import Send as SendFrame
from playhead.protocol.errors import CloseCode, PeerError, Problem
from playhead.protocol.messages import Message
from playhead.protocol.record import Outcome, Report
from playhead.server.lifecycle.drain import RETRY_AFTER_S
from playhead.server.limits.answer_memory import Account, AnswerMemory
from playhead.server.limits.body_memory import Payer
from playhead.server.limits.large_reads import LargeRead
from playhead.server.settings import Settings
from playhead.server.socket.token_lease import Lease
from playhead.server.transport.fast_path import DirectWebSocket
from playhead.storage.write.pending import Committed


class SocketChannel:
    """A hub's channel and a flusher's origin.

    Args:
        send: ASGI's.
        direct: the transport, where it can be written to at once.
        settings: the bounds of the queue, in bytes and time.
        since: ms since 1970, when it came.
    """

    __slots__ = (
        "_account",
        "_bytes",
        "_close",
        "_connection",
        "_direct",
        "_memory",
        "_queue",
        "_send",
        "_settings",
        "_writer",
        "lease",
        "missed",
        "on_end",
        "ready",
        "rev",
        "since",
        "user_id",
        "videos",
    )

    def __init__(
        self, connection: Connection, send: Send, direct: DirectWebSocket | None, settings: Settings, since: int
    ) -> None:
        self._connection = connection
        self._send = send
        self._direct = direct
        self._settings = settings
        self._queue: list[str | bytes] = []
        self._bytes = 0
        self._memory: AnswerMemory | None = None
        self._account: Account | None = None
        self._writer: asyncio.Task[None] | None = None
        """While something waits."""
        self._close: Close | None = None
        self.since = since
        self.user_id = ""
        self.rev = 0
        self.ready = False
        self.missed = 0
        self.lease: Lease | None = None
        self.videos = 0
        """Whose first report of the running batch came by this connection."""
        self.on_end: Callable[[], None] | None = None
        """Called when nothing more can be written: our close is, or the peer takes no byte."""

    def charge_to(self, payer: Payer, memory: AnswerMemory) -> None:
        """What it does not read is this payer's from now on."""
        self._memory, self._account = memory, memory.account(payer)
        if self._direct is not None:
            self._direct.charge_to(payer, memory)

    def large_read(self) -> LargeRead:
        """A read of what the device lacks through no doing of its own: not charged for, but its memory counts."""
        assert self._memory is not None  # noqa: S101 devices are brought up to date only after hello
        assert self._account is not None  # noqa: S101
        return LargeRead(self._memory.account(self._account.payer))

    def taken(self) -> None:
        self.videos = 0
        self._connection.taken()

    def outcome(self, op: Report | int, outcome: Outcome) -> None:
        if isinstance(op, Report):
            self._connection.outcome(op.session, op.seqs, outcome)

    def stored(self, committed: Committed) -> None:
        if frames := self._connection.stored():
            self.queue(*frames)

    def tell(self, *messages: Message) -> None:
        self.queue(*map(self._connection.encode, messages))

    def hold(self) -> None:
        """Take no more reports: those that were taken will be acked, then comes `end`."""
        self._connection.hold()

    def abort(self) -> None:
        """Cut off a peer that does not take what we say."""
        self.cancel()
        if self._direct is not None:
            self._direct.transport.abort()

    def restart(self) -> None:
        self.end(Problem.UNAVAILABLE, CloseCode.RESTART)

    def give_way(self) -> None:
        """A younger connection needs the place of this one, which has not said a valid hello."""
        self.end(Problem.BUSY, CloseCode.RESTART)

    def end(self, problem: Problem, code: CloseCode, retry_after_s: float | None = None) -> None:
        """Say goodbye, and close when that is written. The peer comes back after `retry_after_s` (about 3)."""
        if retry_after_s is None:
            retry_after_s = RETRY_AFTER_S * random.uniform(1.0, 2.0)  # noqa: S311 jitter, not a secret
        self.carry_out(self._connection.goodbye(problem.code, code, round(retry_after_s, 2)))

    def refuse(self, error: PeerError) -> None:
        """Say what is wrong, and close; with a goodbye where the peer shall come back later."""
        code = error.problem.value.close or CloseCode.BAD_FRAME
        if code in (CloseCode.RESTART, CloseCode.RATE):
            self.end(error.problem, code, getattr(error, "retry_after_s", None))
        else:
            self.carry_out(self._connection.refuse(error))

    def carry_out(self, effects: Sequence[Effect]) -> None:
        """The effects that only say something."""
        for effect in effects:
            if isinstance(effect, SendFrame):
                self.queue(effect.frame)
            elif isinstance(effect, Close):
                self._close = self._close or effect
                self._wake()

    def queue(self, *frames: str | bytes) -> None:
        """Write them, or let the writer; where too much waits already, drop all and close."""
        if self._close is not None:
            return
        if self._writer is None and self._direct is not None and self._direct.write(*frames):
            return
        size = sum(map(len, frames))
        self._bytes += size
        if self._bytes > self._settings.max_queue_bytes or (self._account is not None and self._account.grow(size)):
            self._queue.clear()
            self._connection.closed()
            self._close = Close(CloseCode.TOO_SLOW, "too slow")
        else:
            self._queue += frames
        self._wake()

    async def drained(self) -> None:
        """All that was queued is written, or never will be. Bounded by the writer's own deadlines."""
        while self._writer is not None:
            await asyncio.wait({self._writer})

    def cancel(self) -> None:
        """Write no more."""
        self._close = self._close or Close(CloseCode.RESTART, "gone")
        if self._writer is not None:
            self._writer.cancel()
        if self._account is not None:
            self._account.hold(0)

    def _wake(self) -> None:
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())

    async def _write(self) -> None:
        """Send what is queued, and the close if there is one. A peer that takes no byte for long is given up."""
        lost = True
        try:
            # RuntimeError: uvicorn's, when it has closed by itself (a frame too large, no pong) a moment ago.
            with suppress(TimeoutError, OSError, RuntimeError):
                await self._write_all()
                lost = self._close is not None
        finally:
            self._writer = None
            if lost:
                self._close = self._close or Close(CloseCode.TOO_SLOW, "takes nothing")
                if self.on_end is not None:
                    self.on_end()

    async def _write_all(self) -> None:
        timeout_s = self._settings.write_timeout_s
        while self._queue:
            frames, self._queue = self._queue, []
            for frame in frames:
                if self._close is not None and self._close.code is CloseCode.TOO_SLOW:
                    break
                async with asyncio.timeout(timeout_s):
                    await self._send({"type": "websocket.send", "text" if isinstance(frame, str) else "bytes": frame})
                self._bytes -= len(frame)
                if self._account is not None:
                    self._account.hold(self._bytes)
        if self._close is not None:
            async with asyncio.timeout(timeout_s):
                code, reason = self._close.code, self._close.reason
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
