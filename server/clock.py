"""The clocks of the service, passed to the modules that need the time.

Every instant that is stored, or compared with one of another node, is read from a `StoreClock`: the store's own time,
which is the same for all nodes. It is sampled at startup and every EVERY_S, and extrapolated between samples by this
machine's monotonic clock. The machine's wall clock is not used, so it does not matter how wrong it is or becomes.

On a cluster the store's time is that of the primary which has the epoch key. After a failover it is that of the new
primary, as if the store's clock had been set: the next sample follows it in either direction. If the readings are ahead
by at most SLEW_MS they advance at half speed until they agree. If further ahead they step back at once, because new
nodes, and devices that send their own instants, already have the new time. Instants stored in the meantime are then in
the future and do not outrank new reports (`protocol.record.clamp_instants`).

Only tokens go by this machine's clock, so that a store with a wrong clock cannot extend the life of an expired token.
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
"""Readings in a sample; the one with the shortest round trip is used."""
EVERY_S = 5.0
SLEW_MS = 1_000
"""A clock that is ahead by up to this much is slowed down instead of stepped back."""
FAR_MS = 2_000
"""An offset of this machine's clock beyond this is logged as a warning."""


def system_clock() -> Now:
    """The machine's wall clock and its monotonic clock, ms."""
    return Now(time.time_ns() // 1_000_000, time.monotonic_ns() // 1_000_000)


class StoreClock:
    """The store's time as one process knows it; call the object for a reading.

    Args:
        store_time: asks the store for its time, ms since 1970; raises StoreUnavailable.
        machine: this machine's clocks.
        reference: whose time this is, "store" or "machine".
    """

    def __init__(
        self, store_time: Callable[[], Awaitable[int]], machine: Clock = system_clock, reference: str = "store"
    ) -> None:
        self.reference = reference
        self._store_time = store_time
        self._machine = machine
        self._ahead_of_mono = 0
        """The store's time minus the monotonic clock, ms."""
        self._lead = self._lead_since = 0
        """How far the readings were ahead of the store's time, ms, and when that was, by the monotonic clock."""
        self._is_far = False
        self.uncertainty_ms = 0
        """The error bound of the last sample: half of its round trip."""
        self._sampled = 0

    @classmethod
    async def of(cls, store: Store, machine: Clock = system_clock, *, or_machine: bool = False) -> Self:
        """Create the clock of this store and take its first sample.

        Args:
            or_machine: use this machine's clock if the store's ACL does not permit TIME.

        Raises:
            StoreUnavailable: the store does not answer.
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
        """Whether this machine's clock is off by more than FAR_MS."""
        return abs(self.offset_ms) > FAR_MS

    @property
    def note(self) -> str | None:
        """A sentence for the operator; None if all is well."""
        return str(self) if self.is_far or self.reference == "machine" else None

    def __str__(self) -> str:
        if self.reference == "machine":
            return (
                "The store's ACL does not permit TIME, so records are timestamped by this machine's clock, and each "
                "node uses its own: allow +time"
            )
        offset = self.offset_ms
        where = f"{abs(offset) / 1_000:.3f} s {'ahead of' if offset >= 0 else 'behind'} the store's"
        return f"This machine's clock is {where}. Records use the store's clock, the expiry of tokens this machine's"

    async def run(self) -> None:
        """Take samples until cancelled. During an outage of the store the readings continue without them."""
        while True:
            await asyncio.sleep(EVERY_S)
            with suppress(StoreUnavailable):
                await self.sample()

    async def sample(self) -> None:
        """Take a sample and adjust to it. Raises StoreUnavailable."""
        offset, error = await self._measured()
        self.uncertainty_ms = error
        if abs(offset - self._ahead_of_mono) > error:
            self._follow(offset)
        if self.is_far != self._is_far:
            self._is_far = not self._is_far
            logger.log(logging.WARNING if self._is_far else logging.INFO, "%s", self)

    async def _measured(self) -> tuple[int, int]:
        """The store's time minus the monotonic clock, and the error bound of that; ms."""
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
            way = "back" if ahead > 0 else "forward"
            why = "the store's clock was set, or this machine was suspended"
            logger.warning("The time of new records steps %s by %.3f s: %s", way, abs(ahead) / 1_000, why)

    def _at(self, mono: int) -> int:
        wall = mono + self._ahead_of_mono
        if self._lead:
            left = self._lead - (mono - self._lead_since) // 2
            if left > 0:
                return wall + left
            self._lead = 0
        return wall
