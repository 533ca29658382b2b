"""REST errors as RFC 9457 problem details, with a stable `type` and a pointer to each invalid field."""

import json
import logging
import math
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from playhead.protocol.errors import FieldError, PeerError, Problem
from playhead.storage.store import Full, StoreUnavailable

logger = logging.getLogger(__name__)

TYPE_PREFIX = "urn:playhead:problem:"
PROBLEM = "playhead.problem"
"""The key in the ASGI scope for the Problem that the response reports."""
RETRY_AFTER_S = 2
MAX_NAME = 64
"""Characters of a parameter's name that an error repeats."""
NO_STORE = {"Cache-Control": "no-store"}
"""A header on every response with data of a learner, so that no cache stores it."""
_BY_STATUS = {404: Problem.NOT_FOUND, 405: Problem.METHOD, 413: Problem.TOO_LARGE}


class RestError(PeerError):
    """An error to respond with; `where` (body, path or query) says what its pointers refer to."""

    def __init__(self, problem: Problem, detail: str, fields: tuple[FieldError, ...] = (), where: str = "body") -> None:
        super().__init__(problem, detail, fields)
        self.where = where


class ProblemResponse(Response):
    """A problem response; it leaves its Problem in the ASGI scope, where it is counted."""

    problem: Problem

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[PROBLEM] = self.problem
        await super().__call__(scope, receive, send)


def bad_parameter(name: str, detail: str, where: str) -> RestError:
    """An error for an invalid value in the path or the query."""
    return bad_parameters({name: detail}, where)


def bad_parameters(details: Mapping[str, str], where: str) -> RestError:
    """An error for several invalid values, by their names, which may be anything that a client sends."""
    fields = tuple(FieldError(f"/{_escaped(name)}", detail) for name, detail in details.items())
    detail = "; ".join(f"{name[:MAX_NAME]}: {detail}" for name, detail in details.items())
    return RestError(Problem.INVALID, detail, fields, where)


def _escaped(name: str) -> str:
    """Escape a name for a JSON Pointer (RFC 6901, 3)."""
    return name[:MAX_NAME].replace("~", "~0").replace("/", "~1")


def response(
    problem: Problem,
    detail: str,
    fields: tuple[FieldError, ...] = (),
    where: str = "body",
    retry_after_s: float = RETRY_AFTER_S,
) -> Response:
    body: dict[str, Any] = {
        "type": f"{TYPE_PREFIX}{problem.code}",
        "title": problem.value.title,
        "status": problem.value.status,
        "detail": detail,
    }
    if fields:
        body["errors"] = [{"pointer": f.pointer, "detail": f.detail, "in": where} for f in fields]
    answer = ProblemResponse(json.dumps(body), problem.value.status, NO_STORE, media_type="application/problem+json")
    answer.problem = problem
    if problem.value.status in (429, 503):
        answer.headers["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
    if problem is Problem.MEDIA_TYPE:
        answer.headers["Accept-Encoding"] = "identity"  # RFC 9110, 15.5.16
    if problem.value.status == 401:
        answer.headers["WWW-Authenticate"] = 'Bearer realm="playhead"'  # RFC 6750, 3
    return answer


async def on_peer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, PeerError)  # noqa: S101 registered for this class only
    retry_after_s = getattr(error, "retry_after_s", RETRY_AFTER_S)
    return response(error.problem, str(error), error.fields, getattr(error, "where", "body"), retry_after_s)


async def on_unavailable(request: Request, error: Exception) -> Response:
    return response(Problem.UNAVAILABLE, "the store did not answer in time")


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Respond to Starlette's own errors: an unknown path or a wrong method."""
    assert isinstance(error, HTTPException)  # noqa: S101 registered for this class only
    problem = _BY_STATUS.get(error.status_code, Problem.INVALID)
    answer = response(problem, f"{request.method} {request.url.path[:200]}")
    for name, value in (error.headers or {}).items():
        answer.headers[name] = value
    return answer


async def on_crash(request: Request, error: Exception) -> Response:
    """Respond to a bug without disclosing anything about it."""
    return response(Problem.INTERNAL, "an internal error has occurred and was logged")


HANDLERS: dict[Any, Any] = {
    PeerError: on_peer_error,
    StoreUnavailable: on_unavailable,
    Full: on_unavailable,
    HTTPException: on_http_exception,
    Exception: on_crash,
}
