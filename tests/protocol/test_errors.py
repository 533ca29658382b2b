"""Problems have stable codes and HTTP statuses; the range of a close code tells the client whether to reconnect."""

from http import HTTPStatus

import pytest

from playhead.protocol.errors import (
    CloseCode,
    FieldError,
    FrameError,
    InvalidMessage,
    LocalError,
    PeerError,
    PlayheadError,
    Problem,
)

RECONNECT = {CloseCode.RESTART, CloseCode.TOO_SLOW, CloseCode.RATE, CloseCode.TOKEN_EXPIRED, CloseCode.NO_HELLO}


@pytest.mark.parametrize("problem", Problem)
def test_problem_has_a_code_a_title_and_an_error_status(problem: Problem) -> None:
    assert problem.code == problem.name.lower()
    assert problem.value.title.strip() == problem.value.title != ""
    assert 400 <= HTTPStatus(problem.value.status) <= 599


def test_no_two_problems_are_equal() -> None:
    """Enum members with equal values would silently become aliases of each other."""
    assert len({problem.value for problem in Problem}) == len(Problem.__members__)


@pytest.mark.parametrize("code", CloseCode)
def test_range_of_a_close_code_tells_whether_to_reconnect(code: CloseCode) -> None:
    assert 4_000 <= code <= 4_999, "the range that RFC 6455, section 7.4.2 leaves to applications"
    assert (code % 1_000 < 500) == (code in RECONNECT)


@pytest.mark.parametrize("problem", [problem for problem in Problem if problem.value.status == 503])
def test_temporary_problem_asks_the_client_to_reconnect(problem: Problem) -> None:
    assert problem.value.close is CloseCode.RESTART


def test_error_of_a_peer_is_never_an_error_of_ours() -> None:
    assert issubclass(FrameError, PeerError)
    assert issubclass(InvalidMessage, PeerError)
    assert not issubclass(LocalError, PeerError)
    assert issubclass(LocalError, PlayheadError)


def test_frame_error_is_a_bad_frame_unless_it_names_another_problem() -> None:
    assert FrameError("not JSON").problem is Problem.BAD_FRAME
    assert FrameError("hello first", Problem.NO_HELLO).problem is Problem.NO_HELLO


def test_invalid_message_lists_its_fields_in_the_detail() -> None:
    """A field without a pointer is the message itself, which `/` stands for."""
    error = InvalidMessage((FieldError("/seq", "should be given"), FieldError("", "should be an object")), 7, "page")
    assert (error.problem, error.seq, error.session) == (Problem.INVALID, 7, "page")
    assert error.detail == str(error) == "/seq: should be given; /: should be an object"
