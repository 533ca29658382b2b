"""Limits on the memory that incomplete request bodies take: for each user, each address, and the process.

A user who sends too much at once is refused, which affects nobody else. At the limit of an address or of the process
there is no telling who is at fault, so the body that began first is refused: a body that completes at all does so
quickly. Hence stalled uploads cannot lock out complete ones.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto

from playhead.server.limits.admission import Busy
from playhead.server.limits.rates import TooFast

RETRY_AFTER_S = 2.0


class Kind(Enum):
    USER = auto()
    ADDRESS = auto()
    """For a body whose sender is unknown until it has been read, or stays unknown."""
    SERVICE = auto()
    """A program that acts for many users; only the bound of the process applies to it."""


@dataclass(frozen=True, slots=True)
class Payer:
    """The user, address or service whose share a request uses."""

    kind: Kind
    name: str


@dataclass(eq=False, slots=True)
class Body:
    """A request body that is arriving."""

    payer: Payer
    deadline: asyncio.Timeout
    """Limits the wait for the rest of the body; rescheduled to now to give the body up."""
    size: int = 0
    gave_way: bool = False


@dataclass(slots=True)
class _Share:
    size: int = 0
    bodies: OrderedDict[Body, None] = field(default_factory=OrderedDict)


class BodyMemory:
    """The arriving bodies of one process.

    Args:
        most: bytes of all bodies together.
        most_of_user: bytes of the bodies of one user.
        most_of_address: bytes of the bodies of one address.
    """

    def __init__(self, most: int, most_of_user: int, most_of_address: int) -> None:
        self._most = most
        self._most_of = {Kind.USER: most_of_user, Kind.ADDRESS: most_of_address, Kind.SERVICE: most}
        self._bodies: OrderedDict[Body, None] = OrderedDict()
        self._shares: dict[Payer, _Share] = {}
        self.size = 0
        """Bytes of all bodies."""

    @contextmanager
    def body(self, payer: Payer, deadline: asyncio.Timeout) -> Iterator[Body]:
        """Count a body while the block runs."""
        arriving = Body(payer, deadline)
        self._bodies[arriving] = None
        self._shares.setdefault(payer, _Share()).bodies[arriving] = None
        try:
            yield arriving
        finally:
            self._release(arriving)

    def grow(self, body: Body, by: int) -> None:
        """Count `by` more bytes of a body.

        Raises:
            TooFast: the arriving bodies of this user are too large together.
            Busy: this body began first and had to give way to others.
        """
        if not body.gave_way:
            share = self._shares[body.payer]
            body.size += by
            share.size += by
            self.size += by
            while share.size > self._most_of[body.payer.kind] and not body.gave_way:
                if body.payer.kind is Kind.USER:
                    raise TooFast("this user's concurrent request bodies are too large together", RETRY_AFTER_S)
                self._give_way(next(iter(share.bodies)))
            while self.size > self._most:
                self._give_way(next(iter(self._bodies)))
        if body.gave_way:
            raise gave_way()

    def _give_way(self, body: Body) -> None:
        self._release(body)
        body.gave_way = True
        if not body.deadline.expired():
            body.deadline.reschedule(0)

    def _release(self, body: Body) -> None:
        if self._bodies.pop(body, body) is not None:
            return
        share = self._shares[body.payer]
        del share.bodies[body]
        share.size -= body.size
        self.size -= body.size
        if not share.bodies:
            del self._shares[body.payer]


def gave_way() -> Busy:
    return Busy("the request bodies arriving at once exceed the memory for them", RETRY_AFTER_S)
