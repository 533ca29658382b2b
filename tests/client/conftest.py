"""A running server, and a connection to it that can be cut."""

from collections.abc import AsyncIterator, Iterator

import pytest

from playhead.server.clock import system_clock
from playhead.storage.embedded.valkey import EmbeddedValkey
from tests.client.line import Line, line
from tests.conftest import StoreServer
from tests.serving import Running, serving


@pytest.fixture(scope="session")
def store_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    """One store is enough, because clients cannot tell stores apart."""
    with EmbeddedValkey(tmp_path_factory.mktemp("valkey"), fsync=False) as valkey:
        yield StoreServer("valkey", valkey.url)


@pytest.fixture
async def server(store_server: StoreServer, prefix: str) -> AsyncIterator[Running]:
    """A server with a running clock, like the client's: both must agree on the order of two moments."""
    clock = system_clock
    async with serving(clock, redis_url=store_server.url, key_prefix=prefix) as running:
        yield running


@pytest.fixture
async def wire(server: Running) -> AsyncIterator[Line]:
    """A line to the server."""
    async with line(server.port) as opened:
        yield opened
