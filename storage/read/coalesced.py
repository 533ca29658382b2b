"""Reads that share a round trip: to ask the store costs this process ten times what a question more in it does.

What is asked while an answer is on its way goes together with the next; where little is asked, nothing waits. The
answers of one trip come back together, so a trip is bounded in questions, and one that fails fails for all who wait.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from playhead.storage.errors import StoreUnavailable

MOST = 100
"""Questions of one trip."""
Q = TypeVar("Q")
A = TypeVar("A")


class Shared(Generic[Q, A]):
    """Asks some at a time.

    Args:
        fetch: the answers to some questions, in their order; an exception among them is its asker's alone. One that is
            raised fails all askers, those who wait for the next trip too, so that nobody waits for two.
    """

    def __init__(self, fetch: Callable[[Sequence[Q]], Awaitable[Sequence[A | Exception]]]) -> None:
        self._fetch = fetch
        self._asked: list[tuple[Q, asyncio.Future[A]]] = []
        self._trips: asyncio.Task[None] | None = None
        """While somebody asks."""

    async def ask(self, question: Q) -> A:
        """The answer to one question.

        Raises:
            Exception: of the type that `fetch` raised, or answered, for it, with that one as its cause: each asker gets
                an object of their own, so that what one task adds to it is not seen by another.
            StoreUnavailable: instead, where `fetch` was cancelled or interrupted, or such an object can't be made.
        """
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._asked.append((question, answer))
        if self._trips is None:
            self._trips = asyncio.create_task(self._run())
            self._trips.add_done_callback(_retrieved)
        return await answer

    async def _run(self) -> None:
        under_way: list[tuple[Q, asyncio.Future[A]]] = []
        try:
            while self._asked:
                under_way, self._asked = self._asked[:MOST], self._asked[MOST:]
                for (_, asker), answer in zip(
                    under_way, await self._fetch([question for question, _ in under_way]), strict=True
                ):
                    if asker.done():
                        continue  # whoever asked is gone
                    if isinstance(answer, Exception):
                        asker.set_exception(_own(answer))
                    else:
                        asker.set_result(answer)
        except BaseException as error:
            for _, asker in [*under_way, *self._asked]:
                if not asker.done():
                    asker.set_exception(_own(error))
            self._asked = []
            if not isinstance(error, Exception):
                raise
        finally:
            self._trips = None


def _retrieved(trips: asyncio.Task[None]) -> None:
    """Its exception, an interrupt, has been told to all askers, and has ended the loop: asyncio need not log it."""
    if not trips.cancelled():
        trips.exception()


def _own(error: BaseException) -> Exception:
    """One asker's exception, caused by `error`.

    A copy that does not run the constructor of its class, whose arguments may be others than `error.args`; only that of
    the built-in class below it, whose fields can't be copied otherwise.
    """
    own: Exception | None = None
    if isinstance(error, Exception) and not isinstance(error, StopIteration):  # no future takes that one
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
