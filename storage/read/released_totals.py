"""Totals of a video for callers who may not see single viewers: they change by whole batches of viewers.

A summary of one viewer is that viewer's record. Two summaries, from before and after a viewer watched, differ by what
that viewer watched. So totals are released for a whole batch of viewers at a time, and stay the same until the audience
has grown by another batch. Watching more, leaving and returning change nothing: a caller with k accounts can be k
viewers of all batches together, and sees of the others only sums over a batch less k.
"""

from collections.abc import Callable

from playhead.storage.connection.pipeline import Run
from playhead.storage.keys import Keys
from playhead.storage.read.totals import Totals, VideoTotals
from playhead.storage.scripts import Script
from playhead.storage.values.damage import Damaged


class ReleasedTotals:
    """Totals that are released in batches. They are kept in the store, so that all processes release the same.

    Every method raises StoreUnavailable if the store does not answer.
    """

    def __init__(self, run: Run, keys: Keys, script: Callable[[str], Script], totals: VideoTotals) -> None:
        self._run = run
        self._keys = keys
        self._totals = totals
        self._script = script("release")

    async def read(self, video_id: str, batch: int) -> Totals | Damaged:
        """Read the totals that were released last; all 0 below one batch of viewers. A batch of 1 releases all totals.

        The releases start again when the video has no viewers any more, and in a store that was filled by an import.
        """
        now = await self._totals.read(video_id)
        if isinstance(now, Damaged) or batch == 1:
            return now
        if 0 < now.viewers < batch:
            return Totals()
        arguments = now.viewers, now.completed, now.watched, batch
        (released,) = await self._run([self._script.call([self._keys.released(video_id)], *arguments)])
        return Totals(*map(int, released))
