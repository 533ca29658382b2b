"""Runs blocking calls in daemon threads.

The event loop's own executor threads are joined when the process ends. A peer that sends one byte now and then, so that
no read ever times out, would keep such a thread busy and the process from ending. There are also few of them, so a few
such calls would block all others.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
MOST = 4
"""The most threads at a time, including those of abandoned calls; beyond it, calls are refused."""


class BlockingCalls:
    """Runs the blocking calls of one kind.

    Args:
        name: the name of the threads.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._threads: set[threading.Thread] = set()

    async def run(self, call: Callable[[], T], within_s: float) -> T:
        """Run `call` in a thread, and return or raise what it does.

        Raises:
            TimeoutError: the call has not ended in time, and continues in the background; or too many earlier calls
                still do.
        """
        self._threads = {thread for thread in self._threads if thread.is_alive()}
        if len(self._threads) >= MOST:
            raise TimeoutError(f"{MOST} earlier calls have not ended yet")
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: Exception | None) -> None:
            if outcome.done():
                return  # the caller has given up
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
            with contextlib.suppress(RuntimeError):  # the event loop is closed
                loop.call_soon_threadsafe(settle, result, failure)

        thread = threading.Thread(target=work, name=self._name, daemon=True)
        self._threads.add(thread)
        thread.start()
        async with asyncio.timeout(within_s):
            return await outcome
