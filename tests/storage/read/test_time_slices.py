"""Time slices: one part of all long work runs in each iteration of the event loop."""

import asyncio

from playhead.storage.read.time_slices import TimeSlices
from tests.storage.conftest import PATIENCE_S


async def test_one_slice_runs_in_each_iteration_and_cancelled_tasks_take_none() -> None:
    time_slices, iterations, done = TimeSlices(), 0, list[int]()
    loop = asyncio.get_running_loop()

    def count() -> None:
        nonlocal iterations
        iterations += 1
        if len(done) < 3:
            loop.call_soon(count)

    async def work() -> None:
        await time_slices.next()
        done.append(iterations)

    loop.call_soon(count)
    tasks = [asyncio.create_task(work()) for _ in range(4)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.wait(tasks)
    assert len(set(done)) == 3


async def test_slices_go_on_when_all_that_waited_were_cancelled() -> None:
    time_slices = TimeSlices()
    tasks = [asyncio.create_task(time_slices.next()) for _ in range(3)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    async with asyncio.timeout(PATIENCE_S):
        await time_slices.next()
