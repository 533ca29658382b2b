"""One taxonomy: what can go wrong between a peer and us, with the HTTP status and the close code of each.

    PlayheadError
    ├── LocalError          we misused an object: a bug of ours, never a peer's doing
    └── PeerError           carries a Problem; its detail may be shown to the peer
        ├── FrameError      can't be read at all, or not at this point of the conversation: the connection ends
        └── InvalidMessage  could be read, fields are bad: that message is refused, the connection stands

Close codes carry the client's policy by range: x000-x499 come back, x500-x999 do not.
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
    """A kind of error. `name.lower()` is its stable code, on the wire as `code` and inside REST's `type`."""

    INVALID = _Kind("A field is not valid", 422)
    NOT_JSON = _Kind("The body is not JSON", 400)
    MEDIA_TYPE = _Kind("The content type is not supported", 415)
    TOO_LARGE = _Kind("The request is too large", 413)
    TIMEOUT = _Kind("The request took too long to arrive", 408)
    NOT_FOUND = _Kind("Not found", 404)
    METHOD = _Kind("The method is not allowed here", 405)
    UPGRADE_REQUIRED = _Kind("A WebSocket handshake is needed here", 426)
    DELETED = _Kind("The progress was deleted after this happened", 409)
    TOO_MANY_VIDEOS = _Kind("The learner has records of max_videos_per_user videos already, deleted ones included", 409)
    UNAUTHORIZED = _Kind("A valid token is needed", 401, CloseCode.UNAUTHORIZED)
    TOKEN_EXPIRED = _Kind("The token has expired", 401, CloseCode.TOKEN_EXPIRED)
    FORBIDDEN = _Kind("The token does not permit this", 403, CloseCode.FORBIDDEN)
    ORIGIN = _Kind("Pages of this origin are not allowed here", 403, CloseCode.FORBIDDEN)
    ENDED = _Kind("All sessions of this user were ended", 403, CloseCode.UNAUTHORIZED)
    RATE = _Kind("Too much at once", 429, CloseCode.RATE)
    BUSY = _Kind("Too many come at once; come back as told", 503, CloseCode.RESTART)
    KEYS = _Kind("Tokens can't be verified now; try again", 503, CloseCode.RESTART)
    HEADERS_TOO_LARGE = _Kind("The request's head is too large", 431)
    NOT_HTTP = _Kind("The request can't be read", 400)
    RESTARTING = _Kind("The service restarts; come back as told", 503, CloseCode.RESTART)
    UNAVAILABLE = _Kind("The store can't be reached; nothing was lost, try again", 503, CloseCode.RESTART)
    DAMAGED = _Kind("The stored progress can't be read until an operator has repaired it", 500)
    INTERNAL = _Kind("Internal error", 500, CloseCode.RESTART)
    BAD_FRAME = _Kind("The frame can't be read", 400, CloseCode.BAD_FRAME)
    NO_HELLO = _Kind("The first message must be hello", 400, CloseCode.NO_HELLO)
    TOO_MANY_BAD = _Kind("Too many bad heartbeats", 429, CloseCode.RATE)
    TOO_MANY_SESSIONS = _Kind("Too many sessions wait for their ack on one connection", 429, CloseCode.RATE)

    @property
    def code(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class FieldError:
    """One bad field: a JSON pointer (RFC 6901) into what was sent, and what is wrong there."""

    pointer: str
    detail: str


class PlayheadError(Exception):
    """Root of all that we raise on purpose."""


class LocalError(PlayheadError):
    """An object was used against its rules."""


class PeerError(PlayheadError):
    """The peer did something wrong. The text is safe to send back."""

    def __init__(self, problem: Problem, detail: str, fields: tuple[FieldError, ...] = ()) -> None:
        super().__init__(detail)
        self.problem = problem
        self.detail = detail
        self.fields = fields


class FrameError(PeerError):
    """A frame that can't be read, or a message that has no place here. The connection closes."""

    def __init__(self, detail: str, problem: Problem = Problem.BAD_FRAME) -> None:
        super().__init__(problem, detail)


class InvalidMessage(PeerError):
    """Bad fields in a message that could be read. `seq` and `session` tell which heartbeat, where one can tell."""

    def __init__(self, fields: tuple[FieldError, ...], seq: int | None = None, session: str | None = None) -> None:
        super().__init__(Problem.INVALID, "; ".join(f"{f.pointer or '/'}: {f.detail}" for f in fields), fields)
        self.seq = seq
        self.session = session
