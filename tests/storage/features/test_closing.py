"""Closing a store ends its connections whatever is in progress, and nothing is opened afterwards."""

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
    """A port that accepts connections and reads nothing, or answers only a client's first commands (RESP2)."""
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


async def test_closing_during_commands_leaves_nothing_open(store_server: StoreServer, prefix: str) -> None:
    """At any step: waiting for a connection, connecting, in the handshake, or waiting for a reply.

    Each command succeeds or raises StoreUnavailable; so does a later one.
    """
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
    """Nor does a caller that waits for the node open a new one: here a command is retried while its pool is closed."""
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


async def test_unsent_data_for_a_silent_store_is_dropped(prefix: str) -> None:
    """A connection that is given up is aborted.

    Otherwise each attempt would leave a socket and its unsent data, until the kernel gives up on the peer.
    """
    async with deaf(greets=True) as (port, taken):
        store = open_store(f"redis://127.0.0.1:{port}?protocol=2", worker="w", timeout_s=SILENT_S)
        before = descriptors()
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await parts_of(store).run([("SET", f"{prefix}:{n}", MEGABYTE) for n in range(16)])
        assert len(taken) == 4, "each attempt was made twice"
        await asyncio.sleep(0)
        assert (descriptors() - before).total() == len(taken), "only the server's ends are open"
        await store.close()


async def test_a_silent_sentinel_does_not_hide_the_others(prefix: str) -> None:
    """Each has a share of the timeout, so that the last one is asked within the timeout of a command."""
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
    """The next node of a cluster is asked for the topology while the one before is silent.

    A command is answered before the first node times out.
    """
    async with contextlib.AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(deaf()) for _ in range(8)]
        ports = ",".join(f"127.0.0.1:{port}" for port, _ in silent)
        url = f"redis+cluster://{ports},{store_server.url.partition('://')[2]}"
        store = open_store(url, worker="w", key_prefix=prefix, timeout_s=PATIENCE_S)
        stack.push_async_callback(store.close)
        before = store.connection_retries
        assert set(await parts_of(store).run([("GET", f"{prefix}:none")])) == {None}
        assert store.connection_retries == before, "no node was given up and asked again"


async def test_many_callers_of_a_silent_cluster_fail_together(prefix: str) -> None:
    """They do not fail one after another, each after a timeout of its own."""
    async with deaf() as (port, _):
        store = open_store(f"redis+cluster://127.0.0.1:{port}", worker="w", key_prefix=prefix, timeout_s=SILENT_S)
        questions = [asyncio.create_task(parts_of(store).run([("GET", f"{prefix}:{n}")])) for n in range(200)]
        async with asyncio.timeout(PATIENCE_S):  # 200 timeouts would be 100 s
            answers = await asyncio.gather(*questions, return_exceptions=True)
        assert {type(answer) for answer in answers} == {StoreUnavailable}
        await store.close()
