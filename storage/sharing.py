"""Reads that share a round trip: to ask the store costs this process ten times what a question more in it does.

What is asked while an answer is on its way goes together with the next; where little is asked, nothing waits. The
answers of one trip come back together, so a trip is bounded in questions, and a broken one is told to all at once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

MOST = 100
"""Questions of one trip."""
Q = TypeVar("Q")
A = TypeVar("A")


class Shared(Generic[Q, A]):
    """Asks some at a time.

    Args:
        fetch: the answers to some questions, in their order; an exception among them is its asker's alone, one that is
            raised is everybody's: of those who wait for the next trip too, so that nobody waits for two.
    """

    def __init__(self, fetch: Callable[[Sequence[Q]], Awaitable[Sequence[A | Exception]]]) -> None:
        self._fetch = fetch
        self._asked: list[tuple[Q, asyncio.Future[A]]] = []
        self._trips: asyncio.Task[None] | None = None
        """While somebody asks."""

    async def ask(self, question: Q) -> A:
        """Raises what `fetch` raises, or answers, for it."""
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._asked.append((question, answer))
        if self._trips is None:
            self._trips = asyncio.create_task(self._run())
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
                        asker.set_exception(answer)
                    else:
                        asker.set_result(answer)
        except Exception as error:
            for _, asker in [*under_way, *self._asked]:
                if not asker.done():
                    asker.set_exception(type(error)(*error.args))
            self._asked = []
        finally:
            self._trips = None
            for _, asker in [*under_way, *self._asked]:
                asker.cancel()  # only where the process ends: else each has its answer
