"""Long work in pieces: in one round of the event loop runs one of them, whoever's they are, and then everybody else."""

import asyncio
from collections import deque


class Pieces:
    """The pieces of one process' long work.

    A piece that merely yields to the loop shares its next round with those of all others who do long work: so many of
    them hold up everybody as long as one in a single piece.
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def next(self) -> None:
        """Wait until it is this piece's turn; what follows without a wait is the piece."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        if len(self._waiting) == 1:
            loop.call_soon(self._start_one)
        await turn

    def _start_one(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # else whoever waited is gone
                turn.set_result(None)
                break
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._start_one)
