"""The locks that let a learner's large requests run one at a time."""

import asyncio

import pytest

from playhead.protocol.errors import Problem
from playhead.server.limits.rates import TooFast
from playhead.server.limits.user_locks import UserLocks
from tests.device import PATIENCE_S


async def test_the_lock_of_a_learner_is_held_by_one_request_at_a_time() -> None:
    """A request that waits too long is refused with 429. Other learners do not wait, and no lock is left behind."""
    locks = UserLocks(patience_s=0.05)
    order: list[str] = []
    entered, leave = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        async with locks.hold("u"):
            entered.set()
            await leave.wait()
            order.append("first")

    async def second() -> None:
        async with locks.hold("u"):
            order.append("second")

    holding = asyncio.create_task(first())
    await entered.wait()
    with pytest.raises(TooFast, match="still running") as late:
        async with locks.hold("u"):
            order.append("never")
    assert late.value.problem is Problem.RATE
    async with locks.hold("other"):
        order.append("other")
    waiting = asyncio.create_task(second())
    await asyncio.sleep(0)
    leave.set()
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(holding, waiting)
    assert order == ["other", "first", "second"]
    assert len(locks) == 0
