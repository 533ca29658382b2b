"""What asks nobody for a token, files and health: held to a rate by address, each kind apart."""

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
    """Args: clock: this machine's."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock

    def limited(self, what: str, routes: Iterable[Route]) -> Iterator[Route]:
        """The same routes, with one bucket of an address for all of them; `what` names them in a refusal."""
        settings = self._settings
        buckets = Buckets(settings.public_requests_per_s, settings.public_requests_burst, what)
        for route in routes:
            yield Route(route.path, self._paid(route.endpoint, buckets), methods=list(route.methods or ()))

    def _paid(self, endpoint: Endpoint, buckets: Buckets) -> Endpoint:
        async def respond(request: Request) -> Response:
            buckets.take(address_of(request.scope), self._clock().mono / 1_000)
            return await endpoint(request)

        return respond
