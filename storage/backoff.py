"""How long a loop that failed waits before it tries again, and how often it has had to."""

import asyncio
import random


class Backoff:
    """From `least_s`, doubled each time, to `most_s`; each delay a random part of it, at least half: so many spread."""

    def __init__(self, least_s: float, most_s: float) -> None:
        self._least_s, self._most_s = least_s, most_s
        self._next_s = least_s
        self.retries = 0
        """Since the process began."""

    def next_s(self) -> float:
        """The delay of one more retry, which is counted."""
        self.retries += 1
        delay_s, self._next_s = self._next_s, min(self._most_s, 2 * self._next_s)
        return delay_s * random.uniform(0.5, 1.0)  # noqa: S311 jitter, not a secret

    async def wait(self) -> None:
        await asyncio.sleep(self.next_s())

    def reset(self) -> None:
        """It worked."""
        self._next_s = self._least_s
