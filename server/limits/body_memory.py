"""Memory for the request bodies that are arriving, shared out: so much of one user, of one address, and of all.

A user who sends too much at once is refused, which concerns nobody else. Behind an address, and in sum, it can't be
known whose fault it is: there the body that began first gives way, as a body that arrives at all does so soon. So half
bodies keep out no whole ones.
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
    """Of a body whose sender is not known before it is read, or not at all."""
    SERVICE = auto()
    """A program that acts for many users: it counts in sum only."""


@dataclass(frozen=True, slots=True)
class Payer:
    """Whose body it is."""

    kind: Kind
    name: str


@dataclass(eq=False, slots=True)
class Body:
    """One that is arriving."""

    payer: Payer
    deadline: asyncio.Timeout
    """Ends the wait for the rest of it."""
    size: int = 0
    gave_way: bool = False


@dataclass(slots=True)
class _Share:
    size: int = 0
    bodies: OrderedDict[Body, None] = field(default_factory=OrderedDict)


class BodyMemory:
    """Those of one process. Args: bytes of all bodies, and of those of one user or one address."""

    def __init__(self, most: int, most_of_user: int, most_of_address: int) -> None:
        self._most = most
        self._most_of = {Kind.USER: most_of_user, Kind.ADDRESS: most_of_address, Kind.SERVICE: most}
        self._bodies: OrderedDict[Body, None] = OrderedDict()
        self._shares: dict[Payer, _Share] = {}
        self.size = 0
        """Bytes of all."""

    @contextmanager
    def body(self, payer: Payer, deadline: asyncio.Timeout) -> Iterator[Body]:
        """Count a body for the block, however that ends."""
        arriving = Body(payer, deadline)
        self._bodies[arriving] = None
        self._shares.setdefault(payer, _Share()).bodies[arriving] = None
        try:
            yield arriving
        finally:
            self._release(arriving)

    def grow(self, body: Body, by: int) -> None:
        """More of it has come.

        Raises:
            TooFast: this user has too many bodies under way.
            Busy: it was the first that had to give way.
        """
        if not body.gave_way:
            share = self._shares[body.payer]
            body.size += by
            share.size += by
            self.size += by
            while share.size > self._most_of[body.payer.kind] and not body.gave_way:
                if body.payer.kind is Kind.USER:
                    raise TooFast("this user's request bodies that are under way are too large together", RETRY_AFTER_S)
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
    return Busy("more request bodies arrive at once than there is room for", RETRY_AFTER_S)
