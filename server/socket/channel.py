"""The sending side of one accepted WebSocket.

A frame is written at once where the transport takes it, else it waits in a bounded queue for a writing task. A slow
reader therefore delays nobody, and is disconnected when its queue is full.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import suppress

from starlette.types import Send

from playhead.protocol.connection import Close, Connection, Output, State
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
from playhead.storage.store import Committed


class SocketChannel:
    """A device of the hub, a reporter of the flusher and a socket of admission.

    The connection's state is the only place that knows whether the channel is closed. Once it is CLOSED nothing is
    written except the close and the error or goodbye before it.

    Args:
        send: ASGI's `send`.
        direct: the transport, where it accepts frames directly.
        settings: bounds the queue, in bytes and time.
        since: when it connected, ms since 1970.
    """

    __slots__ = (
        "_account",
        "_connection",
        "_direct",
        "_memory",
        "_queue",
        "_queued_bytes",
        "_send",
        "_settings",
        "_writer",
        "lease",
        "missed",
        "on_end",
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
        self._queue: list[str | bytes | Close] = []
        """Frames that wait for the writer; nothing after a Close is written."""
        self._queued_bytes = 0
        self._memory: AnswerMemory | None = None
        self._account: Account | None = None
        self._writer: asyncio.Task[None] | None = None
        """Runs while something waits."""
        self.since = since
        self.user_id = ""
        self.rev = 0
        self.missed: int | None = 0
        self.lease: Lease | None = None
        self.videos = 0
        """Videos whose first report in the running batch came by this connection."""
        self.on_end: Callable[[], None] | None = None
        """Called when nothing more can be written: the close is written, or the peer reads nothing."""

    def charge_to(self, payer: Payer, memory: AnswerMemory) -> None:
        """Charge what the peer has not read to this payer from now on."""
        self._memory, self._account = memory, memory.account(payer)
        if self._direct is not None:
            self._direct.charge_to(payer, memory)

    def large_read(self) -> LargeRead:
        """A read of missing changes that the device did not cause: it is not charged for, but its memory counts."""
        assert self._memory is not None  # noqa: S101 devices are sent changes only after hello
        assert self._account is not None  # noqa: S101
        return LargeRead(self._memory.account(self._account.payer))

    def committing(self) -> None:
        self.videos = 0
        self._connection.committing()

    def outcome(self, op: Report | int, outcome: Outcome) -> None:
        if isinstance(op, Report):
            self._connection.outcome(op.session, op.seqs, outcome)

    def stored(self, committed: Committed) -> None:
        frames = self._connection.stored()
        if frames and self._connection.state is not State.CLOSED:
            self._write(*frames)

    def send(self, *messages: Message) -> None:
        """Write the messages or queue them, and close where too much is queued already. Never blocks."""
        if self._connection.state is not State.CLOSED:
            self._write(*map(self._connection.encode, messages))

    def hold(self) -> None:
        """Accept no more reports. Those that were accepted are still acked; `end` must follow."""
        self._connection.hold()

    def abort(self) -> None:
        """Cut off a peer that does not read."""
        self.cancel()
        if self._direct is not None:
            self._direct.transport.abort()

    def restart(self) -> None:
        """Send a goodbye and close; the device reconnects and sends again what was not acked."""
        self.end(Problem.UNAVAILABLE, CloseCode.RESTART)

    def give_way(self) -> None:
        """Close this connection, which has not sent a valid hello, in favour of a younger one."""
        self.end(Problem.BUSY, CloseCode.RESTART)

    def end(self, problem: Problem, code: CloseCode, retry_after_s: float | None = None) -> None:
        """Send a goodbye, then close. The client reconnects after `retry_after_s`, by default about 3."""
        if retry_after_s is None:
            retry_after_s = RETRY_AFTER_S * random.uniform(1.0, 2.0)  # noqa: S311 jitter, not a secret
        self.carry_out(self._connection.goodbye(problem.code, code, round(retry_after_s, 2)))

    def refuse(self, error: PeerError) -> None:
        """Report `error` and close; with a goodbye where the client should reconnect later."""
        code = error.problem.value.close or CloseCode.BAD_FRAME
        if code in (CloseCode.RESTART, CloseCode.RATE):
            self.end(error.problem, code, getattr(error, "retry_after_s", None))
        else:
            self.carry_out(self._connection.refuse(error))

    def carry_out(self, effects: Sequence[Output]) -> None:
        """Write what the connection wants written."""
        for effect in effects:
            if isinstance(effect, Close):
                self._queue.append(effect)
                self._start_writer()
            else:
                self._write(effect.frame)

    async def drained(self) -> None:
        """Wait until everything queued is written or dropped. The writer's own deadlines bound the wait."""
        while self._writer is not None and not self._writer.done():  # done: it was cancelled before it began
            await asyncio.wait({self._writer})

    def cancel(self) -> None:
        """Close without writing anything more."""
        self._connection.closed()
        if self._writer is not None:
            self._writer.cancel()
        if self._account is not None:
            self._account.hold(0)

    def _write(self, *frames: str | bytes) -> None:
        """Write the frames or queue them; where too much is queued already, drop everything and close."""
        if self._writer is None and self._direct is not None and self._direct.write(*frames):
            return
        size = sum(map(len, frames))
        self._queued_bytes += size
        if self._queued_bytes > self._settings.max_queue_bytes or (
            self._account is not None and self._account.grow(size)
        ):
            self._connection.closed()
            self._queue[:] = [Close(CloseCode.TOO_SLOW, "too slow")]
        else:
            self._queue += frames
        self._start_writer()

    def _start_writer(self) -> None:
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_queue())

    async def _write_queue(self) -> None:
        """Write what is queued. A peer that reads nothing for too long is given up."""
        ended = True
        try:
            # RuntimeError: uvicorn's, when it has closed by itself (a frame too large, no pong) a moment ago.
            with suppress(TimeoutError, OSError, RuntimeError):
                ended = await self._write_items()
        finally:
            self._writer = None
            if ended:
                self._connection.closed()
                if self.on_end is not None:
                    self.on_end()

    async def _write_items(self) -> bool:
        """Whether a close was among them: nothing more can be written after it."""
        while self._queue:
            item = self._queue.pop(0)
            async with asyncio.timeout(self._settings.write_timeout_s):
                if isinstance(item, Close):
                    await self._send({"type": "websocket.close", "code": item.code, "reason": item.reason})
                    return True
                await self._send({"type": "websocket.send", "text" if isinstance(item, str) else "bytes": item})
            self._queued_bytes -= len(item)
            if self._account is not None:
                self._account.hold(self._queued_bytes)
        return False
