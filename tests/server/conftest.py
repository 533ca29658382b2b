"""A running server for tests of the transport."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from playhead.server.transport.http import BoundedHttp
from playhead.server.transport.websocket import BoundedWebSocket
from tests.conftest import StoreServer
from tests.serving import Running, serving


@pytest.fixture
async def server(store_server: StoreServer, direct: bool, prefix: str) -> AsyncIterator[Running]:
    """A server with a clock that stands still."""
    async with serving(redis_url=store_server.url, key_prefix=prefix, direct=direct) as running:
        yield running


@pytest.fixture
def read_apart(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the server's reads, in bytes."""
    reads: list[int] = []

    for kind in (BoundedHttp, BoundedWebSocket):
        original = kind.data_received

        def counted(self: Any, data: bytes, original: Any = original) -> None:
            if data:
                reads.append(len(data))
            original(self, data)

        monkeypatch.setattr(kind, "data_received", counted)
    return reads
