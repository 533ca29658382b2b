"""Cancelling a task that waits for the store ends the task."""

import asyncio
from uuid import uuid4

from playhead.storage.store import open_store
from tests.conftest import StoreServer

ROUNDS = 10


async def test_a_cancelled_wait_never_continues(store_server: StoreServer, prefix: str) -> None:
    """At whichever step of a round trip the cancellation arrives, the task ends by it or has ended before.

    Otherwise a loop of store calls would outlive its cancellation, and the exit of the process would wait for it.
    """
    store = open_store(store_server.url, worker=uuid4().hex, key_prefix=prefix)
    went_on: list[int] = []

    async def ask(steps: int) -> None:
        await store.epoch()
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            went_on.append(steps)

    try:
        for steps in [steps for steps in range(40) for _ in range(ROUNDS)]:
            asking = asyncio.create_task(ask(steps))
            for _ in range(steps):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait({asking})
    finally:
        await store.close()
    assert went_on == []
