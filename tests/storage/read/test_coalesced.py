"""Reads that share a round trip: each caller gets the answer to its own query, whatever happens to the others."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence

import httpx
import pytest
from redis.exceptions import MovedError

from playhead.protocol.record import Record
from playhead.storage.read.changes import Changes
from playhead.storage.read.coalesced import MOST, Coalesced
from playhead.storage.store import Store, StoreUnavailable
from playhead.storage.values.damage import Damaged
from tests.inside import keys_of, parts_of, records_in
from tests.storage.conftest import PATIENCE_S, NewStore


class Slow:
    """Answers each query with itself, one round trip each time it is released."""

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


async def asked(shared: Coalesced[int, int], *questions: int) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(shared.ask(question)) for question in questions]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def test_queries_during_a_round_trip_share_the_next() -> None:
    slow = Slow()
    shared = Coalesced(slow.fetch)
    tasks = await asked(shared, 1, 2) + await asked(shared, 3) + await asked(shared, 4)
    slow.go.set()
    assert await asyncio.gather(*tasks) == [1, 2, 3, 4]
    assert slow.trips == [[1, 2], [3, 4]]


async def test_a_round_trip_is_bounded() -> None:
    slow = Slow()
    slow.go.set()
    tasks = await asked(Coalesced(slow.fetch), *range(MOST + 1))
    assert await asyncio.gather(*tasks) == list(range(MOST + 1))
    assert [len(trip) for trip in slow.trips] == [MOST, 1]


@pytest.mark.parametrize("steps", [0, 3], ids=["before it begins", "under way"])
async def test_closing_ends_a_round_trip_and_fails_its_callers(steps: int) -> None:
    """Nothing is left running, not even where the caller has been cancelled already."""
    slow = Slow()
    shared = Coalesced(slow.fetch)
    waiting, cancelled = (asyncio.create_task(shared.ask(query)) for query in (1, 2))
    await asyncio.sleep(0)
    for _ in range(steps):
        await asyncio.sleep(0)
    cancelled.cancel()
    await shared.aclose()
    with pytest.raises(StoreUnavailable):
        await waiting
    await asyncio.wait([cancelled])
    assert asyncio.all_tasks() == {asyncio.current_task()}
    slow.go.set()
    assert await shared.ask(3) == 3


async def test_closing_without_a_round_trip_does_nothing() -> None:
    await Coalesced(Slow().fetch).aclose()


async def test_an_error_among_the_answers_is_raised_for_its_caller_only() -> None:
    slow = Slow()
    slow.go.set()
    tasks = await asked(Coalesced(slow.fetch), 1, -1, 2)
    told = await asyncio.gather(*tasks, return_exceptions=True)
    assert (told[0], told[2]) == (1, 2)
    assert isinstance(told[1], StoreUnavailable)


async def test_a_failed_round_trip_fails_all_callers_and_the_next_query_starts_another() -> None:
    """Callers waiting behind it fail, too: nobody waits for two that fail."""
    slow = Slow()
    shared = Coalesced(slow.fetch)
    tasks = await asked(shared, 1, 2) + await asked(shared, 3)
    slow.failing = True
    slow.go.set()
    told = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(error) for error in told] == 3 * [StoreUnavailable]
    assert slow.trips == [[1, 2]]
    slow.failing = False
    assert await shared.ask(4) == 4


class Numbered(Exception):
    """An exception whose constructor takes other arguments than its `args`."""

    def __init__(self, number: int, *, reason: str) -> None:
        super().__init__(f"{number}: {reason}")
        self.number = number


class Refusing(UnicodeDecodeError):
    """An exception that cannot be copied: its built-in class does not take its `args`."""

    def __init__(self) -> None:
        super().__init__("utf-8", b"x", 0, 1, "odd")
        self.args = ("odd",)


def _http_error() -> Exception:
    request = httpx.Request("GET", "http://store")
    return httpx.HTTPStatusError("gone", request=request, response=httpx.Response(410, request=request))


ODD: dict[str, Callable[[], Exception]] = {
    "a Unicode error": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    "a constructor of its own": lambda: Numbered(7, reason="broken"),
    "httpx, with keywords": _http_error,
    "redis, parsed": lambda: MovedError("866 127.0.0.1:7001"),
    "a group": lambda: ExceptionGroup("two", [ValueError("one"), KeyError("other")]),
    "an OS error": lambda: ConnectionResetError(104, "reset"),
    "no arguments": lambda: StoreUnavailable(),
}


async def failed(shared: Coalesced[int, int], *questions: int) -> list[BaseException]:
    """The exceptions of all callers; none was cancelled, and none still waits."""
    tasks = await asked(shared, *questions)
    async with asyncio.timeout(PATIENCE_S):
        told = await asyncio.gather(*tasks, return_exceptions=True)
    assert not any(task.cancelled() for task in tasks)
    errors = [error for error in told if isinstance(error, Exception)]
    assert len(errors) == len(questions)
    return list(errors)


@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
@pytest.mark.parametrize("raised", [True, False], ids=["raised", "answered"])
async def test_an_exception_with_any_constructor_reaches_each_caller(
    make: Callable[[], Exception], raised: bool
) -> None:
    """As an object of the caller's own with the same contents, and the original as its cause."""
    error = make()

    async def fetch(questions: Sequence[int]) -> list[int | Exception]:
        if raised:
            raise error
        return [error] * len(questions)

    told = await failed(Coalesced(fetch), 1, 2, 3)
    assert len({id(one) for one in told} | {id(error)}) == 4
    for one in told:
        assert type(one) is type(error)
        assert one.__cause__ is error
        assert (str(one), one.args, vars(one)) == (str(error), error.args, vars(error))
    for name in ("reason", "object", "exceptions", "errno", "strerror", "number"):
        assert {repr(getattr(one, name, None)) for one in told} == {repr(getattr(error, name, None))}


async def test_what_one_caller_adds_to_an_exception_is_not_seen_by_others() -> None:
    """Its traceback, its context, its notes."""
    slow = Slow()
    slow.failing = True
    slow.go.set()
    shared = Coalesced(slow.fetch)

    async def during(other: Exception) -> StoreUnavailable:
        try:
            raise other
        except ValueError:
            try:
                await shared.ask(1)
            except StoreUnavailable as error:
                error.add_note(str(other))
                return error
        raise AssertionError

    one, other = await asyncio.gather(during(ValueError("one")), during(ValueError("other")))
    assert (one.__notes__, other.__notes__) == (["one"], ["other"])
    assert str(one.__context__) != str(other.__context__)
    assert one.__traceback__ is not other.__traceback__


@pytest.mark.parametrize("error", [Refusing(), StopIteration(1)], ids=["no copy", "no future takes it"])
async def test_an_exception_that_cannot_be_copied_is_the_cause_of_another(error: Exception) -> None:
    async def fetch(questions: Sequence[int]) -> list[int | Exception]:
        return [error for _ in questions]

    for one in await failed(Coalesced(fetch), 1, 2):
        assert isinstance(one, StoreUnavailable)
        assert one.__cause__ is error


async def test_a_cancelled_fetch_does_not_cancel_its_callers() -> None:
    """They get an exception, including those behind it, and the next query starts another round trip."""
    cancelling = True

    async def fetch(questions: Sequence[int]) -> list[int | Exception]:
        await asyncio.sleep(0)
        if cancelling:
            raise asyncio.CancelledError
        return list(questions)

    shared = Coalesced(fetch)
    for one in await failed(shared, *range(MOST + 1)):
        assert isinstance(one, StoreUnavailable)
        assert isinstance(one.__cause__, asyncio.CancelledError)
    cancelling = False
    assert await shared.ask(1) == 1


def test_an_interrupt_during_a_fetch_propagates_and_leaves_nobody_waiting() -> None:
    """Ctrl-C reaches the event loop after all callers got an exception."""
    told: list[int | BaseException] = []

    async def fetch(questions: Sequence[int]) -> list[int | Exception]:
        raise KeyboardInterrupt

    async def ask() -> None:
        shared = Coalesced(fetch)
        told.extend(await asyncio.gather(shared.ask(1), shared.ask(2), return_exceptions=True))

    with contextlib.closing(asyncio.new_event_loop()) as loop:
        asking = loop.create_task(ask())
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(asking)
        loop.run_until_complete(asking)
    assert [type(error) for error in told] == 2 * [StoreUnavailable]
    assert all(isinstance(error, Exception) and isinstance(error.__cause__, KeyboardInterrupt) for error in told)


async def test_too_few_answers_leave_nobody_waiting() -> None:
    async def fetch(questions: Sequence[int]) -> list[int | Exception]:
        return list(questions[:1])

    told = await asyncio.gather(*(await asked(Coalesced(fetch), 1, 2)), return_exceptions=True)
    assert told[0] == 1
    assert isinstance(told[1], ValueError)


async def test_a_cancelled_caller_does_not_affect_the_others() -> None:
    slow = Slow()
    shared = Coalesced(slow.fetch)
    gone, stays = await asked(shared, 1, 2)
    gone.cancel()
    slow.go.set()
    assert await stays == 2
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_a_key_of_another_type_affects_its_reader_only(new_store: NewStore) -> None:
    """On a real store: records and changes of others are read in the same round trip."""
    store: Store = new_store()
    await parts_of(store).run([("SET", keys_of(store).progress("bad"), "text")])
    told = await asyncio.gather(
        store.record("bad", "v"),
        store.record("u", "v"),
        store.changes("bad"),
        store.changes("u"),
        return_exceptions=True,
    )
    assert isinstance(told[0], Damaged)
    assert isinstance(told[2], Damaged)
    assert isinstance(told[1], Record)
    assert not told[1].exists
    assert isinstance(told[3], Changes)
    assert (told[3].rev, records_in(told[3])) == (0, [])
