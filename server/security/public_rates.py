"""Rate limits by address for the endpoints that need no token: files and health checks, each kind separately."""

from collections.abc import Awaitable, Callable, Iterable, Iterator

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from playhead.server.clock import Clock
from playhead.server.limits.rates import Buckets
from playhead.server.security.access import address_of
from playhead.server.settings import Settings

Endpoint = Callable[[Request], Awaitable[Response]]


class PublicRates:
    """Adds rate limits to routes.

    Args:
        clock: this machine's clock.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock

    def limited(self, what: str, routes: Iterable[Route]) -> Iterator[Route]:
        """Limit the routes, with one bucket for each address. `what` names the kind of request in the error."""
        settings = self._settings
        buckets = Buckets(settings.public_requests_per_s, settings.public_requests_burst, what)
        for route in routes:
            yield Route(route.path, self._paid(route.endpoint, buckets), methods=list(route.methods or ()))

    def _paid(self, endpoint: Endpoint, buckets: Buckets) -> Endpoint:
        async def respond(request: Request) -> Response:
            buckets.take(address_of(request.scope), self._clock().mono / 1_000)
            return await endpoint(request)

        return respond
