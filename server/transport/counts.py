"""What was answered, refused and closed, counted as it happens; `server/rest/metrics.py` shows it.

Every label is from a bounded set, whatever a peer sends: routes by their template, known methods, codes and reasons.
A heartbeat is not counted here and costs nothing.
"""

from collections import Counter
from collections.abc import Iterable

from starlette.routing import BaseRoute, Route
from starlette.types import Message, Scope, Send
from websockets.frames import CloseCode as StandardCode

from playhead.protocol.errors import CloseCode, Problem
from playhead.server.problems import PROBLEM

TRAFFIC_COUNTS = "playhead.traffic_counts"
"""In the ASGI lifespan state: the TrafficCounts of this process, for the protocols under the app."""
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"))
CODES = frozenset((*StandardCode, *CloseCode))
REASONS = frozenset(problem.code for problem in Problem)
OTHER, NO_ROUTE = "other", "none"


class TrafficCounts:
    """Of one process, since it began."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, int]] = Counter()
        """By method, route and status."""
        self.refused: Counter[tuple[str, str]] = Counter()
        """By way (http, websocket, tcp) and the problem's code."""
        self.closed: Counter[tuple[str, str]] = Counter()
        """WebSockets by who closed (server, client; network: nobody) and close code."""
        self._templates: dict[object, str] = {}

    def set_routes(self, routes: Iterable[BaseRoute]) -> None:
        """The routes that requests are counted by."""
        for route in routes:
            if isinstance(route, Route):
                self._templates[route.endpoint] = route.path.replace(":segment", "")

    def counting_send(self, scope: Scope, send: Send) -> Send:
        """ASGI's `send`, for HTTP."""

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                method = scope["method"] if scope["method"] in METHODS else OTHER
                route = self._templates.get(scope.get("endpoint"), NO_ROUTE)
                self.requests[method, route, message["status"]] += 1
                self.count_problem(scope, "http")
            await send(message)

        return sending

    def count_problem(self, scope: Scope, way: str) -> None:
        """Count what the scope was answered with, where that was a problem."""
        if (problem := scope.get(PROBLEM)) is not None:
            self.count_refusal(way, problem)

    def count_refusal(self, way: str, problem: Problem) -> None:
        self.refused[way, problem.code] += 1

    def count_close(self, closer: str, code: int, reason: str = "") -> None:
        """Count the end of a WebSocket. Ours give the code of a problem as the reason."""
        self.closed[closer, str(int(code)) if code in CODES else OTHER] += 1
        if closer == "server" and reason in REASONS:
            self.refused["websocket", reason] += 1
