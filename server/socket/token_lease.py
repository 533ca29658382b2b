"""How long a connection may last: as long as its token, and it is told some time before."""

import asyncio
from collections.abc import Callable

from playhead.protocol.errors import PeerError, Problem
from playhead.protocol.messages import Authorized, Expiring, Message
from playhead.server.clock import Clock
from playhead.server.security.identity import Identity

LONGEST_S = 86_400.0
"""A timer runs at most so long, then looks again: a token may be valid for years."""


class Lease:
    """The timers of one connection's token.

    Args:
        notice_s: how long before the end the peer is told; half of what is left where that is less.
        tell: sends a message.
        end: says what is wrong, and closes.
    """

    __slots__ = ("_clock", "_end", "_notice_s", "_tell", "_timer", "identity")

    def __init__(
        self,
        identity: Identity,
        clock: Clock,
        notice_s: float,
        tell: Callable[[Message], None],
        end: Callable[[PeerError], None],
    ) -> None:
        self.identity = identity
        self._clock = clock
        self._tell = tell
        self._end = end
        self._notice_s = notice_s
        self._timer: asyncio.TimerHandle | None = None
        self._start()

    def renew(self, identity: Identity) -> None:
        """Go on with a fresh token.

        Raises:
            PeerError: it is of another subject.
        """
        if identity.subject != self.identity.subject:
            raise PeerError(Problem.FORBIDDEN, "the new token has a different subject")
        self.cancel()
        self.identity = identity
        self._start()
        self._tell(Authorized(expires_in=self._left() if identity.expires_at is not None else None))

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _left(self) -> float:
        assert self.identity.expires_at is not None  # noqa: S101 asked only where there is an end
        return round(max(0.0, self.identity.expires_at - self._clock().wall / 1_000), 3)

    def _start(self) -> None:
        if self.identity.expires_at is not None:
            left = self._left()
            self._after(left - min(self._notice_s, left / 2), self._notify)

    def _after(self, delay_s: float, then: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        if delay_s > LONGEST_S:
            self._timer = loop.call_later(LONGEST_S, self._start)
        else:
            self._timer = loop.call_later(delay_s, then)

    def _notify(self) -> None:
        left = self._left()
        self._tell(Expiring(expires_in=left))
        self._after(left, self._expire)

    def _expire(self) -> None:
        self._timer = None
        self._end(PeerError(Problem.TOKEN_EXPIRED, "the token has expired"))
