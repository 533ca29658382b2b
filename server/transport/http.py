"""uvicorn's HTTP protocol with the limits that it lacks: on connections, time, headers, bodies and pipelining."""

import asyncio
from typing import Any, cast
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from playhead.protocol.errors import Problem
from playhead.server.limits.rates import unmapped
from playhead.server.transport import handshake
from playhead.server.transport.config import TCP_CONNECTION, ServiceConfig, TcpConnection, error_response
from playhead.server.transport.counts import TRAFFIC_COUNTS
from playhead.server.transport.websocket import BoundedWebSocket

BODY_GRACE_S = 5.0
"""After the deadline of a body, for the app to answer that it was missed."""
PIPELINED = 16
"""Pipelined requests of one connection that may wait for the responses before theirs."""
HEADER_BYTES = 4
"""Bytes of a header line beside name and value."""


class BoundedHttp(HttpToolsProtocol):
    """HTTP/1.1 with deadlines for head and body, and limits on sizes, pipelined requests and connections."""

    config: ServiceConfig

    def __init__(self, config: ServiceConfig, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        self._settings = config.settings
        self._deadline: asyncio.TimerHandle | None = None
        self._tcp: TcpConnection | None = None
        self._bytes = 0
        self._in_head = True
        self._problem = Problem.NOT_HTTP
        self._answering: RequestResponseCycle | None = None
        self._over = False
        """Whether a request had Connection: close; nothing after it is read (RFC 9112, 9.6)."""
        self._token: bytes | None = None
        """Sec-WebSocket-Accept of an accepted handshake, while requests before it wait for their responses."""
        self._early = b""
        """Bytes that arrived after that handshake."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.client is not None:  # once, here: everything that asks for the peer's address uses this
            self.client = unmapped(self.client[0]), self.client[1]
        self._tcp = TcpConnection(self.config, self.client, transport, self.app_state.get(TRAFFIC_COUNTS))
        transport.set_write_buffer_limits(high=0)  # calls pause_writing for whatever the kernel does not take
        self._expect(self._settings.head_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        if self._answering is not None:  # uvicorn notifies only the last request, which may wait for this one
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)
        self.pipeline.clear()  # requests that were never answered reference this object
        self.cycle = self._answering = None  # type: ignore[assignment]

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._tcp is not None:
            self._tcp.update_unread()

    def resume_writing(self) -> None:
        if self._tcp is not None:
            self._tcp.update_unread()
        super().resume_writing()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        if self._answering is not None:
            self._answering.body.clear()  # nobody will read the rest
        if self._tcp is not None:
            self._tcp.mark_unauthenticated()
        super().on_response_complete()
        if self._token is not None and not self.transport.is_closing():
            self._switch(self._token)

    def data_received(self, data: bytes) -> None:
        if self._over or self.transport.is_closing():
            return
        if self._token is not None:
            self._early += data
            if len(self._early) > self._settings.max_frame_bytes:
                self.transport.abort()
            return
        self._bytes += len(data)
        if self._in_head and self._deadline is None:
            self._expect(self._settings.head_timeout_s)
        self._read(data)
        if self._over or self._token is not None or self.transport.is_closing():
            return
        if self._in_head and self._bytes > self._settings.max_head_bytes:
            self._problem = Problem.HEADERS_TOO_LARGE
            self.send_400_response("")
        elif self._bytes > self._most():
            if self.cycle is None or self.cycle.response_started:
                self.transport.close()
            else:
                self._problem = Problem.TOO_LARGE
                self.send_400_response("")

    def _read(self, data: bytes) -> None:
        """Parse as uvicorn does. An Upgrade ends the parser, even where a body follows its head."""
        self._unset_keepalive_if_required()
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                rest = data[upgrade.args[0] :]
                if self._token is not None:
                    self._early = rest
                    self._switch(self._token)
                    return
                data = self._head_without_upgrade() + rest
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            except httptools.HttpParserError:
                if self._over:
                    self._expect(None)
                else:
                    self.send_400_response("")
                return
            else:
                return

    def on_message_begin(self) -> None:
        if self.cycle is not None and not self.cycle.keep_alive:
            self._over = True
            raise ValueError("nothing more is read")
        super().on_message_begin()
        self.scope[TCP_CONNECTION] = self._tcp  # type: ignore[literal-required] # a server may add keys of its own
        if len(self.pipeline) >= PIPELINED:
            raise ValueError("too many pipelined requests")  # ends in send_400_response

    def on_header(self, name: bytes, value: bytes) -> None:
        """Ignore trailers of a chunked body: nobody reads them, and each takes far more memory than its bytes."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        headers = sum(len(name) + len(value) + HEADER_BYTES for name, value in self.headers)
        if len(self.url) + headers > self._settings.max_head_bytes:
            self._problem = Problem.HEADERS_TOO_LARGE
            raise ValueError("headers too large")  # ends in send_400_response
        if self.parser.should_upgrade():  # ends in HttpParserUpgrade
            self._token = self._accept_token()
            return
        self._in_head = False
        self._expect(self._settings.body_timeout_s + BODY_GRACE_S)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._in_head, self._bytes = True, 0
        self._expect(None)
        super().on_message_complete()

    def _accept_token(self) -> bytes | None:
        """Sec-WebSocket-Accept for a handshake; None for an Upgrade that is ignored."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            raise ValueError("CONNECT is not supported")  # ends in send_400_response
        if method != b"GET" or self.parser.get_http_version() != "1.1":
            return None
        path = unquote((httptools.parse_url(self.url).path or b"").decode("ascii"))
        if path != handshake.SOCKET_PATH:
            self.config.refusals.add("path", "Ignored an Upgrade of another path than %s", handshake.SOCKET_PATH)
        token = handshake.accept_token(path, self.headers)
        if token is not None and handshake.too_large(self.url, self.headers):
            self._problem = Problem.HEADERS_TOO_LARGE
            raise ValueError("headers too large")  # ends in send_400_response
        return token

    def _head_without_upgrade(self) -> bytes:
        """The head that was just parsed, without the Upgrade that would end the parser again."""
        lines = [self.parser.get_method(), b" ", self.url, b" HTTP/", self.parser.get_http_version().encode(), b"\r\n"]
        for name, value in self.headers:
            if name != b"upgrade":
                lines += [name, b": ", value, b"\r\n"]
        return b"".join([*lines, b"\r\n"])

    def _switch(self, token: bytes) -> None:
        """Switch to the WebSocket protocol once the requests before the handshake are answered."""
        self._expect(None)
        self._unset_keepalive_if_required()
        if self._answering is not None and not self._answering.response_complete:
            self.flow.pause_reading()
            return
        self.connections.discard(self)
        kind = cast(type[BoundedWebSocket], self.ws_protocol_class)
        protocol = kind(self.config, self.server_state, self.app_state)
        tcp, self._tcp = self._tcp, None
        protocol.take_over(self, tcp, token, self._early)
        self.transport.set_protocol(protocol)
        if self.flow.write_paused:
            protocol.pause_writing()
        self.flow.resume_reading()
        # These reference this object and are no longer needed.
        self.parser = self.cycle = self._answering = None  # type: ignore[assignment]

    def send_400_response(self, msg: str) -> None:
        """Refuse a request. uvicorn calls this if it cannot parse one; we call it with `_problem` set."""
        details = {
            Problem.NOT_HTTP: "it is not valid HTTP/1.1 (RFC 9112)",
            Problem.HEADERS_TOO_LARGE: (
                f"a head has at most {self._settings.max_head_bytes} bytes, "
                f"that of a WebSocket at most {handshake.MAX_HEADERS} lines of {handshake.MAX_LINE} bytes"
            ),
            Problem.TIMEOUT: f"a head must arrive within {self._settings.head_timeout_s:g} s",
            Problem.TOO_LARGE: f"a message has at most {self._most()} bytes, chunk sizes and trailers included",
        }
        self.transport.write(error_response(self._problem, details[self._problem]))
        if (counts := self.app_state.get(TRAFFIC_COUNTS)) is not None:
            counts.count_refusal("http", self._problem)
        self.transport.close()

    def _most(self) -> int:
        """The most bytes of a message: in chunks of a few bytes, a body takes several times its content."""
        return self._settings.max_head_bytes + 4 * self._settings.max_body_bytes

    def _expect(self, within_s: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if within_s is None else self.loop.call_later(within_s, self._too_slow)

    def _too_slow(self) -> None:
        self._deadline = None
        if self._in_head and self._bytes:
            self._problem = Problem.TIMEOUT
            self.send_400_response("")
        self.transport.close()

    def _leave(self) -> None:
        self._expect(None)
        if self._tcp is not None:
            self._tcp.leave()
            self._tcp = None
