"""Every message of the wire, one model a verb: the one source of validation.

Fields are camelCase on the wire. Unknown fields are ignored, so that a newer player can talk to an older server.
`null` in an optional field means absent: it is what JSON makes of a NaN duration.
"""

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from playhead.protocol.errors import FieldError, FrameError, InvalidMessage, PeerError
from playhead.protocol.scalars import (
    MAX_PLAYED,
    PATTERNS,
    AgeMs,
    DeviceId,
    Id,
    InstantIn,
    InstantOut,
    Interval,
    Rev,
    Seconds,
    Seq,
    SessionId,
    SpanMs,
    Token,
    WholeSeconds,
)

PAGE = 500
"""Most records in one progress frame."""
MAX_DETAIL = 500
"""Most characters of the detail in an error message."""


class Message(BaseModel):
    """What all models share: strict, frozen, camelCase."""

    model_config = ConfigDict(
        strict=True, frozen=True, alias_generator=to_camel, validate_by_name=True, validate_by_alias=True
    )


class Hello(Message):
    """The first message: who speaks, and what this device knows already.

    `userId` may be left out where the token says it, and must be given where the service runs without tokens.
    """

    type: Literal["hello"] = "hello"
    device: DeviceId
    session: SessionId
    token: Token | None = Field(default=None, repr=False)
    user_id: Id | None = None
    since: Rev | None = None
    epoch: str | None = Field(default=None, max_length=64)


class Heartbeat(Message):
    """What was played since the session's last heartbeat. The documented REST body plus `type` and `seq` is one too.

    `durationFinal` (default true) is false while the duration may still change, as of a live broadcast, a growing
    playlist, or an advertisement in the same element. Such a duration is not stored, and completes nothing.
    """

    type: Literal["heartbeat"] = "heartbeat"
    seq: Seq
    video_id: Id
    position: Seconds | None = None
    played: list[Interval] | None = Field(default=None, max_length=MAX_PLAYED)
    duration: Seconds | None = None
    duration_final: bool | None = None
    age: AgeMs | None = None
    span: SpanMs | None = None
    seek: bool | None = None
    state: Literal["playing", "paused", "ended"] | None = None
    session: SessionId | None = None
    watched_duration: WholeSeconds | None = None
    last_watched: InstantIn | None = None


class Sync(Message):
    """Bring everything that changed after `since`."""

    type: Literal["sync"] = "sync"
    since: Rev


class Auth(Message):
    """A fresh token of the same subject, before the one in use expires."""

    type: Literal["auth"] = "auth"
    token: Token = Field(repr=False)


class Ping(Message):
    type: Literal["ping"] = "ping"


class _Named(Message):
    seq: Seq
    session: SessionId | None = None


ClientMessage = Hello | Heartbeat | Sync | Auth | Ping
"""Every message a client may send. Names, validation and dispatch follow from this union."""
CLIENT_MESSAGES: dict[str, type[ClientMessage]] = {
    model.model_fields["type"].default: model for model in get_args(ClientMessage)
}
"""The models of the union, by their `type` on the wire."""
_client: TypeAdapter[ClientMessage] = TypeAdapter(Annotated[ClientMessage, Field(discriminator="type")])
_heartbeat: Callable[..., Heartbeat] = Heartbeat.__pydantic_validator__.validate_python


class RecordView(Message):
    """A whole record as readers see it; a deleted one has only `videoId`, `deletedAt` and `rev`."""

    user_id: str | None = None
    video_id: str
    watched_duration: int | None = None
    last_watched: InstantOut | None = None
    played_duration: float | None = None
    position: float | None = None
    resume: float | None = None
    """Where a player should start, s."""
    duration: float | None = None
    completed: bool | None = None
    completed_at: InstantOut | None = None
    seen: list[tuple[int, int]] | None = None
    again: list[tuple[int, int]] | None = None
    deleted_at: InstantOut | None = None
    rev: int


class Rejection(Message):
    seq: int
    code: str
    detail: str


class Welcome(Message):
    """Intervals in s, `maxFrame` in bytes."""

    type: Literal["welcome"] = "welcome"
    server_time: InstantOut
    epoch: str
    rev: int
    heartbeat_interval: float
    flush_interval: float
    max_frame: int


class Progress(Message):
    """Records that changed elsewhere. With this frame the device has all of the user's changes up to `rev`."""

    type: Literal["progress"] = "progress"
    records: list[RecordView]
    rev: int


class Synced(Message):
    type: Literal["synced"] = "synced"
    rev: int


class Ack(Message):
    """Every heartbeat of `session` up to `seq` is stored, but for those rejected, which never will be."""

    type: Literal["ack"] = "ack"
    session: str
    seq: int
    rejected: list[Rejection] | None = None
    capped: list[int] | None = None


class Expiring(Message):
    """The token in use expires in `expiresIn` s: send `auth` with a fresh one, or be closed with 4005."""

    type: Literal["expiring"] = "expiring"
    expires_in: float


class Authorized(Message):
    """The fresh token is in use; `expiresIn` s, absent where it is not limited."""

    type: Literal["authorized"] = "authorized"
    expires_in: float | None = None


class Error(Message):
    type: Literal["error"] = "error"
    code: str
    title: str
    detail: str


class Goodbye(Message):
    """The server is about to close; come back after `retryAfter` s."""

    type: Literal["goodbye"] = "goodbye"
    code: str
    retry_after: float


class Pong(Message):
    type: Literal["pong"] = "pong"


ServerMessage = Welcome | Progress | Synced | Ack | Expiring | Authorized | Error | Goodbye | Pong
"""Every message the server may send."""
SERVER_MESSAGES: dict[str, type[ServerMessage]] = {
    model.model_fields["type"].default: model for model in get_args(ServerMessage)
}
"""The models of the union, by their `type` on the wire."""


def error_message(error: PeerError) -> Error:
    """The message that reports `error` to the client."""
    kind = error.problem
    return Error(code=kind.code, title=kind.value.title, detail=error.detail[:MAX_DETAIL])


def parse(tree: Any) -> ClientMessage:
    """Validate a decoded frame.

    Raises:
        FrameError: not an object, or of no known type.
        InvalidMessage: of a known type, but with bad fields.
    """
    try:
        if isinstance(tree, dict) and tree.get("type") == "heartbeat":
            return _heartbeat(tree, by_alias=True, by_name=False)  # nearly always: no need to look at the others
        return _client.validate_python(tree, by_alias=True, by_name=False)
    except ValidationError as error:
        if not isinstance(tree, dict):
            raise FrameError("a message is an object") from None
        kind = tree.get("type")
        if not isinstance(kind, str) or kind not in CLIENT_MESSAGES:
            raise FrameError(f"type should be one of {', '.join(CLIENT_MESSAGES)}") from None
        seq, session = _which(tree) if kind == "heartbeat" else (None, None)
        raise InvalidMessage(field_errors(error, skip=0 if kind == "heartbeat" else 1), seq, session) from None


def _which(tree: dict[Any, Any]) -> tuple[int | None, str | None]:
    """The seq and session of a heartbeat that has a bad field; no seq where either of the two is the bad one."""
    try:
        name = _Named.model_validate(tree, by_alias=True, by_name=False)
    except ValidationError:
        return None, None
    return name.seq, name.session


def field_errors(error: ValidationError, skip: int = 0) -> tuple[FieldError, ...]:
    """pydantic's findings as JSON pointers; `skip` leading steps are pydantic's own (a union's tag).

    What was sent is never repeated in a detail: it may be long, or not meant for a log.
    """
    found = error.errors(include_url=False, include_input=False)
    return tuple(FieldError(_pointer(item["loc"][skip:]), _words(item)) for item in found[:20])


def _pointer(steps: Iterable[int | str]) -> str:
    """RFC 6901. A key that the peer made up is cut short."""
    return "".join(f"/{str(step)[:64].replace('~', '~0').replace('/', '~1')}" for step in steps)


def _words(item: ErrorDetails) -> str:
    pattern = str(item.get("ctx", {}).get("pattern"))
    return PATTERNS.get(pattern) or item["msg"].removeprefix("Value error, ").replace("Input should", "should")
