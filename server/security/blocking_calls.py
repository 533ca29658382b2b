"""Blocking calls in threads that nobody waits for.

The event loop's own threads are joined when the process ends: one in which a peer sends a byte now and then, so that no
timeout of a read ever comes, would keep the process from ending. And they are few, so that some such would stop all.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
MOST = 4
"""Threads that were given up and have not ended."""


class BlockingCalls:
    """Calls of one kind. Args: name: of its threads."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._threads: set[threading.Thread] = set()

    async def run(self, call: Callable[[], T], within_s: float) -> T:
        """What it returns, or raises.

        Raises:
            TimeoutError: it has not ended in time, and goes on alone; or too many earlier ones still do.
        """
        self._threads = {thread for thread in self._threads if thread.is_alive()}
        if len(self._threads) >= MOST:
            raise TimeoutError(f"{MOST} earlier calls have not ended yet")
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: Exception | None) -> None:
            if outcome.done():
                return  # nobody waits any more
            if error is not None:
                outcome.set_exception(error)
            else:
                outcome.set_result(result)  # type: ignore[arg-type] # a T where there is no error

        def work() -> None:
            result, failure = None, None
            try:
                result = call()
            except Exception as error:
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(settle, result, failure)

        thread = threading.Thread(target=work, name=self._name, daemon=True)
        self._threads.add(thread)
        thread.start()
        async with asyncio.timeout(within_s):
            return await outcome
