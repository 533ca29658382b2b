"""Delays between the attempts of a retry loop, and how many retries it has made."""

import asyncio
import random


class Backoff:
    """Exponential backoff with jitter.

    The delay starts at `least_s` and doubles up to `most_s`. Each wait is a random part of it, at least half, so that
    the retries of many clients spread out.
    """

    def __init__(self, least_s: float, most_s: float) -> None:
        self._least_s, self._most_s = least_s, most_s
        self._next_s = least_s
        self.retries = 0
        """Since the process started."""

    def next_s(self) -> float:
        """Count one more retry and return its delay."""
        self.retries += 1
        delay_s, self._next_s = self._next_s, min(self._most_s, 2 * self._next_s)
        return delay_s * random.uniform(0.5, 1.0)  # noqa: S311 jitter, not a secret

    async def wait(self) -> None:
        """Sleep for the delay of one more retry."""
        await asyncio.sleep(self.next_s())

    def reset(self) -> None:
        """Start again from `least_s`, after an attempt that succeeded."""
        self._next_s = self._least_s
