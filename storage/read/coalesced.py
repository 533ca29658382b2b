"""Reads that share a round trip: a round trip costs this process ten times as much as one more query in it.

Queries that arrive during a round trip share the next one; without concurrency nothing waits. The answers of a round
trip arrive together, so its number of queries is bounded, and a round trip that fails, fails for all waiting callers.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from playhead.storage.errors import StoreUnavailable

MOST = 100
"""Queries in one round trip."""
Q = TypeVar("Q")
A = TypeVar("A")


class Coalesced(Generic[Q, A]):
    """Coalesces concurrent queries into round trips.

    Args:
        fetch: answers some queries, in their order. An exception among the answers is raised for its caller only. If
            `fetch` itself raises, all callers fail, including those waiting for the next round trip, so that nobody
            waits for two.
    """

    def __init__(self, fetch: Callable[[Sequence[Q]], Awaitable[Sequence[A | Exception]]]) -> None:
        self._fetch = fetch
        self._asked: list[tuple[Q, asyncio.Future[A]]] = []
        self._trips: asyncio.Task[None] | None = None
        """Runs while there are queries."""

    async def ask(self, query: Q) -> A:
        """Answer one query.

        Raises:
            Exception: of the type that `fetch` raised or answered, with the original as its cause. Each caller gets an
                object of its own, so that what one task adds to it is not seen by another.
            StoreUnavailable: `fetch` was cancelled or interrupted, or such an object cannot be made.
        """
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._asked.append((query, answer))
        if self._trips is None:
            self._trips = asyncio.create_task(self._run())
            self._trips.add_done_callback(_retrieved)
        return await answer

    async def aclose(self) -> None:
        """End a round trip that is under way; its callers, if there are any left, get StoreUnavailable."""
        if (trips := self._trips) is None:
            return
        trips.cancel()
        await asyncio.wait([trips])
        for _, caller in self._asked:  # the task was cancelled before its first step
            if not caller.done():
                caller.set_exception(StoreUnavailable("the connection to the store is being closed"))
        self._asked, self._trips = [], None

    async def _run(self) -> None:
        in_flight: list[tuple[Q, asyncio.Future[A]]] = []
        try:
            while self._asked:
                in_flight, self._asked = self._asked[:MOST], self._asked[MOST:]
                for (_, caller), answer in zip(
                    in_flight, await self._fetch([query for query, _ in in_flight]), strict=True
                ):
                    if caller.done():
                        continue  # its caller was cancelled
                    if isinstance(answer, Exception):
                        caller.set_exception(_own(answer))
                    else:
                        caller.set_result(answer)
        except BaseException as error:
            for _, caller in [*in_flight, *self._asked]:
                if not caller.done():
                    caller.set_exception(_own(error))
            self._asked = []
            if not isinstance(error, Exception):
                raise
        finally:
            self._trips = None


def _retrieved(trips: asyncio.Task[None]) -> None:
    """Retrieve the exception, an interrupt: all callers got it and it ended the loop, so asyncio need not log it."""
    if not trips.cancelled():
        trips.exception()


def _own(error: BaseException) -> Exception:
    """Copy an exception for one caller, with `error` as its cause.

    The copy does not run the constructor of its class, whose arguments may differ from `error.args`, but only that of
    the built-in class below it, whose fields cannot be copied otherwise.
    """
    own: Exception | None = None
    if isinstance(error, Exception) and not isinstance(error, StopIteration):  # futures refuse StopIteration
        kind = type(error)
        built_in = next(base for base in kind.__mro__ if base.__module__ == "builtins")
        try:
            own = built_in.__new__(kind, *error.args)
            built_in.__init__(own, *error.args)  # type: ignore[misc] # of an exact class, not of a subclass of it
            own.__dict__.update(error.__dict__)
        except Exception:
            own = None
    if own is None:
        own = StoreUnavailable(f"the read failed: {type(error).__name__}")
    own.__cause__ = error
    return own
