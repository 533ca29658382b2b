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

from server.transport import BoundedWebSocket, ServiceConfig
from storage.latch import Latch

try:
    from websockets.speedups import apply_mask
except ImportError:  # a platform without the compiled one
    from websockets.utils import apply_mask

SCOPE_KEY = "playhead.direct"
_TEXT, _BINARY, _MASKED = 0x80 | Opcode.TEXT, 0x80 | Opcode.BINARY, 0x80
Listener = Callable[[str | bytes], None]


class DirectWebSocket(BoundedWebSocket):
    """Offers itself to the app as `scope["playhead.direct"]`."""

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
        await super().run_asgi()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        # Nothing may be left that only a search for cycles would free: the server does without those searches.
        self._listener = None
        if hasattr(self, "scope"):  # else the handshake was refused
            self.scope.pop(SCOPE_KEY, None)  # type: ignore[misc]
        self.conn.parser = iter(())  # type: ignore[assignment]

    def forget_handshake(self) -> None:
        """The headers of the request and of our answer, which uvicorn and the library keep for ever, each its own."""
        self.scope["headers"] = []
        for message in (self.request, self.response):
            message.headers.clear()

    def listen(self, listener: Listener) -> None:
        """Give messages to `listener` from now on; where some wait for `receive` those come first: ask again then."""
        if self.queue.empty() and not self.close_sent:
            self._listener = listener

    def ignore(self) -> None:
        """The conversation is over: what still comes is counted by the transport alone, and goes to nobody."""
        self._listener = None

    def hand_back(self) -> None:
        """Give messages to ASGI's `receive` again, and wake who waits there with an event of no meaning."""
        self._listener = None
        queue: Any = self.queue
        queue.put_nowait({"type": SCOPE_KEY})

    def write(self, message: str | bytes) -> bool:
        """Write a whole message now; False where it has to wait, or there is nobody to write to."""
        if self.close_sent or self.disconnected or not self.writable.is_set():
            return False
        kind, payload = (_TEXT, message.encode()) if isinstance(message, str) else (_BINARY, message)
        length = len(payload)
        if length < 126:
            head = bytes((kind, length))
        elif length < 65_536:
            head = bytes((kind, 126)) + length.to_bytes(2, "big")
        else:
            head = bytes((kind, 127)) + length.to_bytes(8, "big")
        self.transport.write(head + payload)
        return True

    def data_received(self, data: bytes) -> None:
        if not self.handshake_complete:
            super().data_received(data)
            return
        if self._tail:
            data, self._tail = self._tail + data, b""
        start, size = 0, len(data)
        while start < size:
            if self._cut or self.transport.is_closing():
                return
            if (edges := _edges(data, start, size)) is None:
                break
            mask, end = edges
            if end - mask - 4 > self._largest:
                super().data_received(data[start:])  # refused by its head alone
                return
            if end > size:
                break
            kind = data[start]
            if (
                self._listener is None
                or (kind != _TEXT and kind != _BINARY)
                or not data[start + 1] & _MASKED
                or self.close_sent
                or self._amid
                or not self._heard(self._listener, data, start, mask, end)
            ):
                if not kind & 0x08:  # no control frame
                    self._amid = not kind & 0x80
                super().data_received(data[start:end])
                if not self.queue.empty():
                    self._listener = None  # what follows waits behind it, until `listen` is asked again
            start = end
        self._tail = data[start:]

    def _heard(self, listener: Listener, data: bytes, start: int, mask: int, end: int) -> bool:
        """Hand a message to who listens; False where that is the library's to refuse."""
        payload = apply_mask(data[mask + 4 : end], data[mask : mask + 4])
        message: str | bytes = payload
        if data[start] == _TEXT:
            try:
                message = payload.decode()
            except UnicodeDecodeError:
                return False
        listener(message)
        return True


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
