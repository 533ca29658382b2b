"""The short way for what matters: a whole message goes straight from the read to who listens, an answer straight out.

The library's parser takes a third of what a heartbeat costs, and ASGI's queue as much again: a wake-up of a task, and
two system calls to pause and resume reading. Here a message that arrives in one frame, as all of our players' do, takes
neither. Everything else (control frames, fragments, whatever is odd) goes to the library, a whole frame at a time, so
that it stands at the edge of a frame whenever one is taken past it. Where nobody listens, ASGI goes on as ever; so it
does under another server.
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
except ImportError:  # a platform without the compiled one
    from websockets.utils import apply_mask

SCOPE_KEY = "playhead.direct"
_TEXT, _BINARY, _MASKED = 0x80 | Opcode.TEXT, 0x80 | Opcode.BINARY, 0x80
Listener = Callable[[bytes, bool], bool]
"""Takes a message's payload, and whether it is text; False where that is the library's to refuse."""


class DirectWebSocket(BoundedWebSocket):
    """Offers itself to the app as `scope["playhead.direct"]`."""

    __slots__ = ("_amid", "_largest", "_listener", "_tail")  # apart from uvicorn's many, which a beat need not meet

    def __init__(self, config: ServiceConfig, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        self._listener: Listener | None = None
        self._tail = b""
        """The beginning of a frame whose rest is not here yet: at most the largest that is taken."""
        self._largest = config.settings.max_frame_bytes
        self._amid = False
        """A message in fragments has begun and not ended."""
        # The same by less: what asyncio has for these is a third of what an idle connection takes.
        self.queue = Mailbox()  # type: ignore[assignment]
        self.writable = Latch()  # type: ignore[assignment]
        self.writable.set()

    async def run_asgi(self) -> None:
        self.scope[SCOPE_KEY] = self  # type: ignore[literal-required] # a server may add keys of its own
        self.scope[TCP_CONNECTION] = self._tcp  # type: ignore[literal-required]
        await super().run_asgi()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        # Nothing may be left that only a search for cycles would free: the server does without those searches.
        self._listener = None
        if hasattr(self, "scope"):  # else the handshake was refused
            self.scope.pop(SCOPE_KEY, None)  # type: ignore[misc]
        self.conn.parser = iter(())  # type: ignore[assignment]

    def charge_to(self, payer: Payer, memory: AnswerMemory) -> None:
        """What the peer does not take is this payer's from now on."""
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
        """Give messages to `listener` from now on; where some wait for `receive` those come first: ask again then."""
        if self.queue.empty() and not self.close_sent and not self._amid:
            self._listener = listener

    def ignore(self) -> None:
        """The conversation is over: what still comes is counted by the transport alone, and goes to nobody."""
        self._listener = None

    def hand_back(self) -> None:
        """Give messages to ASGI's `receive` again, and wake who waits there with an event of no meaning."""
        self._listener = None
        queue: Any = self.queue
        queue.put_nowait({"type": SCOPE_KEY})

    def write(self, *messages: str | bytes) -> bool:
        """Write whole messages now, at once; False where they have to wait, or there is nobody to write to."""
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
            start = self._hand_on(data, start, size)

    def _hand_on(self, data: bytes, start: int, size: int) -> int:
        """Give the library the frame at `start`, whole; where the next one begins. Half a frame waits for its rest."""
        if not self.handshake_complete:
            super().data_received(data[start:])
            return size
        if self._cut or self.transport.is_closing():
            return size
        edges = _edges(data, start, size)
        if edges is not None and edges[1] - edges[0] - 4 > self._largest:
            super().data_received(data[start:])  # refused by its head alone
            return size
        if edges is None or edges[1] > size:
            self._tail = data[start:]
            return size
        if not data[start] & 0x08:  # no control frame
            self._amid = not data[start] & 0x80
        super().data_received(data[start : edges[1]])
        if self._cut or self._amid or not self.queue.empty():
            self._listener = None  # what follows waits behind it, until `listen` is asked again
        return edges[1]


class Mailbox:
    """What asyncio.Queue does for one reader."""

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
    """`_edges`, if all of a message is there in one frame of up to 64 KiB, masked as a client's must be."""
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
    """Where the mask of the frame at `start` begins, and where the frame ends; None where its head is not here yet.

    RFC 6455, 5.2. A frame without a mask ends there too, for the library to refuse.
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
