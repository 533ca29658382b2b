"""The identity of a caller and the scopes it has."""

from dataclasses import dataclass

from playhead.protocol.errors import FrameError, PeerError, Problem

PROGRESS_ANY = "progress:any"
"""The scope of services: act for any learner, write the catalogue, end sessions."""
ANALYTICS = "analytics"
"""The scope of instructors: read how often each second of a video was watched."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller with a verified token, or any caller where the service runs without tokens."""

    subject: str
    user_id: str | None
    """The caller's own learner id; None for callers that are not learners, such as services, which name the learner."""
    scopes: frozenset[str]
    expires_at: float | None = None
    """Seconds since 1970; None if the identity does not expire."""

    def has(self, scope: str) -> bool:
        return scope in self.scopes

    def require(self, scope: str) -> None:
        """Raise PeerError if the scope is missing."""
        if scope not in self.scopes:
            raise PeerError(Problem.FORBIDDEN, f"this request needs the scope {scope}")

    def act_for(self, user_id: str | None) -> str:
        """The learner to act for: `user_id`, or the caller's own id if it is None.

        Raises:
            PeerError: the caller may not act for this learner, or has no learner id and must name one.
        """
        if user_id is None:
            if self.user_id is None:
                raise FrameError("/userId: should be given, because the token names no learner")
            return self.user_id
        if user_id != self.user_id and PROGRESS_ANY not in self.scopes:
            raise PeerError(Problem.FORBIDDEN, "userId: the token is for another user")
        return user_id


ANYBODY = Identity("", None, frozenset((PROGRESS_ANY, ANALYTICS)))
"""The identity of all callers where the service runs without tokens, which it does on loopback addresses only."""
