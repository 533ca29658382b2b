"""Subscriptions over a connection that breaks repeatedly."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis.asyncio as redis

from playhead.storage.connection.subscriptions import ServerSubscriptions
from tests.conftest import StoreServer

PATIENCE_S = 15.0


class Listener:
    """Subscriptions, with the messages and confirmations received."""

    def __init__(self, client: redis.Redis) -> None:
        self.received: list[tuple[str, bytes]] = []
        self.confirmed: list[str] = []
        self.channels = ServerSubscriptions(
            client.connection_pool,
            lambda name, data: self.received.append((name, data)),
            self.confirmed.append,
        )


@pytest.fixture
async def client(store_server: StoreServer) -> AsyncIterator[redis.Redis]:
    async with redis.Redis.from_url(store_server.url) as client:
        yield client


@contextlib.asynccontextmanager
async def listening(client: redis.Redis) -> AsyncIterator[Listener]:
    listener = Listener(client)
    task = asyncio.create_task(listener.channels.run())
    try:
        yield listener
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 what is awaited is another process
            await asyncio.sleep(0.005)


async def test_a_channel_counts_as_subscribed_only_when_the_store_has_confirmed_it(
    client: redis.Redis, prefix: str
) -> None:
    """From then on published messages arrive in order; after unsubscribing none do."""
    name = f"{prefix}:a"
    async with listening(client) as listener:
        event = listener.channels.subscribe(name)
        assert not listener.channels.is_confirmed(name)
        await asyncio.wait_for(event.wait(), PATIENCE_S)
        for number in range(3):
            assert await client.spublish(name, str(number)) == 1
        await until(lambda: len(listener.received) == 3)
        assert listener.received == [(name, b"0"), (name, b"1"), (name, b"2")]
        listener.channels.unsubscribe(name)
        assert not listener.channels.is_confirmed(name)
        async with asyncio.timeout(PATIENCE_S):
            while await client.spublish(name, "late"):  # noqa: ASYNC110
                await asyncio.sleep(0.005)


async def test_an_immediate_resubscription_needs_a_confirmation_of_its_own(client: redis.Redis, prefix: str) -> None:
    """Whatever is queued or under way in between, a confirmed channel receives what is published."""
    async with listening(client) as listener:
        for turn in range(50):
            name = f"{prefix}:b"
            event = listener.channels.subscribe(name)
            if turn % 3 == 0:
                await asyncio.sleep(0)
            listener.channels.unsubscribe(name)
            event = listener.channels.subscribe(name)
            await asyncio.wait_for(event.wait(), PATIENCE_S)
            assert await client.spublish(name, str(turn)) == 1
            await until(lambda turn=turn: (f"{prefix}:b", str(turn).encode()) in listener.received)  # type: ignore[misc]
            listener.channels.unsubscribe(name)


async def test_subscribing_while_the_connection_breaks_repeatedly(client: redis.Redis, prefix: str) -> None:
    """Reader and subscriber never reconnect by themselves, or both at once.

    Every channel is confirmed in the end, those confirmed before are confirmed again, and in between they do not count
    as subscribed.
    """
    async with listening(client) as listener:
        names = [f"{prefix}:{number}" for number in range(300)]
        for index, name in enumerate(names):
            listener.channels.subscribe(name)
            if index % 10 == 0:
                for entry in await client.client_list(_type="pubsub"):
                    await client.client_kill_filter(_id=entry["id"])
            await asyncio.sleep(0)
        await until(lambda: all(map(listener.channels.is_confirmed, names)))
        assert len(listener.confirmed) > len(names)
        for name in names:
            assert await client.spublish(name, "x") == 1
        await until(lambda: {name for name, _ in listener.received} == set(names))


@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_user_without_permission_for_ping_can_subscribe(
    store_server: StoreServer, prefix: str, protocol: int
) -> None:
    """The store's refusal is also an answer, and proves as much."""
    may = ["on", "nopass", f"&{prefix}:*", "-@all", "+ssubscribe", "+sunsubscribe", "+hello"]
    async with redis.Redis.from_url(store_server.url) as admin:
        await admin.execute_command("ACL", "SETUSER", prefix, *may)  # type: ignore[no-untyped-call] # redis-py has no types here
        user: dict[str, Any] = {"username": prefix, "password": "", "protocol": protocol}
        async with redis.Redis.from_url(store_server.url, **user) as client, listening(client) as listener:
            event = listener.channels.subscribe(f"{prefix}:a")
            await asyncio.wait_for(event.wait(), PATIENCE_S)
            assert await listener.channels.probe()
            assert await admin.spublish(f"{prefix}:a", "x") == 1
            await until(lambda: listener.received == [(f"{prefix}:a", b"x")])
        await admin.execute_command("ACL", "DELUSER", prefix)  # type: ignore[no-untyped-call] # redis-py has no types here


@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_probe_needs_no_channel(store_server: StoreServer, prefix: str, protocol: int) -> None:
    """Without a subscription, with one, and after unsubscribing, the reply to PING has different forms."""
    async with (
        redis.Redis.from_url(store_server.url, protocol=protocol) as client,
        listening(client) as listener,
    ):
        assert await listener.channels.probe()
        event = listener.channels.subscribe(f"{prefix}:a")
        await asyncio.wait_for(event.wait(), PATIENCE_S)
        assert await listener.channels.probe()
        listener.channels.unsubscribe(f"{prefix}:a")
        assert await listener.channels.probe()
        assert listener.channels.resubscriptions == 0
