"""Which request bodies are refused when incomplete bodies use too much memory.

tests/server/features/test_shares.py has the same on real sockets.
"""

import asyncio

import pytest

from playhead.server.limits.admission import Busy
from playhead.server.limits.body_memory import BodyMemory, Kind, Payer
from playhead.server.limits.rates import TooFast

USER, ADDRESS, SERVICE = Payer(Kind.USER, "u"), Payer(Kind.ADDRESS, "a"), Payer(Kind.SERVICE, "s")


def deadline() -> asyncio.Timeout:
    return asyncio.timeout(None)


async def test_a_user_who_sends_too_much_is_refused_and_affects_nobody_else() -> None:
    memory = BodyMemory(most=100, most_of_user=10, most_of_address=50)
    async with deadline() as first, deadline() as second:
        with memory.body(USER, first) as one, memory.body(USER, second) as two:
            memory.grow(one, 6)
            with pytest.raises(TooFast):
                memory.grow(two, 6)
            assert not one.gave_way
    assert memory.size == 0


async def test_at_the_limit_of_an_address_its_oldest_body_gives_way() -> None:
    """The wait for the rest of that body ends at once, and its memory is free for the other."""
    memory = BodyMemory(most=100, most_of_user=10, most_of_address=50)

    async def send_slowly() -> None:
        async with deadline() as limit:
            with memory.body(ADDRESS, limit) as old:
                memory.grow(old, 30)
                await asyncio.Event().wait()

    slow = asyncio.create_task(send_slowly())
    await asyncio.sleep(0)
    async with deadline() as limit:
        with memory.body(ADDRESS, limit) as young:
            memory.grow(young, 30)
            assert (young.gave_way, memory.size) == (False, 30)
            with pytest.raises(TimeoutError):
                await slow
    assert memory.size == 0


async def test_a_body_that_gave_way_is_refused_when_it_grows() -> None:
    memory = BodyMemory(most=100, most_of_user=10, most_of_address=50)
    async with deadline() as first, deadline() as second:
        with memory.body(ADDRESS, first) as old, memory.body(ADDRESS, second) as young:
            memory.grow(old, 30)
            memory.grow(young, 30)
            with pytest.raises(Busy):
                memory.grow(old, 1)
            assert memory.size == 30
        first.reschedule(None)  # the task goes on here, so it must not be interrupted


async def test_services_count_towards_the_limit_of_the_process_only() -> None:
    memory = BodyMemory(most=100, most_of_user=10, most_of_address=50)
    async with deadline() as first:
        with memory.body(SERVICE, first) as body:
            memory.grow(body, 100)
            assert memory.size == 100
    assert memory.size == 0
