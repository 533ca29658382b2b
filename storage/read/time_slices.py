"""Time slices of the event loop for long work: each iteration of the loop runs one of them, and everything else."""

import asyncio
from collections import deque


class TimeSlices:
    """The time slices of all long work in one process.

    With `asyncio.sleep(0)` instead, all long work of the process would run in the same iteration: many such tasks would
    block the event loop as long as one task that never yields.
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def next(self) -> None:
        """Wait for the next time slice. It ends at the caller's next await."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        if len(self._waiting) == 1:
            loop.call_soon(self._start_one)
        await turn

    def _start_one(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # else the waiting task was cancelled
                turn.set_result(None)
                break
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._start_one)
