"""Tokens on a real server: renewed before they expire, renewed after, and reported if that is not possible."""

import asyncio
import time
from uuid import uuid4

import pytest

from playhead.client import Denied, Forbidden, TokenExpired, Unauthorized, credentials
from tests.client.line import PATIENCE_S, client, line
from tests.conftest import StoreServer
from tests.rest import rest
from tests.security.callers import OTHER, USER, VIDEO, bearer, guarded
from tests.security.issuer import token

LIFE_S = 2


class Issuer:
    """A user's `get_token`."""

    def __init__(self, *lives_s: float) -> None:
        self.calls = 0
        self._lives_s = lives_s

    async def __call__(self) -> str:
        """Return one token after the other, and the last one forever."""
        life_s = self._lives_s[min(self.calls, len(self._lives_s) - 1)]
        self.calls += 1
        return token(USER, exp=int(time.time()) + life_s)


@pytest.mark.parametrize("transports", [("ws",), ("http",)])
async def test_the_user_is_known_by_the_token(
    store_server: StoreServer, prefix: str, transports: tuple[str, ...]
) -> None:
    """Over WebSocket and HTTP, no user_id is needed."""
    async with (
        guarded(store_server, prefix) as server,
        client(server.http, token=token(USER), transports=transports) as p,
    ):
        await p.watch(VIDEO, [(0, 5)], 5)
        assert (await p.rest.get(VIDEO)).user_id == USER


async def test_a_token_is_renewed_before_it_expires(store_server: StoreServer, prefix: str) -> None:
    """`expiring` is answered with a fresh token, and the connection outlives the first one."""
    issuer = Issuer(LIFE_S, 600)
    async with guarded(store_server, prefix, jwt_leeway_s=0) as server, line(server.port) as wire:
        async with client(wire.http, get_token=issuer, transports=("ws",)) as p:
            await p.watch(VIDEO, [(0, 5)], 5)
            await asyncio.sleep(LIFE_S + 0.5)
            await p.watch(VIDEO, [(5, 10)], 10)
            assert p.state == "online"
        assert (issuer.calls, wire.upgrades) == (2, 1)


@pytest.mark.parametrize("transports", [("ws",), ("http",)])
async def test_an_expired_token_is_renewed_once_and_then_the_client_ends(
    store_server: StoreServer, prefix: str, transports: tuple[str, ...]
) -> None:
    """After 4005, or 401 over HTTP, `get_token` is called once more; if that token has expired too: TokenExpired."""
    stale, recovers = Issuer(-60), Issuer(-60, 600)
    async with guarded(store_server, prefix, jwt_leeway_s=0) as server:
        async with client(server.http, get_token=recovers, transports=transports) as p:
            await p.watch(VIDEO, [(0, 5)], 5)
        async with client(server.http, get_token=stale, transports=transports) as p, asyncio.timeout(PATIENCE_S):
            with pytest.raises(TokenExpired):
                await p.watch(VIDEO, [(5, 10)], 10)
            assert len(p.pending) == 1
    assert (recovers.calls, stale.calls) == (2, 2)


async def test_the_client_ends_with_a_token_that_cannot_be_renewed(store_server: StoreServer, prefix: str) -> None:
    """A fixed token that expires while it is used raises TokenExpired at once."""
    async with (
        guarded(store_server, prefix, jwt_leeway_s=0) as server,
        client(server.http, token=token(USER, exp=int(time.time()) + 2)) as p,
        asyncio.timeout(PATIENCE_S),
    ):
        changes = p.changes()
        with pytest.raises(TokenExpired):
            await anext(changes)


@pytest.mark.parametrize("transports", [("ws",), ("http",)])
async def test_a_token_that_is_not_valid(store_server: StoreServer, prefix: str, transports: tuple[str, ...]) -> None:
    """4500 or 401 raises Unauthorized; for another user, 4503 or 403 raises Forbidden."""
    async with guarded(store_server, prefix) as server, asyncio.timeout(PATIENCE_S):
        forged = token(USER, key="another secret that is long enough to be one")
        async with client(server.http, token=forged, transports=transports) as p:
            with pytest.raises(Unauthorized):
                await p.watch(VIDEO, [(0, 5)], 5)
            with pytest.raises(Denied):
                await p.rest.get(VIDEO)
        async with client(server.http, OTHER, token=token(USER), transports=transports) as p:
            with pytest.raises(Forbidden):
                await p.watch(VIDEO, [(0, 5)], 5)


async def test_an_operator_ends_the_sessions(store_server: StoreServer, prefix: str) -> None:
    """DELETE /sessions/{userId} raises Unauthorized, and the client does not reconnect."""
    async with guarded(store_server, prefix) as server, client(server.http, token=token(USER)) as p:
        await p.watch(VIDEO, [(0, 5)], 5)
        async with rest(server) as http:
            operator = bearer(token(str(uuid4()), scope="progress:any"))
            assert (await http.delete(f"/sessions/{USER}", headers=operator)).status_code == 200
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(Unauthorized):
                await anext(p.changes())


async def test_a_get_token_that_fails_is_called_again(store_server: StoreServer, prefix: str) -> None:
    """The login service may be unavailable as well as the network; reports wait."""
    calls = 0

    async def get_token() -> str:
        nonlocal calls
        calls += 1
        if calls < 4:
            raise ConnectionError("no network")
        return token(USER)

    async with (
        guarded(store_server, prefix) as server,
        client(server.http, USER, get_token=get_token) as p,
        asyncio.timeout(PATIENCE_S),
    ):
        await p.watch(VIDEO, [(0, 5)], 5)
    assert calls >= 4


@pytest.mark.parametrize("transports", [("ws",), ("http",)])
async def test_a_get_token_that_hangs_is_cancelled_and_called_again(
    store_server: StoreServer, prefix: str, transports: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the user's code, which may wait for a server without a time limit."""
    monkeypatch.setattr(credentials, "GET_TOKEN_S", 0.1)
    calls = 0

    async def get_token() -> str:
        nonlocal calls
        calls += 1
        if calls == 1:
            await asyncio.Event().wait()
        return token(USER)

    async with (
        guarded(store_server, prefix) as server,
        client(server.http, get_token=get_token, user_id=USER, transports=transports) as p,
        asyncio.timeout(PATIENCE_S),
    ):
        await p.watch(VIDEO, [(0, 5)], 5)
    assert calls == 2
