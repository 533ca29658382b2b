"""A running server for tests of the transport."""

from collections.abc import AsyncIterator

import pytest

from tests.conftest import StoreServer
from tests.serving import BY_ASGI, Running, serving


@pytest.fixture
async def server(store_server: StoreServer, prefix: str) -> AsyncIterator[Running]:
    """A server with a clock that stands still, on each store and by each way of a frame."""
    direct = store_server.name != BY_ASGI
    async with serving(redis_url=store_server.url, key_prefix=prefix, direct=direct) as running:
        yield running
