"""Every story runs on each store, over the WebSocket, by each path of its frames, and over REST."""

from collections.abc import AsyncIterator
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio

from tests.conftest import StoreServer
from tests.serving import Running, serving
from tests.stories.players import Learner


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(store_server: StoreServer, direct: bool) -> AsyncIterator[Running]:
    """One server for all stories on a store: each story has its own learner and video, and continues with the clock of
    the previous one."""
    prefix = f"t{uuid4().hex}"
    async with serving(direct=direct, redis_url=store_server.url, key_prefix=prefix, flush_interval_s=0.01) as server:
        yield server


@pytest_asyncio.fixture(params=["websocket", "rest"], loop_scope="module")
async def learner(request: pytest.FixtureRequest, running: Running) -> AsyncIterator[Learner]:
    """A new learner, a new video, and a clock that moves only when the story advances it."""
    async with httpx.AsyncClient(base_url=running.http) as http:
        yield Learner(running, http, request.param)
