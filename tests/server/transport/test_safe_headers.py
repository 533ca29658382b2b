"""Security headers: on every response, unless it sets its own."""

from collections.abc import MutableMapping
from typing import Any

import pytest

from playhead.server.transport.safe_headers import SAFE_HEADERS, with_safe_headers


async def sent(message: dict[str, Any]) -> MutableMapping[str, Any]:
    """The message as it is passed on."""
    passed: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        passed.append(message)

    await with_safe_headers(send)(message)
    (only,) = passed
    return only


@pytest.mark.parametrize("headers", [{}, {"headers": []}], ids=["no headers", "none"])
async def test_a_response_without_headers_gets_all_of_them(headers: dict[str, Any]) -> None:
    assert (await sent({"type": "http.response.start", "status": 404, **headers}))["headers"] == SAFE_HEADERS


@pytest.mark.parametrize(("name", "default"), SAFE_HEADERS, ids=lambda value: value.decode())
async def test_a_response_keeps_its_own(name: bytes, default: bytes) -> None:
    message = await sent({"type": "http.response.start", "status": 200, "headers": [(b"etag", b"1"), (name, b"own")]})
    headers = dict(message["headers"])
    assert len(message["headers"]) == len(headers) == len(SAFE_HEADERS) + 1
    assert headers[name] == b"own"
    assert headers[b"etag"] == b"1"


@pytest.mark.parametrize("kind", ["http.response.body", "http.response.trailers"])
async def test_other_messages_pass_unchanged(kind: str) -> None:
    assert await sent({"type": kind, "body": b"x"}) == {"type": kind, "body": b"x"}
