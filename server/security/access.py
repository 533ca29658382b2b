"""Who sends this request, and whether it may come so often."""

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
    """The identity behind a REST request, and the bucket that pays for it."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.answer_memory = AnswerMemory(
            settings.max_unread_bytes, max(settings.max_queue_bytes, settings.max_unread_bytes_per_user)
        )
        """What clients have asked for and not taken yet."""
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
        payer = self.payer(request, identity)
        if (tcp := request.scope.get(TCP_CONNECTION)) is not None:
            tcp.mark_authenticated()
            tcp.charge_to(payer, self.answer_memory)
        self.answer_memory.check(payer)
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
        self._charge(self.payer(request, identity), cost)

    def payer(self, request: Request, identity: Identity | None = None) -> Payer:
        """Whose share a request's body and answer take; None: not known before the body is read."""
        return self.payer_at(address_of(request.scope), identity)

    def payer_at(self, address: str, identity: Identity | None) -> Payer:
        if identity is None or not self.authenticator.on:
            return Payer(Kind.ADDRESS, address)
        return Payer(Kind.SERVICE if identity.has(PROGRESS_ANY) else Kind.USER, identity.subject)

    def large_read(self, payer: Payer, shown_bytes: int = 0, *, refuse: bool = True) -> LargeRead:
        """A read of all that a learner has.

        Args:
            shown_bytes: most of the answer that is in memory together.
            refuse: where the payer's requests are used up; else the next ones wait for it.
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
