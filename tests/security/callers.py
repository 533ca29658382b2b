"""Callers with and without tokens, over REST and the WebSocket, and the code with which each is answered."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Origin, Subprotocol

from playhead.server.clock import system_clock
from tests.conftest import StoreServer
from tests.device import JSON, PATIENCE_S, Device
from tests.rest import rest
from tests.security.issuer import AUDIENCE, ISSUER, SECRET, claims
from tests.serving import Running, serving

USER, OTHER, VIDEO = (f"7d1a0e7c-0b1f-4b7e-9f6e-3f0a52a4c{n:03}" for n in range(1, 4))
ACCEPTED = ("ok", "welcome", None)
REFUSED = ("unauthorized", "unauthorized", 4500)
EXPIRED = ("token_expired", "token_expired", 4005)
TRY_LATER = ("keys", "keys", 4001)
"""Results of `verdict`."""


@contextlib.asynccontextmanager
async def guarded(store: StoreServer, prefix: str, **settings: Any) -> AsyncIterator[Running]:
    """A server that requires tokens, signed with SECRET unless another key is given. Its clock is the real one."""
    if not any(name.startswith("jwt_") and name[4:] in ("secret", "key_file", "jwks_url") for name in settings):
        settings["jwt_secret"] = SECRET
    chosen = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "redis_url": store.url, "key_prefix": prefix} | settings
    async with serving(clock=system_clock, **chosen) as server:
        yield server


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def by_rest(server: Running, *authorization: str) -> httpx.Response:
    """Request the progress of USER with these Authorization headers."""
    async with rest(server) as api:
        return await api.get(f"/progress/{USER}", headers=[("Authorization", value) for value in authorization])


def code_of(response: httpx.Response) -> str:
    """`ok`, or the code of the problem in the answer."""
    if response.status_code == 200:
        return "ok"
    problem = response.json()
    assert problem["status"] == response.status_code
    if response.status_code == 401:
        assert response.headers["www-authenticate"].startswith("Bearer")
    return str(problem["type"].rpartition(":")[2])


@contextlib.asynccontextmanager
async def socket(
    server: Running, *, token: str | None = None, origin: bool = True, path: str = "", **headers: str
) -> AsyncIterator[ClientConnection]:
    """A WebSocket as the server's own page opens it; `token` is sent in the handshake, as programs do."""
    all_headers = {**headers, **(bearer(token) if token is not None else {})}
    where = Origin(server.http) if origin else None
    async with connect(
        server.ws + path, origin=where, subprotocols=[Subprotocol(JSON)], additional_headers=all_headers, proxy=None
    ) as opened:
        yield opened


async def say_hello(opened: ClientConnection, token: str | None = None, **hello: Any) -> dict[str, Any]:
    """Send a hello; the first message of the answer."""
    message = {"type": "hello", "device": "test", "session": uuid4().hex, **hello}
    with contextlib.suppress(ConnectionClosed):  # refused before the hello was written; the reason can still be read
        await opened.send(json.dumps(message | ({"token": token} if token is not None else {})))
    return await next_message(opened)


async def next_message(opened: ClientConnection) -> dict[str, Any]:
    """Wait for the next message."""
    async with asyncio.timeout(PATIENCE_S):
        return dict(json.loads(await opened.recv()))


async def close_code(opened: ClientConnection) -> int | None:
    async with asyncio.timeout(PATIENCE_S):
        await opened.wait_closed()
    return opened.close_code


async def by_hello(server: Running, token: str | None, **hello: Any) -> tuple[str, int | None]:
    """Send a hello: ("welcome", None), or the code of the error and the close code."""
    async with socket(server) as opened:
        first = await say_hello(opened, token, **hello)
        if first["type"] == "welcome":
            return "welcome", None
        return first["code"], await close_code(opened)


@contextlib.asynccontextmanager
async def learner(server: Running, token: str, user_id: str = USER) -> AsyncIterator[Device]:
    """A device of the learner, synchronised."""
    async with socket(server) as opened:
        player = Device(opened, user_id, uuid4().hex, JSON)
        await player.hello(token=token)
        yield player


async def verdict(server: Running, made: str) -> tuple[str, str, int | None]:
    """How a token is answered: over REST, and in a hello, with its close code."""
    return code_of(await by_rest(server, f"Bearer {made}")), *await by_hello(server, made)


def payload(**raw: str) -> str:
    """The claims of a valid token, with some replaced by these JSON texts."""
    texts = {name: json.dumps(value) for name, value in claims(USER).items()} | raw
    return "{" + ", ".join(f'"{name}": {value}' for name, value in texts.items()) + "}"
