"""The errors of the client.

PlayheadError (protocol.errors)
└── ClientError
    ├── Terminal          the server refuses this client; nothing more is sent
    │   ├── Unauthorized      the token is not valid, or the user's sessions were ended (4500, 401)
    │   ├── TokenExpired      the token has expired and there is no fresh one (4005, 401)
    │   ├── Forbidden         the token does not permit this (4503, 403)
    │   └── Refused           any other close code x500-x999: another version, or a bug
    ├── Rejected          one report will never be stored
    ├── OutboxFull        too many reports are waiting: this one was not taken
    ├── OutboxBusy        the file belongs to another process, or to another user
    ├── NotStored         closed while reports were waiting that no file keeps
    └── RestError         the answer to a REST call was a problem (RFC 9457)
        └── NotFound, Invalid, Denied, Deleted, TooManyVideos, TooFast, Unavailable
"""

from playhead.protocol.errors import CloseCode, FieldError, PlayheadError, Problem


class ClientError(PlayheadError):
    """Base class of the client's errors."""


class Terminal(ClientError):
    """The client cannot go on: reconnecting is pointless.

    Attributes:
        code: the WebSocket's close code, or the HTTP status.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class Unauthorized(Terminal):
    """The token is not valid, or an operator has ended the user's sessions."""


class TokenExpired(Terminal):
    """The token has expired and there is no fresh one."""


class Forbidden(Terminal):
    """The token does not permit this."""


class Refused(Terminal):
    """The server does not understand this client."""


class Rejected(ClientError):
    """One report will never be stored.

    Attributes:
        code: the problem's stable code: `invalid`, `deleted`, `too_many_videos` or `damaged`.
    """

    def __init__(self, code: str, detail: str, video_id: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.video_id = video_id


class OutboxFull(ClientError):
    """The maximum of reports is waiting, and this one cannot be merged into any of them."""


class OutboxBusy(ClientError):
    """The outbox file is in use by another client, or holds the reports of another user."""


class NotStored(ClientError):
    """`count` reports were waiting when the client was closed; without an `outbox_path` they are lost."""

    def __init__(self, count: int) -> None:
        super().__init__(f"{count} reports were not stored when the client was closed")
        self.count = count


class RestError(ClientError):
    """The answer to a REST call was a problem, or not one of Playhead's.

    Attributes:
        status: HTTP status.
        code: the problem's stable code, such as `not_found`; `""` if the answer was not Playhead's.
        fields: for 422, a JSON pointer to each bad field.
        retry_after_s: when to try again; 0 if the server does not say.
    """

    def __init__(
        self, status: int, code: str, detail: str, fields: tuple[FieldError, ...] = (), retry_after_s: float = 0.0
    ) -> None:
        super().__init__(f"{status} {code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail
        self.fields = fields
        self.retry_after_s = retry_after_s


class NotFound(RestError):
    """There is no such progress or video."""


class Invalid(RestError):
    """A field, the body or its size is not acceptable."""


class Denied(RestError):
    """The token is missing or not valid (401), or does not permit this (403)."""


class Deleted(RestError):
    """The progress was deleted later than the update happened."""


class TooManyVideos(RestError):
    """The user has records of the maximum number of videos. Nothing of a sync is stored."""


class TooFast(RestError):
    """Too many requests; try again after `retry_after_s`."""


class Unavailable(RestError):
    """The service or its store is unavailable; try again after `retry_after_s`."""


_BY_STATUS: dict[int, type[RestError]] = {
    400: Invalid,
    401: Denied,
    403: Denied,
    404: NotFound,
    408: Unavailable,
    409: Deleted,
    413: Invalid,
    415: Invalid,
    422: Invalid,
    429: TooFast,
    500: Unavailable,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}
_BY_CLOSE: dict[int, type[Terminal]] = {
    CloseCode.UNAUTHORIZED: Unauthorized,
    CloseCode.TOKEN_EXPIRED: TokenExpired,
    CloseCode.FORBIDDEN: Forbidden,
}


def rest_error(
    status: int, code: str, detail: str, fields: tuple[FieldError, ...] = (), retry_after_s: float = 0.0
) -> RestError:
    """The error for an answer."""
    if code == Problem.TOO_MANY_VIDEOS.code:
        return TooManyVideos(status, code, detail, fields, retry_after_s)
    return _BY_STATUS.get(status, RestError)(status, code, detail, fields, retry_after_s)


def terminal_close(code: int, reason: str) -> Terminal:
    """The error for a terminal close code."""
    return _BY_CLOSE.get(code, Refused)(code, reason)


def is_terminal(code: int) -> bool:
    """Whether a close code means not to reconnect: x500-x999 of the application's ranges 3000-4999."""
    return code >= 3_000 and code % 1_000 >= 500


def terminal_answer(error: RestError) -> Terminal | None:
    """The error for the answer to a POST of heartbeats, if sending them again is pointless."""
    if error.code == Problem.TOKEN_EXPIRED.code:
        return TokenExpired(error.status, error.detail)
    kind = {401: Unauthorized, 403: Forbidden, 400: Refused, 413: Refused, 415: Refused, 422: Refused}.get(error.status)
    return kind(error.status, error.detail) if kind is not None and error.code else None
