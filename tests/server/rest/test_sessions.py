"""The endpoint that ends a user's sessions. tests/server/socket/test_token_lease.py has who may call it."""

from uuid import uuid4

import pytest
from websockets.exceptions import ConnectionClosed

from playhead.storage.store import open_store
from tests.conftest import StoreServer
from tests.device import device
from tests.inside import keys_of, parts_of
from tests.rest import ok, refused, rest
from tests.serving import Running, serving


async def test_only_the_sessions_of_the_named_user_end(server: Running) -> None:
    user, other = str(uuid4()), str(uuid4())
    async with rest(server) as api, device(server, user) as ended, device(server, other) as untouched:
        ok(await api.delete(f"/sessions/{user.upper()}"))
        assert (await ended.until("error"))["code"] == "ended"
        with pytest.raises(ConnectionClosed):
            await ended.socket.recv()
        assert ended.socket.close_code == 4500
        await untouched.send(type="ping")
        await untouched.until("pong")


async def test_ending_the_sessions_of_an_unknown_user_succeeds(server: Running) -> None:
    async with rest(server) as api:
        ok(await api.delete(f"/sessions/{uuid4()}"))
        refused(await api.delete("/sessions/nobody"), "invalid", "/userId", where="path")


async def test_a_damaged_list_of_ended_sessions_is_reported(store_server: StoreServer, prefix: str) -> None:
    """Running processes close the user's WebSockets nevertheless, and the error says what is missing."""
    store, user = open_store(store_server.url, worker="w", key_prefix=prefix), str(uuid4())
    try:
        await parts_of(store).run([("SET", keys_of(store).ended, "not a sorted set")])
        async with (
            serving(redis_url=store_server.url, key_prefix=prefix) as server,
            rest(server) as api,
            device(server, user) as ended,
        ):
            problem = refused(await api.delete(f"/sessions/{user}"), "damaged")
            assert "`playhead rebuild`" in problem["detail"]
            assert (await ended.until("error"))["code"] == "ended"
    finally:
        await store.close()
