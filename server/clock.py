"""The clocks of the service, passed to whatever needs the time.

Every instant that is stored, or compared with one of another node, is read from a `StoreClock`: the store's own time,
which is the same for all nodes. It is sampled at the start and every EVERY_S, and carried from one sample to the next
by this machine's monotonic clock. Its wall clock is never asked, so it does not matter how wrong that is, or becomes.

On a cluster the store's time is that of the primary which has the key of the epoch. After a failover it is that of the
new primary, as if the store's clock had been set: the next sample follows it, whichever way. Where the readings are
ahead by at most SLEW_MS they run at half the speed until they are not. By more than that they go back at once: new
nodes, and devices that send instants of their own, are there already. What was stored meanwhile is then later than now
and binds nobody (`protocol.record.believed`).

Only tokens go by this machine's clock: a store whose clock is wrong must not prolong what has expired.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Self

from playhead.protocol.session import Now
from playhead.storage.store import Store, StoreUnavailable, TimeNotAllowed

logger = logging.getLogger(__name__)

Clock = Callable[[], Now]

SAMPLES = 3
"""Readings to a sample; the one with the shortest round trip counts."""
EVERY_S = 5.0
SLEW_MS = 1_000
"""How far a clock that is ahead is waited for, not set back."""
FAR_MS = 2_000
"""From here on this machine's clock is worth a warning."""


def system_clock() -> Now:
    """The machine's wall clock and its monotonic clock, ms."""
    return Now(time.time_ns() // 1_000_000, time.monotonic_ns() // 1_000_000)


class StoreClock:
    """The store's time by one process; call it for a reading.

    Args:
        store_time: asks the store for its time, ms since 1970; raises StoreUnavailable.
        machine: this machine's clocks.
        reference: whose time it is.
    """

    def __init__(
        self, store_time: Callable[[], Awaitable[int]], machine: Clock = system_clock, reference: str = "store"
    ) -> None:
        self.reference = reference
        self._store_time = store_time
        self._machine = machine
        self._ahead_of_mono = 0
        """The store's time less the monotonic clock, ms."""
        self._lead = self._lead_since = 0
        """How far the readings were ahead of the store's time, and when, by the monotonic clock."""
        self._is_far = False
        self.uncertainty_ms = 0
        """How far the last sample may be wrong: half of its round trip."""
        self._sampled = 0

    @classmethod
    async def of(cls, store: Store, machine: Clock = system_clock, *, or_machine: bool = False) -> Self:
        """The clock of this store, with its first sample.

        Args:
            or_machine: sample this machine's clock where the store's user may not ask for the store's.

        Raises:
            StoreUnavailable: no answer.
        """
        clock = cls(store.time, machine)
        try:
            await clock.start()
        except TimeNotAllowed:
            if not or_machine:
                raise

            async def machine_time() -> int:
                return machine().wall

            clock = cls(machine_time, machine, "machine")
            await clock.start()
        return clock

    async def start(self) -> None:
        """Take the first sample. Raises StoreUnavailable."""
        self._ahead_of_mono, self.uncertainty_ms = await self._measured()
        self._is_far = self.is_far

    def __call__(self) -> Now:
        mono = self._machine().mono
        return Now(self._at(mono), mono)

    @property
    def offset_ms(self) -> int:
        """How far this machine's wall clock is ahead of the store's; negative where it is behind."""
        now = self._machine()
        return now.wall - self._at(now.mono)

    @property
    def sampled_ms_ago(self) -> int:
        return self._machine().mono - self._sampled

    @property
    def is_far(self) -> bool:
        """Whether this machine's clock is worth a warning."""
        return abs(self.offset_ms) > FAR_MS

    @property
    def note(self) -> str | None:
        """What an operator should know; None where all is well."""
        return str(self) if self.is_far or self.reference == "machine" else None

    def __str__(self) -> str:
        if self.reference == "machine":
            return (
                "The store's user may not ask for its time, so records go by this machine's clock, and several nodes "
                "by several clocks: allow +time"
            )
        offset = self.offset_ms
        where = f"{abs(offset) / 1_000:.3f} s {'ahead of' if offset >= 0 else 'behind'} the store's"
        return f"This machine's clock is {where}. Records go by the store's, the expiry of tokens by this machine's"

    async def run(self) -> None:
        """Sample for ever; cancel it to stop. While the store is away the readings just go on."""
        while True:
            await asyncio.sleep(EVERY_S)
            with suppress(StoreUnavailable):
                await self.sample()

    async def sample(self) -> None:
        """Follow the store's time. Raises StoreUnavailable."""
        offset, error = await self._measured()
        self.uncertainty_ms = error
        if abs(offset - self._ahead_of_mono) > error:
            self._follow(offset)
        if self.is_far != self._is_far:
            self._is_far = not self._is_far
            logger.log(logging.WARNING if self._is_far else logging.INFO, "%s", self)

    async def _measured(self) -> tuple[int, int]:
        """The store's time less the monotonic clock, and how far that may be wrong; ms."""
        found: list[tuple[int, int]] = []
        for _ in range(SAMPLES):
            asked = self._machine().mono
            at = await self._store_time()
            answered = self._machine().mono
            found.append(((answered - asked) // 2 + 1, at - (asked + answered) // 2))
        self._sampled = answered
        error, offset = min(found)
        return offset, error

    def _follow(self, offset: int) -> None:
        mono = self._machine().mono
        ahead = self._at(mono) - (mono + offset)
        self._ahead_of_mono = offset
        self._lead, self._lead_since = (ahead, mono) if 0 < ahead <= SLEW_MS else (0, 0)
        if abs(ahead) > SLEW_MS:
            way = "back" if ahead > 0 else "on"
            why = "the store's clock was set, or this machine slept"
            logger.warning("The time of new records goes %s by %.3f s: %s", way, abs(ahead) / 1_000, why)

    def _at(self, mono: int) -> int:
        wall = mono + self._ahead_of_mono
        if self._lead:
            left = self._lead - (mono - self._lead_since) // 2
            if left > 0:
                return wall + left
            self._lead = 0
        return wall
