"""The light event that each connection has."""

import asyncio

from playhead.storage.connection.latch import Latch


async def test_setting_a_latch_wakes_every_waiter() -> None:
    latch = Latch()
    waiting = [asyncio.create_task(latch.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    latch.set()
    latch.clear()  # before the waiters run: they were woken nevertheless
    await asyncio.gather(*waiting)
    assert not latch.is_set()


async def test_a_set_latch_does_not_wait() -> None:
    latch = Latch()
    latch.set()
    await latch.wait()
    assert latch.is_set()


async def test_a_cancelled_waiter_leaves_nothing_behind() -> None:
    latch = Latch()
    waiting = asyncio.create_task(latch.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert latch._waiters == []
    latch.set()
