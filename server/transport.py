"""What our two protocols of uvicorn share: configuration, TCP connections counted by network, last words.

uvicorn waits for a request's head for ever, keeps all headers however many, and queues what a flood of small or
control frames makes of one read. A connection that is slow, large or fast beyond reason is cut off: in
`bounded_http.py` and `bounded_websocket.py`.
"""

import logging
from collections import Counter
from typing import Any

import uvicorn

from protocol.errors import Problem
from server.limits import network_of
from server.problems import response
from server.settings import Settings

SPARE_CONNECTIONS = 1_000
"""For REST and health beside as many WebSockets as there may be, of the process and of one address."""


class ServiceConfig(uvicorn.Config):
    """uvicorn's own, and what the protocols here need to know; picklable, for it goes to worker processes."""

    def __init__(self, settings: Settings, **options: Any) -> None:
        self.settings = settings
        self.peers: Counter[str] = Counter()
        """TCP connections of this process by network."""
        super().__init__(**options)


class Counted:
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


def last_words(problem: Problem, detail: str) -> bytes:
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
