"""A client of the REST contract, and checks of its answers."""

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import redis.asyncio
from prometheus_client.parser import text_string_to_metric_families

from tests.device import PATIENCE_S
from tests.serving import Running

TITLES = {
    "invalid": (422, "A field is not valid"),
    "not_json": (400, "The body is not JSON"),
    "media_type": (415, "The content type is not supported"),
    "too_large": (413, "The request is too large"),
    "timeout": (408, "The request took too long to arrive"),
    "not_found": (404, "Not found"),
    "method": (405, "The method is not allowed for this resource"),
    "upgrade_required": (426, "A WebSocket handshake is required"),
    "deleted": (409, "The progress was deleted after this happened"),
    "too_many_videos": (409, "The learner has records of max_videos_per_user videos already, deleted ones included"),
    "damaged": (500, "The stored progress is damaged; it cannot be read until an operator repairs it"),
    "unavailable": (503, "The store cannot be reached; nothing was lost, try again later"),
    "too_many_sessions": (429, "Too many sessions are waiting for an ack on one connection"),
    "unauthorized": (401, "A valid token is required"),
    "token_expired": (401, "The token has expired"),
    "forbidden": (403, "The token does not permit this"),
    "origin": (403, "This origin is not allowed"),
    "rate": (429, "The rate limit is exceeded"),
    "restarting": (503, "The service is restarting; reconnect after the given delay"),
    "keys": (503, "Tokens cannot be verified at the moment; try again later"),
}
"""Status and title by the code of a problem. Clients rely on them, so they are repeated here."""

LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=2.0)
"""Idle connections are closed long before the server closes them: a request sent at that moment would be reset."""


@contextlib.asynccontextmanager
async def rest(server: Running) -> AsyncIterator[httpx.AsyncClient]:
    """A client that ignores the environment's proxy."""
    async with httpx.AsyncClient(base_url=server.http, timeout=PATIENCE_S, trust_env=False, limits=LIMITS) as client:
        yield client


def ok(response: httpx.Response) -> Any:
    """Check for status 200, and return the body."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    return response.json()


async def scraped(api: httpx.AsyncClient) -> dict[str, float]:
    """Read `/metrics`: samples by name and labels, as `name{label}`. The parser checks the format."""
    response = await api.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    return {
        f"{sample.name}{{{','.join(sample.labels.values())}}}": sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def refused(response: httpx.Response, code: str, *pointers: str, where: str = "body") -> dict[str, Any]:
    """Check every member of a problem (RFC 9457), and return it."""
    status, title = TITLES[code]
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["type"] == f"urn:playhead:problem:{code}"
    assert problem["title"] == title
    assert problem["status"] == status
    assert problem["detail"]
    errors = problem.get("errors", [])
    assert [error["pointer"] for error in errors] == list(pointers)
    assert all(error["detail"] and error["in"] == where for error in errors)
    assert set(problem) == {"type", "title", "status", "detail"} | ({"errors"} if pointers else set())
    return problem


def iso(ms: int) -> str:
    """Format ms since 1970 as the protocol does."""
    return datetime.fromtimestamp(ms // 1_000, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{ms % 1_000:03d}Z"


async def dump(store: "redis.asyncio.Redis", prefix: str) -> dict[bytes, bytes]:
    """Everything under a prefix, serialised, to compare the store at two moments.

    The counts of commits are left out, because commits that change nothing increase them too.
    """
    keys = [key async for key in store.scan_iter(match=f"{prefix}:*", count=1_000) if b":fence:" not in key]
    dumped = {key: await store.dump(key) for key in sorted(keys)}
    return {key: value for key, value in dumped.items() if value is not None}
