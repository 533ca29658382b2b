"""When Python looks for reference cycles: rarely, as nothing that happens often leaves one.

By itself it looks after so many allocations; a server that holds a batch of many small objects for a second makes
it look for ever, through all that is connected: a sixth of the CPU, in pauses of 100 ms and more. Connections, frames
and flushes leave no cycles (a test holds them to it), so counting references frees them. What else leaves some is
found when the memory in use has grown by half: so garbage is bounded by what is alive.
"""

import asyncio
import gc
import logging
import sys

logger = logging.getLogger(__name__)

CHECK_S = 5.0
GROWTH = 1.5
SPARE_BLOCKS = 200_000
"""Of memory, about 20 MB: not worth looking through, whatever it is."""


class GcSchedule:
    """Takes over from Python's own schedule, in this process."""

    def __init__(self) -> None:
        gc.collect()
        gc.freeze()  # modules and models: alive as long as we are
        gc.disable()
        self._blocks = sys.getallocatedblocks()

    async def run(self) -> None:
        """Look now and then, for ever; cancel it to stop."""
        while True:
            await asyncio.sleep(CHECK_S)
            self.collect_if_grown()

    def collect_if_grown(self) -> bool:
        """Collect, if memory has grown enough; whether it had."""
        if sys.getallocatedblocks() < GROWTH * self._blocks + SPARE_BLOCKS:
            return False
        found = gc.collect()
        self._blocks = sys.getallocatedblocks()
        logger.debug("Looked for cycles: %d objects were garbage", found)
        return True
