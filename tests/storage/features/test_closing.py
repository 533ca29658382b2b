"""Connections to the store end when they are ended, whatever is under way then; nothing is opened afterwards."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from playhead.storage.connection.primary import Primary
from playhead.storage.errors import StoreUnavailable
from playhead.storage.store import open_store
from tests.conftest import StoreServer
from tests.inside import parts_of
from tests.leaks import descriptors
from tests.ports import free_port

pytestmark = pytest.mark.stores("valkey", "redis7", "cluster")
PATIENCE_S = 20.0
SILENT_S = 0.5
MEGABYTE = b"x" * 1_000_000


@contextlib.asynccontextmanager
async def deaf(*, greets: bool = False) -> AsyncIterator[tuple[int, list[asyncio.StreamWriter]]]:
    """A port where connections are taken, and nothing is read or answered; or only a client's first words (RESP2)."""
    taken: list[asyncio.StreamWriter] = []
    gone = asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(writer)
        while greets and (words := (await reader.read(4_096)).count(b"SETINFO")):
            writer.write(b"+OK\r\n" * words)
        writer.transport.pause_reading()  # type: ignore[attr-defined] # else asyncio would read up to its own bound
        await gone.wait()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], taken
    finally:
        gone.set()
        server.close()
        for writer in taken:
            writer.transport.abort()


async def test_closing_while_questions_are_under_way_leaves_nothing_open(
    store_server: StoreServer, prefix: str
) -> None:
    """At whatever step they are: waiting for a connection, connecting, in the handshake, or waiting for an answer. Each
    ends, well or with StoreUnavailable; so does one that is put later."""
    dice = random.Random(7)
    for _ in range(40):
        store = open_store(store_server.url, worker=uuid4().hex, key_prefix=prefix, timeout_s=5.0)
        before = descriptors()
        questions = [asyncio.create_task(parts_of(store).run([("PING",)])) for _ in range(dice.randrange(1, 100))]
        for _ in range(dice.randrange(40)):
            await asyncio.sleep(0)
        await store.close()
        async with asyncio.timeout(PATIENCE_S):
            answers = await asyncio.gather(*questions, return_exceptions=True)
        for answer in answers:
            assert answer == [True] or isinstance(answer, StoreUnavailable), answer
        with pytest.raises(StoreUnavailable):
            await parts_of(store).run([("PING",)])
        assert not descriptors() - before


async def test_a_node_that_leaves_a_cluster_leaves_no_connection(prefix: str) -> None:
    """Nor does whoever waits for it open one anew: here one that is asked again as its pool is closed."""
    async with deaf() as (port, taken):
        store = open_store(f"redis+cluster://127.0.0.1:{port}", worker="w", key_prefix=prefix, timeout_s=30.0)
        primary: Primary = parts_of(store).link.primary(f"127.0.0.1:{port}")  # type: ignore[attr-defined] # a cluster's
        before = descriptors()
        asking = asyncio.create_task(primary.ask([("PING",)]))
        async with asyncio.timeout(PATIENCE_S):
            while not taken:  # noqa: ASYNC110 no event tells
                await asyncio.sleep(0.01)
        await primary.aclose()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(asking, return_exceptions=True)
        assert len(taken) == 1
        taken[0].transport.abort()
        await asyncio.sleep(0)
        assert not descriptors() - before
        await store.close()


async def test_what_a_silent_store_did_not_take_does_not_wait_for_it(prefix: str) -> None:
    """A connection that is given up is cut: else each attempt would leave a socket, and what it had to send, until the
    kernel gives up on the peer."""
    async with deaf(greets=True) as (port, taken):
        store = open_store(f"redis://127.0.0.1:{port}?protocol=2", worker="w", timeout_s=SILENT_S)
        before = descriptors()
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await parts_of(store).run([("SET", f"{prefix}:{n}", MEGABYTE) for n in range(16)])
        assert len(taken) == 4, "each was tried twice"
        await asyncio.sleep(0)
        assert (descriptors() - before).total() == len(taken), "our ends are closed, and theirs open"
        await store.close()


async def test_a_silent_sentinel_does_not_hide_the_others(prefix: str) -> None:
    """Each has its share of the time, so that the last one is asked within the timeout of a question."""
    async with deaf() as (first, asked), deaf() as (second, asked_too):
        ports = f"127.0.0.1:{first},127.0.0.1:{second},127.0.0.1:{free_port()}"
        store = open_store(f"redis+sentinel://{ports}/progress", worker="w", key_prefix=prefix, timeout_s=2.0)
        asking = asyncio.create_task(parts_of(store).run([("PING",)]))
        async with asyncio.timeout(PATIENCE_S):
            while not asked_too:
                assert len(asked) <= 1, "the first was asked again before the second"
                await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await store.close()


@pytest.mark.parametrize("store_server", ["cluster"], indirect=True)
async def test_silent_nodes_do_not_hide_the_one_that_answers(prefix: str, store_server: StoreServer) -> None:
    """A cluster's topology is asked of the next node while the one before is silent; a question is answered before the
    first of them would have been given up."""
    async with contextlib.AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(deaf()) for _ in range(8)]
        ports = ",".join(f"127.0.0.1:{port}" for port, _ in silent)
        url = f"redis+cluster://{ports},{store_server.url.partition('://')[2]}"
        store = open_store(url, worker="w", key_prefix=prefix, timeout_s=PATIENCE_S)
        stack.push_async_callback(store.close)
        before = store.connection_retries
        assert set(await parts_of(store).run([("GET", f"{prefix}:none")])) == {None}
        assert store.connection_retries == before, "nobody was given up and asked again"


async def test_many_who_look_for_a_silent_cluster_are_told_together(prefix: str) -> None:
    """And not one after another, each after a timeout of their own."""
    async with deaf() as (port, _):
        store = open_store(f"redis+cluster://127.0.0.1:{port}", worker="w", key_prefix=prefix, timeout_s=SILENT_S)
        questions = [asyncio.create_task(parts_of(store).run([("GET", f"{prefix}:{n}")])) for n in range(200)]
        async with asyncio.timeout(PATIENCE_S):  # 200 timeouts are 100 s
            answers = await asyncio.gather(*questions, return_exceptions=True)
        assert {type(answer) for answer in answers} == {StoreUnavailable}
        await store.close()
