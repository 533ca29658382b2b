"""Schedules Python's cyclic garbage collector: rarely, because nothing that happens often creates reference cycles.

By default Python collects after a number of allocations. A server that holds batches of many small objects for a second
then collects all the time, scanning everything that belongs to its connections: a sixth of the CPU, in pauses of 100 ms
and more. Connections, frames and flushes create no cycles (a test checks it), so reference counting frees them. The
cycles of everything else are collected when memory use has grown by half, so garbage is bounded by the live memory.
"""

import asyncio
import gc
import logging
import sys

logger = logging.getLogger(__name__)

CHECK_S = 5.0
GROWTH = 1.5
SPARE_BLOCKS = 200_000
"""Growth by fewer blocks, about 20 MB, is not worth a collection."""


class GcSchedule:
    """Replaces Python's own collection schedule in this process."""

    def __init__(self) -> None:
        gc.collect()
        gc.freeze()  # modules and models, which live as long as the process
        gc.disable()
        self._blocks = sys.getallocatedblocks()

    async def run(self) -> None:
        """Check every CHECK_S until cancelled."""
        while True:
            await asyncio.sleep(CHECK_S)
            self.collect_if_grown()

    def collect_if_grown(self) -> bool:
        """Collect if memory has grown enough, and return whether it had."""
        if sys.getallocatedblocks() < GROWTH * self._blocks + SPARE_BLOCKS:
            return False
        found = gc.collect()
        self._blocks = sys.getallocatedblocks()
        logger.debug("Garbage collection freed %d objects", found)
        return True
