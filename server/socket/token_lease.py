"""The lease of a connection: it lasts as long as its token is valid, and the client is notified before the end."""

import asyncio
from collections.abc import Callable

from playhead.protocol.errors import PeerError, Problem
from playhead.protocol.messages import Authorized, Expiring, Message
from playhead.server.clock import Clock
from playhead.server.security.identity import Identity

LONGEST_S = 86_400.0
"""Longest delay of one timer, which is then started again: a token may be valid for years."""


class Lease:
    """The timers of one connection's token.

    Args:
        notice_s: how long before the end the client is notified; at most half of the remaining time.
        send: sends a message.
        end: reports an error and closes the connection.
    """

    __slots__ = ("_clock", "_end", "_notice_s", "_send", "_timer", "identity")

    def __init__(
        self,
        identity: Identity,
        clock: Clock,
        notice_s: float,
        send: Callable[[Message], None],
        end: Callable[[PeerError], None],
    ) -> None:
        self.identity = identity
        self._clock = clock
        self._send = send
        self._end = end
        self._notice_s = notice_s
        self._timer: asyncio.TimerHandle | None = None
        self._start()

    def renew(self, identity: Identity) -> None:
        """Continue with a new token.

        Raises:
            PeerError: the token has a different subject.
        """
        if identity.subject != self.identity.subject:
            raise PeerError(Problem.FORBIDDEN, "the new token has a different subject")
        self.cancel()
        self.identity = identity
        self._start()
        self._send(Authorized(expires_in=self._left() if identity.expires_at is not None else None))

    def cancel(self) -> None:
        """Stop the timers."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _left(self) -> float:
        assert self.identity.expires_at is not None  # noqa: S101 called only for tokens that expire
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
        self._send(Expiring(expires_in=left))
        self._after(left, self._expire)

    def _expire(self) -> None:
        self._timer = None
        self._end(PeerError(Problem.TOKEN_EXPIRED, "the token has expired"))
