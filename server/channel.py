"""One accepted WebSocket: what is said to it goes through a bounded queue to one writing task.

So a slow reader holds up nobody, and is let go when its queue is full.
"""

import asyncio
import random
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from starlette.types import Send

from protocol.connection import Close, Connection, Effect
from protocol.connection import Send as SendFrame
from protocol.errors import CloseCode, PeerError, Problem
from protocol.messages import Message
from protocol.record import Outcome, Report
from server.direct import DirectWebSocket
from server.lease import Lease
from storage.pending import Committed

RETRY_AFTER_S = 2.0
"""What a client is told to wait, at the least, before it comes back; twice that at the most."""


class SocketChannel:
    """A hub's channel and a flusher's origin.

    Args:
        since: ms since 1970, when it came.
        direct: the transport, where it can be written to at once.
    """

    __slots__ = (
        "_bytes",
        "_close",
        "_connection",
        "_direct",
        "_drained",
        "_limit",
        "_queue",
        "_wake",
        "lease",
        "missed",
        "ready",
        "rev",
        "since",
        "user_id",
        "videos",
    )

    def __init__(self, connection: Connection, limit: int, since: int, direct: DirectWebSocket | None) -> None:
        self._direct = direct
        self._connection = connection
        self._limit = limit
        self._queue: deque[str | bytes] = deque()
        self._bytes = 0
        self._wake = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self._close: Close | None = None
        self.since = since
        self.user_id = ""
        self.rev = 0
        self.ready = False
        self.missed = 0
        self.lease: Lease | None = None
        self.videos: set[str] = set()
        """Reported on since the last flush began."""

    def taken(self) -> None:
        self.videos.clear()
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
                self._wake.set()

    def queue(self, frame: str | bytes) -> None:
        """Let the writer send it; where too much waits already, drop all and close."""
        if self._close is not None:
            return
        if self._direct is not None and not self._queue and self._direct.write(frame):
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
