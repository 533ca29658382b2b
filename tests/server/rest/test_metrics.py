"""`GET /metrics`, read by a real monitoring client: the metrics follow what happens, and return to their old values."""

import asyncio
import os
import signal
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from playhead.server.app import create_app
from playhead.server.settings import Settings
from playhead.storage.embedded.valkey import EmbeddedValkey
from tests.device import PATIENCE_S, device
from tests.ports import free_port
from tests.rest import ok, rest, scraped
from tests.server.program import descendants, serve
from tests.serving import Running, serving

LOOPS = {
    "start",
    "commit-heartbeats",
    "commit-requests",
    "channels",
    "store-connections",
    "cluster-commands",
    "durations",
    "key-set",
    "embedded-store",
    "workers",
}


async def reads(api: httpx.AsyncClient, name: str, value: float) -> dict[str, float]:
    """Wait until a metric has this value."""
    async with asyncio.timeout(PATIENCE_S):
        while (found := await scraped(api))[name] != value:  # noqa: ASYNC110 no event tells
            await asyncio.sleep(0.01)
    return found


async def test_gauges_follow_what_happens_and_return(server: Running) -> None:
    async with rest(server) as api:
        before = await scraped(api)
        assert before["playhead_connections{}"] == 0
        async with device(server, str(uuid4())) as player, device(server, str(uuid4())):
            await player.play(str(uuid4()), 0, 5)
            during = await reads(api, "playhead_connections{}", 2)
            assert during["playhead_flush_seconds_count{heartbeats}"] >= 1
            assert during["playhead_flush_seconds_sum{heartbeats}"] > 0
            assert during["playhead_tasks{}"] > before["playhead_tasks{}"]
            assert during["process_open_fds{}"] > before["process_open_fds{}"]
        after = await reads(api, "playhead_connections{}", 0)
        assert after["playhead_pending_reports{heartbeats}"] == 0
        assert after["playhead_store_trouble{}"] == 0
        assert after["playhead_event_loop_lag_seconds{}"] >= 0
        assert {name for name in after if name.startswith("playhead_retries_total")} == {
            f"playhead_retries_total{{{loop}}}" for loop in LOOPS
        }


async def test_an_outage_of_the_store_shows_in_the_retry_counters(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path, fsync=False) as valkey:
        async with (
            serving(redis_url=valkey.url, store_timeout_s=0.2) as server,
            rest(server) as api,
            device(server, str(uuid4())) as player,
        ):
            os.kill(valkey.pid, signal.SIGSTOP)
            try:
                await player.beat(str(uuid4()), played=[[0, 5]], position=5)
                found = await reads(api, "playhead_store_trouble{}", 1)
                assert found["playhead_retries_total{commit-heartbeats}"] >= 1
                waiting = asyncio.create_task(player.beat(str(uuid4()), played=[[0, 7]], position=7))
                await reads(api, "playhead_pending_reports{heartbeats}", 1)
                await waiting
            finally:
                os.kill(valkey.pid, signal.SIGCONT)
            await player.acked()
            await reads(api, "playhead_store_trouble{}", 0)


async def test_restarts_of_the_embedded_store_are_counted(tmp_path: Path) -> None:
    async with serve(free_port(), "--data-dir", str(tmp_path)) as program, rest(program.running) as api:
        (store,) = descendants(program.process.pid)
        os.kill(store, signal.SIGKILL)
        found = await reads(api, "playhead_retries_total{embedded-store}", 1)
        assert found["process_open_fds{}"] > 0


async def test_a_process_that_starts_during_a_short_outage_waits_for_the_store(tmp_path: Path) -> None:
    """Otherwise a worker that is replaced during an outage would end the whole service."""
    with EmbeddedValkey(tmp_path, fsync=False) as valkey:
        settings = Settings(redis_url=valkey.url, store_timeout_s=0.2)
        app = create_app(settings)
        os.kill(valkey.pid, signal.SIGSTOP)
        try:
            lifespan = app.router.lifespan_context(app)
            starting = asyncio.create_task(lifespan.__aenter__())
            done, _ = await asyncio.wait({starting}, timeout=0.5)
            assert not done
        finally:
            os.kill(valkey.pid, signal.SIGCONT)
        async with asyncio.timeout(PATIENCE_S):
            await starting
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as api:
            ready = ok(await api.get("/readyz"))
            assert ready["status"] == "ready"
            assert abs(ready["clock"]["offsetMs"]) <= ready["clock"]["uncertaintyMs"] + 2, (
                "the store is on the same machine"
            )
            found = await scraped(api)
            assert found["playhead_retries_total{start}"] >= 1
            assert abs(found["playhead_clock_offset_seconds{}"]) < 1
        await lifespan.__aexit__(None, None, None)


async def test_a_worker_that_dies_during_an_outage_does_not_end_the_others(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path, fsync=False) as valkey:
        options = ("--redis-url", valkey.url, "--workers", "2")
        async with serve(free_port(), *options, PLAYHEAD_STORE_TIMEOUT_S="0.3") as program:
            first, second = (pid for pid in descendants(program.process.pid) if is_worker(pid))
            os.kill(valkey.pid, signal.SIGSTOP)
            try:
                os.kill(first, signal.SIGKILL)
                async with asyncio.timeout(60):
                    while not (new := workers(program.process.pid) - {first, second}):  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
                await program.logged("The store does not answer, waiting for it")
                assert workers(program.process.pid) == {second, *new}
            finally:
                os.kill(valkey.pid, signal.SIGCONT)
            async with rest(program.running) as api:
                assert ok(await api.get("/livez")) == {"status": "alive"}


def workers(pid: int) -> set[int]:
    return {each for each in descendants(pid) if is_worker(each)}


def is_worker(pid: int) -> bool:
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@pytest.mark.parametrize("method", ["post", "put", "delete"])
async def test_metrics_are_read_only(server: Running, method: str) -> None:
    async with rest(server) as api:
        assert (await getattr(api, method)("/metrics")).status_code == 405
