"""Every error between a peer and this service, with its HTTP status and close code.

    PlayheadError
    ├── LocalError          an object was misused: a bug in this code, never caused by a peer
    └── PeerError           carries a Problem; its detail may be shown to the peer
        ├── FrameError      the frame cannot be read, or is not allowed in this state: the connection closes
        └── InvalidMessage  the message has invalid fields: it is rejected, and the connection stays open

The range of a close code tells the client what to do: reconnect after x000-x499, do not reconnect after x500-x999.
"""

from dataclasses import dataclass
from enum import Enum, IntEnum


class CloseCode(IntEnum):
    """Why the server closes a WebSocket."""

    RESTART = 4001
    TOO_SLOW = 4002
    RATE = 4003
    TOKEN_EXPIRED = 4005
    NO_HELLO = 4008
    UNAUTHORIZED = 4500
    BAD_FRAME = 4501
    VERSION = 4502
    FORBIDDEN = 4503


@dataclass(frozen=True, slots=True)
class _Kind:
    title: str
    status: int
    close: CloseCode | None = None


class Problem(Enum):
    """A kind of error. `name.lower()` is its stable code: `code` in WebSocket messages, part of `type` in REST."""

    INVALID = _Kind("A field is not valid", 422)
    NOT_JSON = _Kind("The body is not JSON", 400)
    MEDIA_TYPE = _Kind("The content type is not supported", 415)
    TOO_LARGE = _Kind("The request is too large", 413)
    TIMEOUT = _Kind("The request took too long to arrive", 408)
    NOT_FOUND = _Kind("Not found", 404)
    METHOD = _Kind("The method is not allowed for this resource", 405)
    UPGRADE_REQUIRED = _Kind("A WebSocket handshake is required", 426)
    DELETED = _Kind("The progress was deleted after this happened", 409)
    TOO_MANY_VIDEOS = _Kind("The learner has records of max_videos_per_user videos already, deleted ones included", 409)
    UNAUTHORIZED = _Kind("A valid token is required", 401, CloseCode.UNAUTHORIZED)
    TOKEN_EXPIRED = _Kind("The token has expired", 401, CloseCode.TOKEN_EXPIRED)
    FORBIDDEN = _Kind("The token does not permit this", 403, CloseCode.FORBIDDEN)
    ORIGIN = _Kind("This origin is not allowed", 403, CloseCode.FORBIDDEN)
    ENDED = _Kind("All sessions of this user were ended", 403, CloseCode.UNAUTHORIZED)
    RATE = _Kind("The rate limit is exceeded", 429, CloseCode.RATE)
    BUSY = _Kind("The service is busy; retry after the given delay", 503, CloseCode.RESTART)
    KEYS = _Kind("Tokens cannot be verified at the moment; try again later", 503, CloseCode.RESTART)
    HEADERS_TOO_LARGE = _Kind("The request headers are too large", 431)
    NOT_HTTP = _Kind("The request is not valid HTTP", 400)
    RESTARTING = _Kind("The service is restarting; reconnect after the given delay", 503, CloseCode.RESTART)
    UNAVAILABLE = _Kind("The store cannot be reached; nothing was lost, try again later", 503, CloseCode.RESTART)
    DAMAGED = _Kind("The stored progress is damaged; it cannot be read until an operator repairs it", 500)
    INTERNAL = _Kind("Internal error", 500, CloseCode.RESTART)
    BAD_FRAME = _Kind("The frame cannot be read", 400, CloseCode.BAD_FRAME)
    NO_HELLO = _Kind("The first message must be hello", 400, CloseCode.NO_HELLO)
    TOO_MANY_BAD = _Kind("Too many invalid heartbeats", 429, CloseCode.RATE)
    TOO_MANY_SESSIONS = _Kind("Too many sessions are waiting for an ack on one connection", 429, CloseCode.RATE)

    @property
    def code(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class FieldError:
    """One invalid field: a JSON pointer (RFC 6901) into the message, and what is wrong with the value."""

    pointer: str
    detail: str


class PlayheadError(Exception):
    """Base class of all errors that this project raises."""


class LocalError(PlayheadError):
    """An object was used in a way that its state does not allow."""


class PeerError(PlayheadError):
    """The peer made a mistake or must be refused. The detail is safe to send back."""

    def __init__(self, problem: Problem, detail: str, fields: tuple[FieldError, ...] = ()) -> None:
        super().__init__(detail)
        self.problem = problem
        self.detail = detail
        self.fields = fields


class FrameError(PeerError):
    """A frame that cannot be read, or a message that is not allowed in this state. The connection closes."""

    def __init__(self, detail: str, problem: Problem = Problem.BAD_FRAME) -> None:
        super().__init__(problem, detail)


class InvalidMessage(PeerError):
    """A message with invalid fields. `seq` and `session` identify a heartbeat, where those two are valid."""

    def __init__(self, fields: tuple[FieldError, ...], seq: int | None = None, session: str | None = None) -> None:
        super().__init__(Problem.INVALID, "; ".join(f"{f.pointer or '/'}: {f.detail}" for f in fields), fields)
        self.seq = seq
        self.session = session
