"""A fast path for messages: a whole message is passed from the read to a listener, and answers are written directly.

The library's parser takes a third of the cost of a heartbeat, and ASGI's queue as much again: waking a task, and two
system calls to pause and resume reading. Messages that arrive in one frame, as all messages of our players do, bypass
both. Everything else (control frames, fragments, malformed frames) is passed to the library, a whole frame at a time,
so that its parser is between two frames whenever a frame bypasses it. Without a listener messages go through ASGI, as
they do under another server.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from websockets.frames import Opcode

from playhead.server.limits.answer_memory import AnswerMemory
from playhead.server.limits.body_memory import Payer
from playhead.server.transport.config import TCP_CONNECTION, ServiceConfig
from playhead.server.transport.websocket import BoundedWebSocket
from playhead.storage.store import Latch

try:
    from websockets.speedups import apply_mask
except ImportError:  # pragma: no cover - a platform without the compiled one
    from websockets.utils import apply_mask

SCOPE_KEY = "playhead.direct"
_TEXT, _BINARY, _MASKED = 0x80 | Opcode.TEXT, 0x80 | Opcode.BINARY, 0x80
Listener = Callable[[bytes, bool], bool]
"""Called with a message's payload, and whether it is text. Returns False if the library has to refuse it."""


class DirectWebSocket(BoundedWebSocket):
    """A WebSocket with the fast path, which the app finds as `scope["playhead.direct"]`."""

    __slots__ = ("_in_fragments", "_largest", "_listener", "_tail")  # faster than among uvicorn's attributes

    def __init__(self, config: ServiceConfig, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        self._listener: Listener | None = None
        self._tail = b""
        """The beginning of a frame that has not arrived completely: at most as large as the largest accepted frame."""
        self._largest = config.settings.max_frame_bytes
        self._in_fragments = False
        """Whether a fragmented message has started and not ended."""
        # Smaller than those of asyncio, which take a third of the memory of an idle connection.
        self.queue = Mailbox()  # type: ignore[assignment]
        self.writable = Latch()  # type: ignore[assignment]
        self.writable.set()

    async def run_asgi(self) -> None:
        self.scope[SCOPE_KEY] = self  # type: ignore[literal-required] # a server may add keys of its own
        self.scope[TCP_CONNECTION] = self._tcp  # type: ignore[literal-required]
        await super().run_asgi()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        # No reference cycles may be left: the server runs without the cyclic garbage collector.
        self._listener = None
        if hasattr(self, "scope"):  # otherwise the handshake was refused
            self.scope.pop(SCOPE_KEY, None)  # type: ignore[misc]
        self.conn.parser = iter(())  # type: ignore[assignment]

    def charge_to(self, payer: Payer, memory: AnswerMemory) -> None:
        """Charge this payer for unsent bytes from now on."""
        if self._tcp is not None:
            self._tcp.charge_to(payer, memory)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._tcp is not None:
            self._tcp.update_unread()

    def resume_writing(self) -> None:
        if self._tcp is not None:
            self._tcp.update_unread()
        super().resume_writing()

    def listen(self, listener: Listener) -> None:
        """Pass messages to `listener` from now on.

        Does nothing while messages are queued for `receive`: call it again after those.
        """
        if self.queue.empty() and not self.close_sent and not self._in_fragments:
            self._listener = listener

    def ignore(self) -> None:
        """Stop passing messages to the listener: the conversation is over, and nobody reads what still arrives."""
        self._listener = None

    def hand_back(self) -> None:
        """Pass messages to ASGI's `receive` again, and wake its caller with an empty event."""
        self._listener = None
        queue: Any = self.queue
        queue.put_nowait({"type": SCOPE_KEY})

    def write(self, *messages: str | bytes) -> bool:
        """Write whole messages immediately. Returns False if they have to wait, or the connection is closed."""
        if self.close_sent or self.disconnected or not self.writable.is_set():
            return False
        frames = []
        for message in messages:
            kind, payload = (_TEXT, message.encode()) if isinstance(message, str) else (_BINARY, message)
            length = len(payload)
            if length < 126:
                frames.append(bytes((kind, length)))
            elif length < 65_536:
                frames.append(bytes((kind, 126)) + length.to_bytes(2, "big"))
            else:
                frames.append(bytes((kind, 127)) + length.to_bytes(8, "big"))
            frames.append(payload)
        self.transport.write(b"".join(frames))
        return True

    def data_received(self, data: bytes) -> None:
        if self._tail:
            data, self._tail = self._tail + data, b""
        start, size = 0, len(data)
        while start < size:
            listener = self._listener
            if listener is not None and (edges := _message(data, start, size)) is not None:
                mask, end = edges
                payload = apply_mask(data[mask + 4 : end], data[mask : mask + 4])
                if len(payload) <= self._largest and listener(payload, data[start] == _TEXT):
                    start = end
                    continue
            start = self._pass_on(data, start, size)

    def _pass_on(self, data: bytes, start: int, size: int) -> int:
        """Pass the frame at `start` to the library once it is complete; returns where the next one starts."""
        if not self.handshake_complete:
            super().data_received(data[start:])
            return size
        if self._cut_off or self.transport.is_closing():
            return size
        edges = _edges(data, start, size)
        if edges is not None and edges[1] - edges[0] - 4 > self._largest:
            super().data_received(data[start:])  # refused because of its head
            return size
        if edges is None or edges[1] > size:
            self._tail = data[start:]
            return size
        if not data[start] & 0x08:  # not a control frame
            self._in_fragments = not data[start] & 0x80
        super().data_received(data[start : edges[1]])
        if self._cut_off or self._in_fragments or not self.queue.empty():
            self._listener = None  # later messages are queued behind it until `listen` is called again
        return edges[1]


class Mailbox:
    """An asyncio.Queue for a single reader."""

    __slots__ = ("_events", "_reader")

    def __init__(self) -> None:
        self._events: list[Any] = []
        self._reader: asyncio.Future[None] | None = None

    def empty(self) -> bool:
        return not self._events

    def put_nowait(self, event: Any) -> None:
        self._events.append(event)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def get(self) -> Any:
        while not self._events:
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        return self._events.pop(0)


def _message(data: bytes, start: int, size: int) -> tuple[int, int] | None:
    """`_edges` of a message that has arrived in one frame of up to 64 KiB, masked as a client must; else None."""
    kind = data[start]
    if (kind != _TEXT and kind != _BINARY) or size - start < 6:
        return None
    length = data[start + 1] - _MASKED
    mask = start + 2
    if length == 126:
        length = data[mask] << 8 | data[mask + 1]
        mask += 2
    end = mask + 4 + length
    return None if length < 0 or length == 127 or end > size else (mask, end)


def _edges(data: bytes, start: int, size: int) -> tuple[int, int] | None:
    """The indices of the mask of the frame at `start` and of its end (RFC 6455, 5.2); None if the head is incomplete.

    They are also right for a frame without a mask, which the library refuses.
    """
    if size - start < 2:
        return None
    length, head = data[start + 1] & 0x7F, start + 2
    if length >= 126:
        more = 2 if length == 126 else 8
        if size - head < more:
            return None
        length = int.from_bytes(data[head : head + more], "big")
        head += more
    return head, head + length + (4 if data[start + 1] & _MASKED else 0)
