"""The app of one process: what it needs to start, and what happens when the store is not there yet."""

import asyncio
from pathlib import Path

import pytest

from playhead.server import app as module
from playhead.server.app import create_app
from playhead.server.settings import Settings
from playhead.storage.embedded.data_dir import SOCKET_NAME, url_of
from playhead.storage.embedded.valkey import EmbeddedValkey
from playhead.storage.store import StoreUnavailable
from tests.device import PATIENCE_S
from tests.ports import free_port
from tests.rest import ok, rest
from tests.serving import serving


async def test_the_app_needs_the_url_of_a_store() -> None:
    app = create_app(Settings())
    with pytest.raises(ValueError, match="redis_url is not set"):
        async with app.router.lifespan_context(app):
            pytest.fail("it started")


async def test_a_process_waits_for_a_store_that_starts_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It logs the wait once, and the store's return once."""
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        started, stop = asyncio.Event(), asyncio.Event()

        async def serve() -> None:
            async with serving(redis_url=url_of(tmp_path / SOCKET_NAME)) as server, rest(server) as api:
                assert ok(await api.get("/readyz"))["status"] == "ready"
                started.set()
                await stop.wait()

        tasks.create_task(serve())
        while not any("waiting for it" in line for line in caplog.messages):  # noqa: ASYNC110 no event tells of a line
            await asyncio.sleep(0.01)
        assert not started.is_set()
        with EmbeddedValkey(tmp_path, fsync=False) as valkey:
            assert valkey.url == url_of(tmp_path / SOCKET_NAME)
            await started.wait()
            stop.set()
    lines = [record.getMessage() for record in caplog.records if record.name == module.__name__]
    assert [line.partition(":")[0].partition(" (")[0] for line in lines] == [
        "The store does not answer, waiting for it",
        "The store answers",
    ]


async def test_a_process_gives_up_when_the_store_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "START_S", 0.1)
    app = create_app(Settings(redis_url=f"redis://127.0.0.1:{free_port()}"))
    with pytest.raises(StoreUnavailable):
        async with app.router.lifespan_context(app):
            pytest.fail("it started")
