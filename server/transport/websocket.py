"""uvicorn's WebSocket protocol with the limits that it lacks: on frames of any kind, fragments, and the handshake."""

from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode as StandardCode
from websockets.frames import Frame
from websockets.protocol import State

from playhead.protocol.errors import CloseCode
from playhead.server.limits.rates import Bucket
from playhead.server.transport import handshake
from playhead.server.transport.config import TCP_CONNECTION, ServiceConfig, TcpConnection
from playhead.server.transport.counts import TRAFFIC_COUNTS, TrafficCounts

SLICE = 4_096
"""Bytes of a read that are parsed at a time, so that a flood is detected before all of it is parsed."""
ALL_FRAMES = 4
"""Frames of any kind, pings and fragments included, for each message that the rate limit allows."""
FRAGMENTS = 64
"""Fragments of one message that are kept apart: empty ones take memory and never reach the size limit."""
LAST_WORD_S = 1.0
"""Time for the close frame to reach a flooding peer: closing with unread data resets the connection and drops it."""


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """A WebSocket with a rate limit for frames of any kind; after it was exceeded, nothing is read or answered."""

    def __init__(self, config: ServiceConfig, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        self._config = config
        settings = config.settings
        self._bucket = Bucket(ALL_FRAMES * settings.frames_per_s, ALL_FRAMES * settings.frames_burst, self.loop.time())
        self._tcp: TcpConnection | None = None
        self._cut_off = False
        self._token: bytes | None = None
        """Sec-WebSocket-Accept of a handshake that was taken over from HTTP and is not answered yet."""
        self._early = b""
        """Bytes that arrived before that answer, to be read after it."""
        self.close_timeout = min(self.close_timeout, settings.write_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._tcp is not None:
            self._tcp.leave()
        super().connection_lost(exc)
        if self.handshake_complete and (counts := self.app_state.get(TRAFFIC_COUNTS)) is not None:
            self._count(counts)

    def _count(self, counts: TrafficCounts) -> None:
        """Count the end: by the side that sent the first close frame, or by the network if neither did."""
        sent, received = self.conn.close_sent, self.conn.close_rcvd
        if received is not None and (sent is None or self.conn.close_rcvd_then_sent):
            counts.count_close("client", received.code)
        elif sent is not None:
            counts.count_close("server", sent.code, sent.reason)
        else:
            counts.count_close("network", StandardCode.ABNORMAL_CLOSURE)

    def take_over(self, http: HttpToolsProtocol, tcp: TcpConnection | None, token: bytes, early: bytes) -> None:
        """Continue after an accepted handshake, as uvicorn does after one that the library has parsed.

        Args:
            tcp: the connection; this object releases it.
            token: Sec-WebSocket-Accept.
            early: bytes that the peer sent after the handshake, without waiting for the answer.
        """
        self.transport, self.server, self.client = http.transport, http.server, http.client
        self.scheme = "wss" if http.scheme == "https" else "ws"
        self.transport.set_write_buffer_limits()
        self.connections.add(self)
        self._tcp, self._token, self._early = tcp, token, early
        self.handshake_initiated = True
        url = httptools.parse_url(http.url)
        offered = handshake.tokens(http.headers, b"sec-websocket-protocol")
        self.scope = {
            "type": "websocket",
            "asgi": {"version": self.asgi_version, "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": self.scheme,
            "server": self.server,
            "client": self.client,
            "root_path": self.root_path,
            "path": self.root_path + unquote(url.path.decode("ascii")),
            "raw_path": self.root_path.encode("ascii") + url.path,
            "query_string": url.query or b"",
            "headers": http.headers,
            "subprotocols": [name.decode("ascii") for name in offered],
            "state": self.app_state.copy(),
            "extensions": {"websocket.http.response": {}},
        }
        self.scope[TCP_CONNECTION] = tcp  # type: ignore[literal-required] # a server may add keys of its own
        self.queue.put_nowait({"type": "websocket.connect"})
        task = self.loop.create_task(self.run_asgi())
        task.add_done_callback(self.on_task_complete)
        self.tasks.add(task)

    async def send(self, message: Any) -> None:
        if self._token is None or message["type"] != "websocket.accept":
            await super().send(message)
            # Otherwise uvicorn, which sets this only with a 101, would log an error.
            self.handshake_complete = self.handshake_complete or self.close_sent
            return
        await self.writable.wait()
        if self.disconnected or self.transport.is_closing():
            raise ClientDisconnected
        more = [*self.default_headers, *message.get("headers", ())]
        self.transport.write(handshake.answer(self._token, message.get("subprotocol"), more))
        self._token = None
        self.handshake_complete = True
        self.conn.state = State.OPEN
        self.conn.parser = self.conn.parse()  # parses frames in this state
        next(self.conn.parser)
        self.start_keepalive()
        early, self._early = self._early, b""
        self.data_received(early)

    def forget_handshake(self) -> None:
        """Free the headers of the request, which uvicorn keeps as long as the connection."""
        self.scope["headers"] = []

    def data_received(self, data: bytes) -> None:
        if not self.handshake_complete:
            self._early += data
            if len(self._early) > self._config.settings.max_frame_bytes:
                self.transport.abort()
            return
        for start in range(0, len(data), SLICE):
            if self._cut_off or self.transport.is_closing():
                return
            super().data_received(data[start : start + SLICE])

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
            self.conn.data_to_send()  # no pongs are queued for a peer that does not read

    def handle_pong(self, event: Frame) -> None:
        if self._charge():
            super().handle_pong(event)

    def _charge(self) -> bool:
        if self._cut_off:
            return False
        if self._bucket.take(self.loop.time()):
            return True
        self._cut_off = True
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
