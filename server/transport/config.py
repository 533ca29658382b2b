"""What our HTTP and WebSocket protocols for uvicorn share: configuration, TCP connections by network, error responses.

uvicorn waits for a request's head without a deadline, keeps any number of headers, and queues every message of a flood
of small or control frames. `http.py` and `websocket.py` cut off connections that are too slow, too large or too fast.
"""

import contextlib
import logging
from asyncio import Transport
from collections import Counter
from ipaddress import ip_address, ip_network
from typing import Any

import uvicorn

from playhead.protocol.errors import Problem
from playhead.server.limits.answer_memory import Account, AnswerMemory
from playhead.server.limits.body_memory import Payer
from playhead.server.limits.newcomers import Newcomers
from playhead.server.limits.rates import network_of
from playhead.server.problems import response
from playhead.server.settings import Settings
from playhead.server.transport.counts import TrafficCounts
from playhead.server.transport.refusals import Refusals
from playhead.server.transport.safe_headers import SAFE_HEADERS

SPARE_CONNECTIONS = 1_000
"""TCP connections for REST and health checks beside the most WebSockets, of the process and of one address."""
TOO_MANY = (
    "more are open than max_connections and max_newcomers allow (of one address max_connections_per_address and "
    "max_newcomers_per_address), and the 2,000 beside them"
)
TCP_CONNECTION = "playhead.tcp_connection"
"""In the ASGI scope: the TcpConnection of a request or WebSocket."""


class ServiceConfig(uvicorn.Config):
    """uvicorn's configuration, and what our protocols need; picklable, since it is sent to worker processes."""

    def __init__(self, settings: Settings, refusals: Refusals | None = None, **options: Any) -> None:
        self.settings = settings
        self.refusals = refusals or Refusals()
        self.peers: Counter[str | None] = Counter()
        """The number of TCP connections of this process by network; None stands for the trusted proxies."""
        self.newcomers: Newcomers[TcpConnection] = Newcomers(
            settings.max_newcomers + SPARE_CONNECTIONS, settings.max_newcomers_per_address + SPARE_CONNECTIONS
        )
        """Connections without a valid token, or without one for their current request."""
        self._proxies = [ip_network(network) for network in settings.trusted_proxies]
        super().__init__(**options)

    def network_of(self, client: tuple[str, int] | None) -> str | None:
        """The network of a peer; None for a trusted proxy, whose requests count for the address that it forwards."""
        if client is None:
            return ""
        network = network_of(client[0])
        if self._proxies:
            with contextlib.suppress(ValueError):
                address = ip_address(client[0])
                if any(address in proxies for proxies in self._proxies):
                    return None
        return network


def most_connections(settings: Settings) -> int:
    """The most TCP connections of one process: WebSockets, newcomers including REST, and requests being answered."""
    return settings.max_connections + settings.max_newcomers + 2 * SPARE_CONNECTIONS


class TcpConnection:
    """A TCP connection, counted by its network.

    It is a newcomer, which may be closed to make room, until a valid token arrives on it, and again after that request
    has been answered; a WebSocket stays authenticated. So connections that send nothing, or half a request, cannot keep
    others out.
    """

    __slots__ = ("_account", "_config", "_counts", "_network", "_transport")

    def __init__(
        self, config: ServiceConfig, client: tuple[str, int] | None, transport: Transport, counts: TrafficCounts | None
    ) -> None:
        self._config = config
        self._counts = counts
        self._network = config.network_of(client)
        self._transport: Transport | None = transport
        self._account: Account | None = None
        config.peers[self._network] += 1
        self.mark_unauthenticated()
        if self._is_one_too_many():
            config.refusals.add("connections", "Reset a connection: %s", TOO_MANY)
            self._cut_off(transport)

    def mark_authenticated(self) -> None:
        """Note that a valid token has arrived."""
        self._config.newcomers.leave(self)

    def mark_unauthenticated(self) -> None:
        """Note that the request or WebSocket of the token is over."""
        if self._transport is None:
            return
        oldest = self._config.newcomers.enter(self, self._network)
        if oldest is not None and oldest._transport is not None:
            self._cut_off(oldest._transport)

    def _cut_off(self, transport: Transport) -> None:
        transport.abort()
        if self._counts is not None:
            self._counts.count_refusal("tcp", Problem.BUSY)

    def abort(self) -> None:
        """Close the connection and discard unsent bytes."""
        if self._transport is not None:
            self._transport.abort()

    def charge_to(self, payer: Payer, memory: AnswerMemory) -> None:
        """Charge this payer for unsent bytes from now on; a proxy's connections serve many."""
        if self._account is None or self._account.payer != payer:
            if self._account is not None:
                self._account.hold(0)
            self._account = memory.account(payer)
            self.update_unread()

    def update_unread(self) -> None:
        """Update how many bytes are unsent."""
        if self._account is not None:
            self._account.hold(self._transport.get_write_buffer_size() if self._transport is not None else 0)

    def leave(self) -> None:
        """Note, once, that the connection is closed."""
        self._transport = None
        self.update_unread()
        self._config.newcomers.leave(self)
        peers = self._config.peers
        peers[self._network] -= 1
        if not peers[self._network]:
            del peers[self._network]

    def _is_one_too_many(self) -> bool:
        """Whether there is no room left beside authenticated connections. WebSockets have their own limit."""
        settings, peers = self._config.settings, self._config.peers
        most_of_one = settings.max_connections_per_address + settings.max_newcomers_per_address + 2 * SPARE_CONNECTIONS
        if self._network is not None and peers[self._network] > most_of_one:
            return True
        return peers.total() > most_connections(settings)


def error_response(problem: Problem, detail: str) -> bytes:
    """The response to input that did not become a request."""
    answer = response(problem, detail)
    head = [f"HTTP/1.1 {answer.status_code} {problem.value.title}\r\n".encode()]
    head += [name + b": " + value + b"\r\n" for name, value in (*answer.raw_headers, *SAFE_HEADERS)]
    return b"".join([*head, b"connection: close\r\n\r\n", bytes(answer.body)])


class PeerMistakeFilter(logging.Filter):
    """Drops lines of uvicorn's log that any peer can cause at will."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("Invalid UTF-8")
