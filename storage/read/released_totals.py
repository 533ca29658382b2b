"""A video's totals as callers see them who may not see single viewers: figures that change by batches of viewers.

A summary of one viewer is that viewer's record. Two summaries, before and after a viewer came or watched on, differ by
what that viewer watched. So figures are released for a whole batch of viewers at a time, and stay as they are until the
audience is larger than it was then by another batch. Watching on, leaving and coming back change nothing: whoever has k
accounts can make up k viewers of all batches together, and sees of the others sums over a batch less k.
"""

from collections.abc import Callable

from playhead.storage.connection.pipeline import Run
from playhead.storage.keys import Keys
from playhead.storage.read.totals import Totals, VideoTotals
from playhead.storage.scripts import Script
from playhead.storage.values.damage import Damaged


class ReleasedTotals:
    """What was released is kept in the store, so that all processes release the same. Raises StoreUnavailable."""

    def __init__(self, run: Run, keys: Keys, script: Callable[[str], Script], totals: VideoTotals) -> None:
        self._run = run
        self._keys = keys
        self._totals = totals
        self._script = script("release")

    async def read(self, video_id: str, batch: int) -> Totals | Damaged:
        """The totals that were released last; none with fewer viewers than a batch. With a batch of 1, those of now.

        When nobody has watched the video any more it starts anew. So does a store that was filled from an export.
        """
        now = await self._totals.read(video_id)
        if isinstance(now, Damaged) or batch == 1:
            return now
        if 0 < now.viewers < batch:
            return Totals()
        arguments = now.viewers, now.completed, now.watched, batch
        (released,) = await self._run([self._script.call([self._keys.released(video_id)], *arguments)])
        return Totals(*map(int, released))
