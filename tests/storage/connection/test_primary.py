"""One server and its connection pool."""

from collections.abc import AsyncIterator

import pytest
from redis.exceptions import RedisError

from playhead.storage.backoff import Backoff
from playhead.storage.connection.address import parse_address
from playhead.storage.connection.primary import RETRY_S, Primary, pool_of
from playhead.storage.scripts import Script
from tests.conftest import StoreServer
from tests.ports import free_port

SCRIPT = Script("changes")


@pytest.fixture
async def primary(store_server: StoreServer) -> AsyncIterator[Primary]:
    pool = pool_of(parse_address(store_server.url).options, 5.0, Backoff(*RETRY_S))
    opened = Primary("", pool, [SCRIPT.text])
    yield opened
    await opened.aclose()


async def test_scripts_that_the_server_has_lost_are_loaded_again(primary: Primary) -> None:
    for _ in range(2):
        await primary.pipeline([("SCRIPT", "FLUSH")])
        assert await primary.pipeline([("SCRIPT", "EXISTS", SCRIPT.sha)]) == [[False]]
        (reply,) = await primary.ask([("EVALSHA", SCRIPT.sha, 0)])
        assert "NOSCRIPT" not in str(reply)
        assert await primary.pipeline([("SCRIPT", "EXISTS", SCRIPT.sha)]) == [[True]]


async def test_a_failed_connection_is_tried_again_once_and_counted() -> None:
    retries = Backoff(*RETRY_S)
    primary = Primary("", pool_of({"host": "127.0.0.1", "port": free_port()}, 1.0, retries), [])
    with pytest.raises((RedisError, OSError)):
        await primary.ask([("PING",)])
    assert retries.retries == 1
    await primary.aclose()
