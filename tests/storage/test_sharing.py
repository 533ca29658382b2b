"""Reads that share a round trip: each asker gets the answer to its own question, whatever becomes of the others'."""

import asyncio
from collections.abc import Sequence

import pytest

from storage.sharing import MOST, Shared
from storage.store import Store, StoreUnavailable
from tests.storage.conftest import NewStore


class Slow:
    """Answers each question with itself, a trip whenever it is told to."""

    def __init__(self) -> None:
        self.trips: list[Sequence[int]] = []
        self.go = asyncio.Event()
        self.failing = False

    async def fetch(self, questions: Sequence[int]) -> list[int | Exception]:
        self.trips.append(questions)
        await self.go.wait()
        if self.failing:
            raise StoreUnavailable("gone")
        return [StoreUnavailable("this one") if question < 0 else question for question in questions]


async def asked(shared: Shared[int, int], *questions: int) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(shared.ask(question)) for question in questions]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def test_what_is_asked_during_a_trip_shares_the_next() -> None:
    slow = Slow()
    shared = Shared(slow.fetch)
    tasks = await asked(shared, 1, 2) + await asked(shared, 3) + await asked(shared, 4)
    slow.go.set()
    assert await asyncio.gather(*tasks) == [1, 2, 3, 4]
    assert slow.trips == [[1, 2], [3, 4]]


async def test_a_trip_is_bounded() -> None:
    slow = Slow()
    slow.go.set()
    tasks = await asked(Shared(slow.fetch), *range(MOST + 1))
    assert await asyncio.gather(*tasks) == list(range(MOST + 1))
    assert [len(trip) for trip in slow.trips] == [MOST, 1]


async def test_an_answer_that_is_an_error_is_its_askers_alone() -> None:
    slow = Slow()
    slow.go.set()
    tasks = await asked(Shared(slow.fetch), 1, -1, 2)
    told = await asyncio.gather(*tasks, return_exceptions=True)
    assert (told[0], told[2]) == (1, 2)
    assert isinstance(told[1], StoreUnavailable)


async def test_a_trip_that_fails_is_told_to_all_and_the_next_question_makes_another() -> None:
    """To those who wait behind it too: nobody waits for two that fail."""
    slow = Slow()
    shared = Shared(slow.fetch)
    tasks = await asked(shared, 1, 2) + await asked(shared, 3)
    slow.failing = True
    slow.go.set()
    told = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(error) for error in told] == 3 * [StoreUnavailable]
    assert slow.trips == [[1, 2]]
    slow.failing = False
    assert await shared.ask(4) == 4


async def test_who_is_gone_costs_the_others_nothing() -> None:
    slow = Slow()
    shared = Shared(slow.fetch)
    gone, stays = await asked(shared, 1, 2)
    gone.cancel()
    slow.go.set()
    assert await stays == 2
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_a_key_of_another_type_costs_its_reader_alone(new_store: NewStore) -> None:
    """On the real store: records, and what changed, of others are read in the same trip."""
    store: Store = new_store()
    await store.run([("SET", store.keys.progress("bad"), "text")])
    told = await asyncio.gather(
        store.record("bad", "v"),
        store.record("u", "v"),
        store.changes("bad"),
        store.changes("u"),
        return_exceptions=True,
    )
    assert isinstance(told[0], StoreUnavailable)
    assert isinstance(told[2], StoreUnavailable)
    assert not isinstance(told[1], BaseException)
    assert not told[1].exists
    assert not isinstance(told[3], BaseException)
    assert (told[3].rev, told[3].records) == (0, [])
