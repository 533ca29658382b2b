"""uvicorn's WebSocket with the bounds that it lacks: on frames of any kind, fragments, and the handshake."""

from typing import Any
from urllib.parse import unquote

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.protocol import State

from protocol.errors import CloseCode, Problem
from server import handshake
from server.limits import Bucket
from server.transport import PLACE, Place, ServiceConfig, last_words

SLICE = 4_096
"""Bytes of a read that are made into frames at once: a flood is noticed before all of it is."""
ALL_FRAMES = 4
"""Frames of all kinds, pings and fragments too, to the messages that may come."""
FRAGMENTS = 64
"""Pieces of one message that are kept apart: empty ones would cost memory and never reach the limit of a frame."""
LAST_WORD_S = 1.0
"""For the close of a flood to arrive: to close with its frames unread resets the connection, and drops what is sent."""


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """Frames of any kind at a rate; nothing more is read, or answered, of a connection that is cut off."""

    def __init__(self, config: ServiceConfig, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        self._config = config
        settings = config.settings
        self._bucket = Bucket(ALL_FRAMES * settings.frames_per_s, ALL_FRAMES * settings.frames_burst, self.loop.time())
        self._place: Place | None = None
        self._cut = False
        self._token: bytes | None = None
        """Of a handshake that is taken over from HTTP and not answered yet."""
        self.close_timeout = min(self.close_timeout, settings.write_timeout_s)

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._place = Place(self._config, self.client, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._place is not None:
            self._place.leave()
        super().connection_lost(exc)
        error: BaseException | None = self.conn.handshake_exc
        self.conn.handshake_exc = None
        while error is not None:  # their tracebacks lead back to themselves and to us: cycles
            error.with_traceback(None)
            error = error.__context__
        if hasattr(self, "request"):
            self.request._exception = None

    def take_over(self, http: HttpToolsProtocol, place: Place | None, token: bytes) -> None:
        """Go on from a handshake that is read and found good, as uvicorn does from one that the library has parsed."""
        self.transport, self.server, self.client = http.transport, http.server, http.client
        self.scheme = "wss" if http.scheme == "https" else "ws"
        self.connections.add(self)
        self._place, self._token = place, token
        self.handshake_initiated = True
        path, _, query = http.url.partition(b"?")
        offered = b",".join(value for name, value in http.headers if name == b"sec-websocket-protocol")
        self.scope = {
            "type": "websocket",
            "asgi": {"version": self.asgi_version, "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": self.scheme,
            "server": self.server,
            "client": self.client,
            "root_path": self.root_path,
            "path": self.root_path + unquote(path.decode("ascii")),
            "raw_path": self.root_path.encode("ascii") + path,
            "query_string": query,
            "headers": http.headers,
            "subprotocols": [name.strip() for name in offered.decode("ascii").split(",")] if offered else [],
            "state": self.app_state.copy(),
            "extensions": {"websocket.http.response": {}},
        }
        self.scope[PLACE] = place  # type: ignore[literal-required] # a server may add keys of its own
        self.queue.put_nowait({"type": "websocket.connect"})
        task = self.loop.create_task(self.run_asgi())
        task.add_done_callback(self.on_task_complete)
        self.tasks.add(task)

    async def send(self, message: Any) -> None:
        if self._token is None or message["type"] != "websocket.accept":
            await super().send(message)
            return
        await self.writable.wait()
        if self.disconnected:
            raise ClientDisconnected
        if self.transport.is_closing():
            return
        more = [*self.default_headers, *message.get("headers", ())]
        self.transport.write(handshake.answer(self._token, message.get("subprotocol"), more))
        self._token = None
        self.handshake_complete = True
        self.conn.state = State.OPEN
        self.conn.parser = self.conn.parse()  # of frames, in this state
        next(self.conn.parser)
        self.start_keepalive()

    def forget_handshake(self) -> None:
        """The headers of the request and of our answer, which uvicorn and the library keep for ever, each its own."""
        self.scope["headers"] = []
        if hasattr(self, "request"):
            for message in (self.request, self.response):
                message.headers.clear()

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), SLICE):
            if self._cut or self.transport.is_closing():
                return
            if self.handshake_initiated and not self.handshake_complete:
                self.transport.abort()  # a frame before our answer, which uvicorn can't close for
                return
            super().data_received(data[start : start + SLICE])
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self._refuse_handshake()

    def handle_text(self, event: Frame) -> None:
        if self._charge():
            super().handle_text(event)

    def handle_bytes(self, event: Frame) -> None:
        if self._charge():
            super().handle_bytes(event)

    def handle_cont(self, event: Frame) -> None:
        if self._charge():
            super().handle_cont(event)
            if len(self.frames) > FRAGMENTS:
                self.frames = [b"".join(self.frames)]

    def handle_ping(self) -> None:
        if not self._charge():
            return
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()  # no pong waits for one who does not read

    def handle_pong(self, event: Frame) -> None:
        if self._charge():
            super().handle_pong(event)

    def _refuse_handshake(self) -> None:
        """uvicorn forgets one that has a body, or more or longer lines than the WebSocket library reads."""
        answer = b"".join(self.conn.data_to_send())
        detail = "this is no WebSocket handshake as RFC 6455 has it"
        self.transport.write(answer or last_words(Problem.NOT_HTTP, detail))
        self.transport.close()

    def _charge(self) -> bool:
        if self._cut:
            return False
        if self._bucket.take(self.loop.time()):
            return True
        self._cut = True
        self.frames = []
        if self.close_sent:
            self.transport.close()
            return False
        self.close_sent = True
        self.queue.put_nowait({"type": "websocket.disconnect", "code": CloseCode.RATE, "reason": "rate"})
        self.conn.send_close(CloseCode.RATE, "rate")
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.transport.pause_reading()
        self.read_paused = False  # so that uvicorn does not resume it
        self.close_timer = self.loop.call_later(LAST_WORD_S, self.transport.close)
        return False
