"""Every WebSocket message, as one pydantic model each. Validation, names and dispatch follow from these models.

To add a message of the client, add its model to `ClientMessage` and a case to `Connection._dispatch`; mypy reports
a missing case.

Fields are camelCase on the wire. Unknown fields are ignored, so that a newer player can talk to an older server.
`null` in an optional field means that it is absent, because JSON encodes a NaN duration as null.
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
    """Base class of all models: strict, frozen, camelCase on the wire."""

    model_config = ConfigDict(
        strict=True, frozen=True, alias_generator=to_camel, validate_by_name=True, validate_by_alias=True
    )


class Hello(Message):
    """The first message: which learner and device this is, and which changes the device has already.

    `userId` is optional where the token contains it, and required where the service runs without tokens.
    """

    type: Literal["hello"] = "hello"
    device: DeviceId
    session: SessionId
    token: Token | None = Field(default=None, repr=False)
    user_id: Id | None = None
    since: Rev | None = None
    epoch: str | None = Field(default=None, max_length=64)


class Heartbeat(Message):
    """What was played since the session's last heartbeat. The documented REST body plus `type` and `seq` is one.

    `durationFinal` (default true) is false while the duration may still change, as for a live broadcast, a growing
    playlist, or an advertisement in the same element. Such a duration is not stored and completes no record.
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
    """A request for every change after `since`."""

    type: Literal["sync"] = "sync"
    since: Rev


class Auth(Message):
    """A new token for the same subject, sent before the current one expires."""

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
    """A record as readers see it. A deleted one has only `videoId`, `deletedAt` and `rev`."""

    user_id: str | None = None
    video_id: str
    watched_duration: int | None = None
    last_watched: InstantOut | None = None
    played_duration: float | None = None
    position: float | None = None
    resume: float | None = None
    """Where a player should start, in seconds."""
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
    """The answer to hello. Intervals are in seconds, `maxFrame` in bytes."""

    type: Literal["welcome"] = "welcome"
    server_time: InstantOut
    epoch: str
    rev: int
    heartbeat_interval: float
    flush_interval: float
    max_frame: int


class Progress(Message):
    """Records that changed elsewhere. After this message the device has all of the user's changes up to `rev`."""

    type: Literal["progress"] = "progress"
    records: list[RecordView]
    rev: int


class Synced(Message):
    type: Literal["synced"] = "synced"
    rev: int


class Ack(Message):
    """Every heartbeat of `session` up to `seq` is stored, except those in `rejected`, which never will be."""

    type: Literal["ack"] = "ack"
    session: str
    seq: int
    rejected: list[Rejection] | None = None
    capped: list[int] | None = None


class Expiring(Message):
    """The token expires in `expiresIn` seconds; without an `auth` with a new one the connection closes with 4005."""

    type: Literal["expiring"] = "expiring"
    expires_in: float


class Authorized(Message):
    """The new token is in use and expires in `expiresIn` seconds; absent where it does not expire."""

    type: Literal["authorized"] = "authorized"
    expires_in: float | None = None


class Error(Message):
    type: Literal["error"] = "error"
    code: str
    title: str
    detail: str


class Goodbye(Message):
    """The server is about to close the connection; reconnect after `retryAfter` seconds."""

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
        FrameError: not an object, or an unknown type.
        InvalidMessage: a known type with invalid fields.
    """
    try:
        if isinstance(tree, dict) and tree.get("type") == "heartbeat":
            return _heartbeat(tree, by_alias=True, by_name=False)  # the most frequent type skips the union
        return _client.validate_python(tree, by_alias=True, by_name=False)
    except ValidationError as error:
        if not isinstance(tree, dict):
            raise FrameError("a message must be an object") from None
        kind = tree.get("type")
        if not isinstance(kind, str) or kind not in CLIENT_MESSAGES:
            raise FrameError(f"type should be one of {', '.join(CLIENT_MESSAGES)}") from None
        seq, session = _which(tree) if kind == "heartbeat" else (None, None)
        raise InvalidMessage(field_errors(error, skip=0 if kind == "heartbeat" else 1), seq, session) from None


def _which(tree: dict[Any, Any]) -> tuple[int | None, str | None]:
    """The seq and session of a heartbeat with an invalid field; no seq where one of these two is invalid."""
    try:
        name = _Named.model_validate(tree, by_alias=True, by_name=False)
    except ValidationError:
        return None, None
    return name.seq, name.session


def field_errors(error: ValidationError, skip: int = 0) -> tuple[FieldError, ...]:
    """Convert pydantic's errors to JSON pointers and details.

    The value itself is never part of a detail: it may be long, or secret.

    Args:
        skip: how many leading steps are pydantic's own (the tag of a union).
    """
    found = error.errors(include_url=False, include_input=False)
    return tuple(FieldError(_pointer(item["loc"][skip:]), _words(item)) for item in found[:20])


def _pointer(steps: Iterable[int | str]) -> str:
    """Format a JSON pointer (RFC 6901); keys that the peer has chosen are cut to 64 characters."""
    return "".join(f"/{str(step)[:64].replace('~', '~0').replace('/', '~1')}" for step in steps)


def _words(item: ErrorDetails) -> str:
    pattern = str(item.get("ctx", {}).get("pattern"))
    return PATTERNS.get(pattern) or item["msg"].removeprefix("Value error, ").replace("Input should", "should")
