"""Pipelines over redis-py's connections: replies in order, errors in place, and nothing after the pool is closed."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio as redis
from redis.exceptions import ConnectionError, ResponseError

from playhead.storage.connection.pipeline import close_pool, run_pipeline, use_pipelining
from tests.conftest import StoreServer


@pytest.fixture
async def client(store_server: StoreServer) -> AsyncIterator[redis.Redis]:
    async with redis.Redis.from_url(store_server.url) as client:
        use_pipelining(client.connection_pool)
        yield client


async def test_an_error_takes_the_place_of_its_reply(client: redis.Redis, prefix: str) -> None:
    replies: list[Any] = await run_pipeline(
        client, [("SET", f"{prefix}:k", b"\xff"), ("HGET", f"{prefix}:k", "f"), ("GET", f"{prefix}:k")]
    )
    assert isinstance(replies[1], ResponseError)
    assert (replies[0], replies[2]) == (True, b"\xff")


async def test_two_word_commands_and_converted_replies(client: redis.Redis, prefix: str) -> None:
    """redis-py names some commands by two words, and converts some replies."""
    await run_pipeline(client, [("HSET", f"{prefix}:h", "f", "v")])
    usage, fields = await run_pipeline(client, [("MEMORY USAGE", f"{prefix}:h"), ("HGETALL", f"{prefix}:h")])
    assert usage > 0
    assert fields == {b"f": b"v"}


async def test_a_closed_pool_connects_no_more(client: redis.Redis) -> None:
    assert await run_pipeline(client, [("PING",)]) == [True]
    close_pool(client.connection_pool)
    await client.aclose()
    with pytest.raises(ConnectionError, match="closed"):
        await run_pipeline(client, [("PING",)])
