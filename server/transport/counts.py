"""Counts responses, refusals and closed connections; `server/rest/metrics.py` exports the counts.

Every label is from a bounded set, whatever a peer sends: routes by their template, known methods, codes and reasons.
Heartbeats are not counted here, and cost nothing.
"""

from collections import Counter
from collections.abc import Iterable

from starlette.routing import BaseRoute, Route
from starlette.types import Message, Scope, Send
from websockets.frames import CloseCode as StandardCode

from playhead.protocol.errors import CloseCode, Problem
from playhead.server.problems import PROBLEM

TRAFFIC_COUNTS = "playhead.traffic_counts"
"""In the ASGI lifespan state: the TrafficCounts of this process, for the protocols below the app."""
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"))
CODES = frozenset((*StandardCode, *CloseCode))
REASONS = frozenset(problem.code for problem in Problem)
OTHER, NO_ROUTE = "other", "none"


class TrafficCounts:
    """Counts of one process since it started."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, int]] = Counter()
        """By method, route and status."""
        self.refused: Counter[tuple[str, str]] = Counter()
        """By transport (http, websocket, tcp) and the problem's code."""
        self.closed: Counter[tuple[str, str]] = Counter()
        """WebSockets by who closed them (server, client; network if neither did) and close code."""
        self._templates: dict[object, str] = {}

    def set_routes(self, routes: Iterable[BaseRoute]) -> None:
        """Set the routes by which requests are counted."""
        for route in routes:
            if isinstance(route, Route):
                self._templates[route.endpoint] = route.path.replace(":segment", "")

    def counting_send(self, scope: Scope, send: Send) -> Send:
        """Wrap ASGI's `send` of an HTTP request."""

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                method = scope["method"] if scope["method"] in METHODS else OTHER
                route = self._templates.get(scope.get("endpoint"), NO_ROUTE)
                self.requests[method, route, message["status"]] += 1
                self.count_problem(scope, "http")
            await send(message)

        return sending

    def count_problem(self, scope: Scope, way: str) -> None:
        """Count the problem that the scope was answered with, if there was one."""
        if (problem := scope.get(PROBLEM)) is not None:
            self.count_refusal(way, problem)

    def count_refusal(self, way: str, problem: Problem) -> None:
        self.refused[way, problem.code] += 1

    def count_close(self, closer: str, code: int, reason: str = "") -> None:
        """Count a closed WebSocket. The server gives the code of a problem as the reason."""
        self.closed[closer, str(int(code)) if code in CODES else OTHER] += 1
        if closer == "server" and reason in REASONS:
            self.refused["websocket", reason] += 1
