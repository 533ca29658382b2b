"""The client's errors: which answer or close code becomes which error, and which of them end the client."""

import pytest

from playhead.client.errors import (
    Deleted,
    Denied,
    Forbidden,
    Invalid,
    NotFound,
    Refused,
    RestError,
    Terminal,
    TokenExpired,
    TooFast,
    TooManyVideos,
    Unauthorized,
    Unavailable,
    is_terminal,
    rest_error,
    terminal_answer,
    terminal_close,
)
from playhead.protocol.errors import CloseCode, FieldError, Problem


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "not_json", Invalid),
        (401, "unauthorized", Denied),
        (403, "forbidden", Denied),
        (404, "not_found", NotFound),
        (409, "deleted", Deleted),
        (409, "too_many_videos", TooManyVideos),
        (413, "too_large", Invalid),
        (422, "invalid", Invalid),
        (429, "rate", TooFast),
        (500, "internal", Unavailable),
        (502, "", Unavailable),
        (503, "busy", Unavailable),
        (418, "", RestError),
        (302, "", RestError),
    ],
)
def test_each_answer_has_an_error(status: int, code: str, kind: type[RestError]) -> None:
    error = rest_error(status, code, "why", (FieldError("/seq", "should be given"),), 2.5)
    assert type(error) is kind
    assert (error.status, error.code, error.detail, error.retry_after_s) == (status, code, "why", 2.5)
    assert error.fields == (FieldError("/seq", "should be given"),)
    assert str(error) == f"{status} {code}: why"


@pytest.mark.parametrize("problem", Problem)
def test_every_problem_of_the_service_has_an_error_of_its_own(problem: Problem) -> None:
    """So that a caller need not look at the status; an unknown path or method is the client's own bug."""
    kind = type(rest_error(problem.value.status, problem.code, ""))
    if problem in (Problem.METHOD, Problem.UPGRADE_REQUIRED, Problem.HEADERS_TOO_LARGE):
        assert kind is RestError
    else:
        assert issubclass(kind, RestError)
        assert kind is not RestError


@pytest.mark.parametrize("code", CloseCode)
def test_close_codes_say_whether_to_reconnect(code: CloseCode) -> None:
    assert is_terminal(code) == (code.name in ("UNAUTHORIZED", "BAD_FRAME", "VERSION", "FORBIDDEN"))


@pytest.mark.parametrize(
    ("code", "terminal"), [(1000, False), (1006, False), (1011, False), (2999, False), (3600, True)]
)
def test_codes_of_the_protocol_itself_are_not_terminal(code: int, terminal: bool) -> None:
    assert is_terminal(code) is terminal


@pytest.mark.parametrize(
    ("code", "kind"),
    [(4500, Unauthorized), (4005, TokenExpired), (4503, Forbidden), (4501, Refused), (4502, Refused), (4999, Refused)],
)
def test_each_terminal_code_has_an_error(code: int, kind: type[Terminal]) -> None:
    error = terminal_close(code, "why")
    assert type(error) is kind
    assert (error.code, str(error)) == (code, f"{code}: why")


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "unauthorized", Unauthorized),
        (401, "token_expired", TokenExpired),
        (403, "forbidden", Forbidden),
        (422, "invalid", Refused),
        (413, "too_large", Refused),
        (429, "rate", None),
        (503, "busy", None),
        (403, "", None),
        (401, "", None),
    ],
)
def test_an_answer_of_the_service_ends_the_client_and_one_of_a_proxy_does_not(
    status: int, code: str, kind: type[Terminal] | None
) -> None:
    """An answer without a code is not Playhead's: a proxy in between may answer for a while."""
    error = terminal_answer(rest_error(status, code, "why"))
    assert type(error) is kind if kind is not None else error is None
