"""A peer that sends one byte now and then, so that no read times out, blocks neither the caller nor the exit of the
process. Real processes, and a real socket."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from playhead.server.security.blocking_calls import MOST, BlockingCalls
from tests.ports import free_port
from tests.rest import refused, rest
from tests.security.issuer import token
from tests.server.program import serve

PATIENCE_S = 40.0
SOON_S = 0.05


@contextlib.asynccontextmanager
async def dripping() -> AsyncIterator[tuple[int, list["asyncio.Task[None] | None"]]]:
    """A port where each connection gets a response head that never ends, and the connections so far."""
    came: list[asyncio.Task[None] | None] = []

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(asyncio.current_task())
        try:
            writer.write(b"HTTP/1.1 200 OK\r\nX: ")
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.1)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], came
    finally:
        server.close()
        for task in filter(None, came):
            task.cancel()
        await asyncio.gather(*filter(None, came), return_exceptions=True)


async def test_the_exit_of_the_program_does_not_wait_for_an_issuer(tmp_path: Path) -> None:
    """The issuer was asked for its keys and is still sending its response."""
    async with dripping() as (port, came):
        keys = {"PLAYHEAD_JWT_JWKS_URL": f"http://127.0.0.1:{port}/", "PLAYHEAD_JWT_ALGORITHM": "RS256"}
        keys |= {"PLAYHEAD_JWT_ISSUER": "https://issuer.example", "PLAYHEAD_JWT_AUDIENCE": "playhead"}
        async with serve(free_port(), "--data-dir", str(tmp_path), **keys) as program:
            signed = token("0b5e8f6e-5d3c-4b2a-9f1e-2c3d4e5f6a7b", kind="RS256", headers={"kid": "any"})
            async with rest(program.running) as api:
                asking = asyncio.create_task(
                    api.get("/progress/summary/any", headers={"Authorization": f"Bearer {signed}"}, timeout=PATIENCE_S)
                )
                async with asyncio.timeout(PATIENCE_S):
                    while not came:  # noqa: ASYNC110 what is awaited is another process
                        await asyncio.sleep(0.01)
                refused(await asking, "keys")
            assert await program.stop() == 0, "within the program's own bound"


async def test_calls_that_do_not_end_are_abandoned_and_their_number_is_bounded() -> None:
    """Each runs in a thread that the process does not wait for. When one has ended, another call may start."""
    aside, let_go = BlockingCalls("test"), threading.Event()
    for _ in range(MOST):
        with pytest.raises(TimeoutError):
            await aside.run(let_go.wait, SOON_S)
    threads = [thread for thread in threading.enumerate() if thread.name == "test"]
    assert len(threads) == MOST
    assert all(thread.daemon for thread in threads)
    with pytest.raises(TimeoutError, match="earlier calls"):
        await aside.run(lambda: 7, PATIENCE_S)
    let_go.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert await aside.run(lambda: 7, PATIENCE_S) == 7


async def test_an_exception_of_the_call_is_raised() -> None:
    def fail() -> None:
        raise ValueError("no keys")

    with pytest.raises(ValueError, match="no keys"):
        await BlockingCalls("test").run(fail, PATIENCE_S)
