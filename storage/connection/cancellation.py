"""A cancellation is never lost."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def kept_cancellation() -> Iterator[None]:
    """Raise a cancellation that came during the block and was swallowed in it.

    redis-py sends under asyncio.wait_for, which before Python 3.12 could swallow one; a task that goes on regardless
    is waited for in vain.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    yield
    if task and task.cancelling() > before:
        raise asyncio.CancelledError
