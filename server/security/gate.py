"""The outermost middleware: refuses foreign origins and tokens in the URL before anything else is done."""

from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from playhead.protocol.errors import Problem
from playhead.server.origin import LOOPBACK_NAMES, Origins
from playhead.server.problems import response
from playhead.server.security.access import HOW_TO_SEND, has_token_in_url
from playhead.server.settings import Settings
from playhead.server.transport.refusals import Refusals

CORS_MAX_AGE_S = 600


class Gate:
    """ASGI middleware that refuses requests by their origin or URL.

    A WebSocket from a foreign origin is refused before it is accepted. One with a token in its URL is accepted, so that
    the endpoint can send an error that explains the problem.
    """

    def __init__(self, app: ASGIApp, settings: Settings, refusals: Refusals) -> None:
        self._app = app
        self._refusals = refusals
        own_names = None if settings.auth else (*LOOPBACK_NAMES, settings.host.lower())
        self._origins = Origins(settings.allowed_origins, own_names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif (objection := self._origins.objection(scope)) is not None:
            self._refusals.add(objection.reason, "Refused %s", objection.sentence)
            detail = "the origin should be in the setting allowed_origins, and the Host one of the service's own names"
            await _refuse(Problem.ORIGIN, detail, scope, receive, send)
        elif scope["type"] == "http" and has_token_in_url(scope["query_string"]):
            self._refusals.add("token_in_url", "Refused a request with a token in its URL: %s", HOW_TO_SEND)
            await _refuse(Problem.UNAUTHORIZED, f"the URL must not hold a token: {HOW_TO_SEND}", scope, receive, send)
        else:
            await self._app(scope, receive, send)


def cors(settings: Settings) -> dict[str, Any]:
    """The arguments for Starlette's CORSMiddleware: the same list of origins, and no cookies."""
    return {
        "allow_origins": settings.allowed_origins,
        "allow_methods": ["GET", "POST", "PUT", "DELETE"],
        "allow_headers": ["Authorization", "Content-Type"],
        "expose_headers": ["Retry-After"],
        "max_age": CORS_MAX_AGE_S,
    }


async def _refuse(problem: Problem, detail: str, scope: Scope, receive: Receive, send: Send) -> None:
    answer = response(problem, detail)
    if scope["type"] == "websocket":
        await receive()  # websocket.connect
    await answer(scope, receive, send)
