"""uvicorn's two protocols with the bounds that they lack: on connections, time, what waits, frames of any kind.

uvicorn waits for a request's head for ever, keeps all headers however many, and queues what a flood of small or
control frames makes of one read. Here a connection that is slow, large or fast beyond reason is cut off.
"""

import asyncio
import logging
from collections import Counter
from typing import Any, cast
from urllib.parse import unquote

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.protocol import State

from protocol.errors import CloseCode, Problem
from server import handshake
from server.corked import Corked
from server.limits import Bucket, network_of
from server.problems import response
from server.settings import Settings

SLICE = 4_096
"""Bytes of a read that are made into frames at once: a flood is noticed before all of it is."""
SPARE_CONNECTIONS = 1_000
"""For REST and health beside as many WebSockets as there may be, of the process and of one address."""
BODY_GRACE_S = 5.0
"""After the deadline of a body, for the app to say so."""
PIPELINED = 16
"""Requests that may wait for the answers before them on one connection."""
ALL_FRAMES = 4
"""Frames of all kinds, pings and fragments too, to the messages that may come."""
FRAGMENTS = 64
"""Pieces of one message that are kept apart: empty ones would cost memory and never reach the limit of a frame."""
LAST_WORD_S = 1.0
"""For the close of a flood to arrive: to close with its frames unread resets the connection, and drops what is sent."""
HEADER_BYTES = 4
"""Of a header line beside name and value."""


class ServiceConfig(uvicorn.Config):
    """uvicorn's own, and what the protocols here need to know; picklable, for it goes to worker processes."""

    def __init__(self, settings: Settings, **options: Any) -> None:
        self.settings = settings
        self.peers: Counter[str] = Counter()
        """TCP connections of this process by network."""
        super().__init__(**options)


class _Counted:
    """A TCP connection's place among those of its network."""

    __slots__ = ("_network", "_peers")

    def __init__(self, config: ServiceConfig, address: tuple[str, int] | None) -> None:
        self._peers = config.peers
        self._network = network_of(address[0]) if address is not None else ""
        self._peers[self._network] += 1

    def too_many(self, config: ServiceConfig) -> bool:
        """Whether this is one too many; proxies bring many."""
        settings = config.settings
        if self._peers.total() > settings.max_connections + SPARE_CONNECTIONS:
            return True
        limit = settings.max_connections_per_address + SPARE_CONNECTIONS
        return self._peers[self._network] > limit and not settings.trusted_proxies

    def leave(self) -> None:
        """Once."""
        self._peers[self._network] -= 1
        if not self._peers[self._network]:
            del self._peers[self._network]


class BoundedHttp(HttpToolsProtocol):
    """A head within its deadline and size, a body within its deadline, few pipelined requests, few connections."""

    config: ServiceConfig

    def __init__(self, config: ServiceConfig, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        self._settings = config.settings
        self._deadline: asyncio.TimerHandle | None = None
        self._place: _Counted | None = None
        self._bytes = 0
        self._in_head = True
        self._problem = Problem.NOT_HTTP
        self._answering: RequestResponseCycle | None = None
        self._corked: Corked | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._place = _Counted(self.config, self.client)
        if self._place.too_many(self.config):
            transport.abort()
        else:
            self._expect(self._settings.head_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        if self._answering is not None:  # uvicorn tells the last request only, which may wait behind this one
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)
        self.pipeline.clear()  # what was never answered leads back to us
        self.cycle = self._answering = self._corked = None  # type: ignore[assignment]

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        self._corked = Corked(cycle.transport)
        cycle.transport = self._corked  # type: ignore[assignment] # all that it needs of one
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        if self._corked is not None:
            self._corked.flush()
            self._corked = None
        super().on_response_complete()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._bytes += len(data)
        if self._in_head and self._deadline is None:
            self._expect(self._settings.head_timeout_s)
        super().data_received(data)
        if self._in_head and self._bytes > self._settings.max_head_bytes and not self.transport.is_closing():
            self._problem = Problem.HEADERS_TOO_LARGE
            self.send_400_response("")
        elif self._bytes > self._most() and not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_started:
                self.transport.close()
            else:
                self._problem = Problem.TOO_LARGE
                self.send_400_response("")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if len(self.pipeline) >= PIPELINED:
            raise ValueError("too many pipelined requests")  # ends in send_400_response

    def on_header(self, name: bytes, value: bytes) -> None:
        """Not those behind a chunked body: nobody reads them, and each takes far more memory than it has bytes."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        headers = sum(len(name) + len(value) + HEADER_BYTES for name, value in self.headers)
        if len(self.url) + headers > self._settings.max_head_bytes:
            self._problem = Problem.HEADERS_TOO_LARGE
            raise ValueError("headers too large")  # ends in send_400_response
        self._in_head = False
        self._expect(self._settings.body_timeout_s + BODY_GRACE_S)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head, self._bytes = True, 0
        self._expect(None)
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        token = None
        if self.scope["method"] == "GET" and self.scope["http_version"] == "1.1":
            token = handshake.accept_token(self.url, self.headers)
        if token is None:
            self._leave()
            super().handle_websocket_upgrade()
        else:
            self._expect(None)
            self.connections.discard(self)
            kind = cast(type[BoundedWebSocket], self.ws_protocol_class)
            protocol = kind(self.config, self.server_state, self.app_state)
            place, self._place = self._place, None
            protocol.take_over(self, place, token)
            self.transport.set_protocol(protocol)
        self.parser = None  # type: ignore[assignment] # it holds us as we hold it, and is done

    def send_400_response(self, msg: str) -> None:
        """uvicorn calls this for what it can't read; we, for what we won't, with `_problem` set."""
        details = {
            Problem.NOT_HTTP: "it is not HTTP/1.1 as RFC 9112 has it",
            Problem.HEADERS_TOO_LARGE: f"a head has at most {self._settings.max_head_bytes} bytes",
            Problem.TIMEOUT: f"a head arrives within {self._settings.head_timeout_s:g} s",
            Problem.TOO_LARGE: f"a message has at most {self._most()} bytes, chunk sizes and trailers included",
        }
        self.transport.write(_last_words(self._problem, details[self._problem]))
        self.transport.close()

    def _most(self) -> int:
        """Of a whole message: a chunked body may be twice its content, in chunks of a few bytes."""
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
        if self._place is not None:
            self._place.leave()
            self._place = None


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """Frames of any kind at a rate; nothing more is read, or answered, of a connection that is cut off."""

    def __init__(self, config: ServiceConfig, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        self._config = config
        settings = config.settings
        self._bucket = Bucket(ALL_FRAMES * settings.frames_per_s, ALL_FRAMES * settings.frames_burst, self.loop.time())
        self._place: _Counted | None = None
        self._cut = False
        self._token: bytes | None = None
        """Of a handshake that is taken over from HTTP and not answered yet."""
        self.close_timeout = min(self.close_timeout, settings.write_timeout_s)

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._place = _Counted(self._config, self.client)

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

    def take_over(self, http: BoundedHttp, place: _Counted | None, token: bytes) -> None:
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
        self.transport.write(answer or _last_words(Problem.NOT_HTTP, detail))
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


def _last_words(problem: Problem, detail: str) -> bytes:
    """An answer to what did not become a request."""
    answer = response(problem, detail)
    head = [f"HTTP/1.1 {answer.status_code} {problem.value.title}\r\n".encode()]
    head += [name + b": " + value + b"\r\n" for name, value in answer.raw_headers]
    return b"".join([*head, b"connection: close\r\n\r\n", bytes(answer.body)])


class PeersMistakes(logging.Filter):
    """Keeps out of uvicorn's log what any peer can write into it at will."""

    def filter(self, record: logging.LogRecord) -> bool:
        mistakes = ("Invalid HTTP request", "Unsupported upgrade", "No supported WebSocket", "Invalid UTF-8")
        return not str(record.msg).startswith(mistakes)
