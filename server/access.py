"""Who sends this request, and whether it may come so often."""

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Scope

from protocol.errors import PeerError
from server.arriving import Kind, Payer
from server.auth import Authenticator, bearer
from server.clock import Clock
from server.identity import PROGRESS_ANY, Identity
from server.limits import Buckets, network_of
from server.settings import Settings
from server.transport import PLACE


class Access:
    """The identity behind a REST request, and the bucket that pays for it."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.authenticator = Authenticator(settings)
        self.clock = clock
        """This machine's: of tokens, and of how often somebody comes."""
        self._users = Buckets(settings.requests_per_s, settings.requests_burst, "requests")
        self._addresses = Buckets(settings.address_requests_per_s, settings.address_requests_burst, "requests")

    async def identify(self, request: Request, token: str | None = None) -> Identity:
        """Args: token: what the body gave, for a beacon, which has no headers.

        Raises:
            PeerError: no valid token, or too many requests.
        """
        identity = await self.verify(address_of(request.scope), request.headers, token)
        self.charge(request, identity)
        if (place := request.scope.get(PLACE)) is not None:
            place.settle()
        return identity

    async def verify(self, address: str, headers: Headers, token: str | None = None) -> Identity:
        """Who a request's header or else `token` speaks for; a bad one is paid for by the address that it came from.

        Raises:
            PeerError: no valid token, or too many that were not.
        """
        try:
            return await self.authenticator.identify(
                (bearer(headers) if self.authenticator.on else None) or token, address
            )
        except PeerError:
            self._addresses.take(address, self._now())
            raise

    def charge(self, request: Request, identity: Identity, cost: float = 1.0) -> None:
        """Raises TooFast. Users pay for themselves; where there are no tokens, addresses do; services do not."""
        if not self.authenticator.on:
            self._addresses.take(address_of(request.scope), self._now(), cost)
        elif not identity.has(PROGRESS_ANY):
            self._users.take(identity.subject, self._now(), cost)

    def payer(self, request: Request, identity: Identity | None = None) -> Payer:
        """Whose share a request's body takes; None: not known before it is read."""
        if identity is None or not self.authenticator.on:
            return Payer(Kind.ADDRESS, address_of(request.scope))
        return Payer(Kind.SERVICE if identity.has(PROGRESS_ANY) else Kind.USER, identity.subject)

    def _now(self) -> float:
        return self.clock().mono / 1_000


def address_of(scope: Scope) -> str:
    """One caller's address; behind a trusted proxy, what that says."""
    client = scope.get("client")
    return network_of(client[0]) if client else ""


HOW_TO_SEND = "send it in the header Authorization: Bearer, or over a WebSocket in hello"


def has_token_in_url(query: bytes) -> bool:
    """Query strings end up in logs, histories and Referer headers: a token there is as good as published."""
    if not query:
        return False
    names = (pair.partition(b"=")[0].lower() for pair in query.split(b"&"))
    return any(name in (b"token", b"access_token", b"id_token", b"jwt", b"authorization", b"bearer") for name in names)
