"""Problem details: what an error response says, and what it does not disclose."""

import json

import pytest
from starlette.requests import Request

from playhead.protocol.errors import Problem
from playhead.server.limits.rates import TooFast
from playhead.server.problems import MAX_NAME, bad_parameters, on_crash, on_peer_error, response

REQUEST = Request({"type": "http", "method": "GET", "path": "/", "headers": []})


@pytest.mark.parametrize(("wait_s", "header"), [(0.0, "1"), (0.2, "1"), (2.1, "3"), (60.0, "60")])
async def test_retry_after_is_rounded_up_to_whole_seconds(wait_s: float, header: str) -> None:
    answer = await on_peer_error(REQUEST, TooFast("more than 20 requests a second", wait_s))
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, header)


def test_only_errors_that_pass_have_a_retry_after() -> None:
    assert "Retry-After" not in response(Problem.NOT_FOUND, "x").headers
    assert response(Problem.UNAVAILABLE, "x").headers["Retry-After"] == "2"
    assert response(Problem.UNAUTHORIZED, "x").headers["WWW-Authenticate"].startswith("Bearer")


async def test_a_bug_discloses_nothing() -> None:
    answer = await on_crash(REQUEST, ValueError("redis://user:s3cret@host"))
    assert answer.status_code == 500
    assert b"s3cret" not in bytes(answer.body)
    assert json.loads(bytes(answer.body))["type"] == "urn:playhead:problem:internal"


def test_names_of_parameters_are_escaped_and_cut() -> None:
    """As JSON Pointers (RFC 6901, 3); a client chooses the names, so they are cut."""
    refused = bad_parameters({"a/b~c": "unknown parameter", "x" * 500: "unknown parameter"}, "query")
    assert [field.pointer for field in refused.fields] == ["/a~1b~0c", "/" + "x" * MAX_NAME]
    assert len(str(refused)) < 200
