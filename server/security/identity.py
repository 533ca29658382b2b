"""Who is asking, and what they may do."""

from dataclasses import dataclass

from playhead.protocol.errors import FrameError, PeerError, Problem

PROGRESS_ANY = "progress:any"
"""Scope of services: act for any learner, write the catalogue, end sessions."""
ANALYTICS = "analytics"
"""Scope of instructors: who watched which second."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller whose token was verified; or anybody, where the service runs without tokens."""

    subject: str
    user_id: str | None
    """The learner that this is; None for who is none, as a service: it names the learner itself."""
    scopes: frozenset[str]
    expires_at: float | None = None
    """s since 1970; None: never."""

    def has(self, scope: str) -> bool:
        return scope in self.scopes

    def require(self, scope: str) -> None:
        """Raises PeerError where the scope is missing."""
        if scope not in self.scopes:
            raise PeerError(Problem.FORBIDDEN, f"this needs the scope {scope}")

    def act_for(self, user_id: str | None) -> str:
        """The learner to act for, where the caller names `user_id`, or none and means itself.

        Raises:
            PeerError: another learner than the caller may speak for, or none where one must be named.
        """
        if user_id is None:
            if self.user_id is None:
                raise FrameError("/userId: should be given, as no token names a learner")
            return self.user_id
        if user_id != self.user_id and PROGRESS_ANY not in self.scopes:
            raise PeerError(Problem.FORBIDDEN, "userId: the token speaks for another user")
        return user_id


ANYBODY = Identity("", None, frozenset((PROGRESS_ANY, ANALYTICS)))
"""Everybody on this machine, where no token is asked for."""
