"""Makes sure that a cancellation is not lost."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def kept_cancellation() -> Iterator[None]:
    """Raise CancelledError if the task was cancelled during the block and the cancellation was swallowed there.

    redis-py sends under asyncio.wait_for, which could swallow a cancellation before Python 3.12. A task that continues
    regardless would be awaited forever.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    yield
    if task and task.cancelling() > before:
        raise asyncio.CancelledError
