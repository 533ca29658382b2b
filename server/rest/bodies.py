"""Reads and validates request bodies, bounded in size and time. A JSON object with a duplicate key is refused."""

import asyncio
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from playhead.protocol.codecs import read_json
from playhead.protocol.errors import FrameError, Problem
from playhead.protocol.messages import Message, field_errors
from playhead.server.limits.body_memory import Body, BodyMemory, Payer, gave_way
from playhead.server.problems import NO_STORE, RestError

M = TypeVar("M", bound=Message)


class BodyReader:
    """Reads request bodies.

    Args:
        max_bytes: the largest body.
        timeout_s: how long a body may take to arrive.
        arriving: the memory that all bodies share.
    """

    def __init__(self, max_bytes: int, timeout_s: float, arriving: BodyMemory) -> None:
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._arriving = arriving

    async def tree(self, request: Request, payer: Payer, *media_types: str, max_bytes: int | None = None) -> Any:
        """The body as a JSON tree.

        Args:
            payer: whose share of the memory the body uses.
            media_types: those accepted.
            max_bytes: a limit below the general one.

        Raises:
            RestError: the body has another media type, is compressed, too large, too slow or not JSON.
            TooFast, Busy: the bodies of this payer, or all bodies, use too much memory.
        """
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type not in media_types:
            raise RestError(Problem.MEDIA_TYPE, f"the Content-Type should be {' or '.join(media_types)}")
        codings = {
            coding.strip().lower() for coding in ",".join(request.headers.getlist("content-encoding")).split(",")
        }
        if codings - {"", "identity"}:
            raise RestError(Problem.MEDIA_TYPE, "Content-Encoding is not supported: send the body uncompressed")
        try:
            return read_json(await self._read(request, payer, min(self._max_bytes, max_bytes or self._max_bytes)))
        except FrameError as error:
            raise RestError(Problem.NOT_JSON, error.detail) from None

    async def message(self, request: Request, payer: Payer, model: type[M]) -> M:
        """The body as a `model`. Raises what `tree` raises, and a RestError with a pointer to each invalid field."""
        return validated(model, await self.tree(request, payer, "application/json"))

    async def _read(self, request: Request, payer: Payer, max_bytes: int) -> bytes:
        body = bytearray()
        counted: Body | None = None
        try:
            async with asyncio.timeout(self._timeout_s) as deadline:
                with self._arriving.body(payer, deadline) as counted:
                    async for chunk in request.stream():
                        body += chunk
                        if len(body) > max_bytes:
                            raise RestError(Problem.TOO_LARGE, f"the body should have at most {max_bytes} bytes")
                        self._arriving.grow(counted, len(chunk))
        except TimeoutError:
            if counted is not None and counted.gave_way:
                raise gave_way() from None
            raise RestError(Problem.TIMEOUT, f"the body did not arrive within {self._timeout_s:g} s") from None
        except ClientDisconnect:
            raise RestError(Problem.NOT_JSON, "the body ended early") from None
        return bytes(body)


def validated(model: type[M], tree: Any) -> M:
    try:
        return model.model_validate(tree, by_alias=True, by_name=False)
    except ValidationError as error:
        fields = field_errors(error)
        detail = "; ".join(f"{f.pointer or '/'}: {f.detail}" for f in fields)
        raise RestError(Problem.INVALID, detail, fields) from None


def json_response(message: Message, status: int = 200) -> Response:
    """A model as JSON, without absent fields."""
    text = message.model_dump_json(by_alias=True, exclude_none=True)
    return Response(text, status, NO_STORE, media_type="application/json")
