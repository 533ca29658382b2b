"""Identifies the caller of each REST request and charges it to a rate limit."""

from functools import partial

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Scope

from playhead.protocol.errors import PeerError
from playhead.server.clock import Clock
from playhead.server.limits.answer_memory import AnswerMemory
from playhead.server.limits.body_memory import Kind, Payer
from playhead.server.limits.large_reads import LargeRead
from playhead.server.limits.rates import Buckets, network_of
from playhead.server.security.identity import PROGRESS_ANY, Identity
from playhead.server.security.tokens import Authenticator, bearer
from playhead.server.settings import Settings
from playhead.server.transport.config import TCP_CONNECTION


class Access:
    """Identifies callers, and charges their requests and answers to users, addresses or services."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.answer_memory = AnswerMemory(
            settings.max_unread_bytes, max(settings.max_queue_bytes, settings.max_unread_bytes_per_user)
        )
        """Answers that clients have not read yet."""
        self.authenticator = Authenticator(settings)
        self.clock = clock
        """This machine's clock, which the expiry of tokens and the rate limits go by."""
        self._users = Buckets(settings.requests_per_s, settings.requests_burst, "requests")
        self._addresses = Buckets(settings.address_requests_per_s, settings.address_requests_burst, "requests")

    async def identify(self, request: Request, token: str | None = None) -> Identity:
        """Identify the caller and charge for the request.

        Args:
            token: the token in the body, for a beacon, which has no headers.

        Raises:
            PeerError: there is no valid token, or the caller has sent too many requests.
        """
        identity = await self.verify(address_of(request.scope), request.headers, token)
        self.charge(request, identity)
        payer = self.payer(request, identity)
        if (tcp := request.scope.get(TCP_CONNECTION)) is not None:
            tcp.mark_authenticated()
            tcp.charge_to(payer, self.answer_memory)
        self.answer_memory.check(payer)
        return identity

    async def verify(self, address: str, headers: Headers, token: str | None = None) -> Identity:
        """Identify the caller by the Authorization header, or else by `token`.

        Failed attempts are charged to the address.

        Raises:
            PeerError: there is no valid token, or the address has sent too many invalid ones.
        """
        try:
            return await self.authenticator.identify(
                (bearer(headers) if self.authenticator.enabled else None) or token, address
            )
        except PeerError:
            self._addresses.take(address, self._now())
            raise

    def charge(self, request: Request, identity: Identity, cost: float = 1.0) -> None:
        """Charge a request to its user, or to its address where there are no tokens; services are exempt.

        Raises:
            TooFast: the rate limit is exceeded.
        """
        self._charge(self.payer(request, identity), cost)

    def payer(self, request: Request, identity: Identity | None = None) -> Payer:
        """Whose share the request's body and answer use; without an identity, which a body may hold, the address's."""
        return self.payer_at(address_of(request.scope), identity)

    def payer_at(self, address: str, identity: Identity | None) -> Payer:
        if identity is None or not self.authenticator.enabled:
            return Payer(Kind.ADDRESS, address)
        return Payer(Kind.SERVICE if identity.has(PROGRESS_ANY) else Kind.USER, identity.subject)

    def large_read(self, payer: Payer, shown_bytes: int = 0, *, refuse: bool = True) -> LargeRead:
        """A read of all records of a learner.

        Args:
            shown_bytes: the largest part of the answer that is in memory at one time.
            refuse: whether to refuse the read if the payer's requests are used up; otherwise their next requests wait.
        """
        charge = partial(self._charge if refuse else self._owe, payer)
        return LargeRead(self.answer_memory.account(payer), charge, partial(self._owe, payer), shown_bytes)

    def _charge(self, payer: Payer, cost: float) -> None:
        if payer.kind is not Kind.SERVICE:
            self._buckets(payer).take(payer.name, self._now(), cost)

    def _owe(self, payer: Payer, cost: float) -> None:
        if payer.kind is not Kind.SERVICE:
            self._buckets(payer).owe(payer.name, self._now(), cost)

    def _buckets(self, payer: Payer) -> Buckets:
        return self._users if payer.kind is Kind.USER else self._addresses

    def _now(self) -> float:
        return self.clock().mono / 1_000


def address_of(scope: Scope) -> str:
    """The network of the client, or of the client that a trusted proxy names."""
    client = scope.get("client")
    return network_of(client[0]) if client else ""


HOW_TO_SEND = "send it in the header Authorization: Bearer, or over a WebSocket in hello"


def has_token_in_url(query: bytes) -> bool:
    """Whether a query string holds a token. Query strings end up in logs, histories and Referer headers."""
    if not query:
        return False
    names = (pair.partition(b"=")[0].lower() for pair in query.split(b"&"))
    return any(name in (b"token", b"access_token", b"id_token", b"jwt", b"authorization", b"bearer") for name in names)
