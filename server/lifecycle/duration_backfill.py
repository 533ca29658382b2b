"""Writes a video's new duration to existing records, including those of learners who may never report again.

A record adopts the catalogue's duration with its next report. The backfill sends each record an empty report with the
record's own `lastWatched`, so by the usual rules only the duration and the values derived from it change.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from playhead.protocol.errors import PeerError, Problem
from playhead.protocol.record import Report
from playhead.server.clock import Clock
from playhead.server.lifecycle.waiters import Waiter
from playhead.storage.store import Backoff, Damaged, Flusher, Full, Outage, Store, StoreUnavailable

logger = logging.getLogger(__name__)

RETRY_S = 0.5, 30.0
"""The first delay and the longest. Retries never end, because nothing else updates old records."""
PATIENCE_S = 2.0
"""How long the request that changes a duration waits for the records."""
MAX_VIDEOS = 1_000
"""Videos that may wait, besides the current one; beyond it a new duration is refused before it is written."""


class DurationBackfill:
    """Updates the records of videos whose duration has changed, one video at a time, in batches of learners.

    If the process ends before it is done, the remaining records adopt the duration with their next report, or when
    another duration is put.
    """

    def __init__(self, store: Store, lane: Flusher, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._lane = lane
        self._videos: dict[str, asyncio.Event] = {}
        """Videos whose records still have the old duration, each with the event set when they are updated."""
        self._being_written = 0
        self._wake = asyncio.Event()
        self.backoff = Backoff(*RETRY_S)
        self._outage = Outage(
            logger, "Writing new durations to records is delayed", "New durations are written to records again"
        )

    @contextlib.asynccontextmanager
    async def changing(self, video_id: str) -> AsyncIterator[None]:
        """Context manager in which the caller writes a video's new duration to the catalogue.

        Leaving it waits until the records are updated, for at most PATIENCE_S; after that the backfill continues in the
        background.

        Raises:
            PeerError: too many videos wait already. Nothing was written; the client may retry.
        """
        if len(self._videos) + self._being_written >= MAX_VIDEOS and video_id not in self._videos:
            detail = "too many videos wait for their new duration to be written to existing records"
            raise PeerError(Problem.UNAVAILABLE, detail)
        self._being_written += 1
        try:
            yield
        finally:
            self._being_written -= 1
        done = self._videos.setdefault(video_id, asyncio.Event())
        self._wake.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await done.wait()

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._videos:
                video_id, done = next(iter(self._videos.items()))
                del self._videos[video_id]
                try:
                    await self._update_records(video_id)
                except (StoreUnavailable, Full) as error:
                    self._outage.failed("too many reports wait" if isinstance(error, Full) else error)
                    self._videos.setdefault(video_id, done)
                    await self.backoff.wait()
                else:
                    self.backoff.reset()
                    self._outage.worked()
                    done.set()

    async def _update_records(self, video_id: str) -> None:
        async for user_ids in self._store.viewers(video_id):
            waiter = Waiter()
            for user_id, record in zip(user_ids, await self._store.records(user_ids, video_id), strict=True):
                at = 0 if isinstance(record, Damaged) else record.last_watched
                if at:
                    at = min(at, self._clock().wall)  # a future instant would count as true for the whole batch
                    self._lane.add(user_id, video_id, Report(first_at=at, at=at), waiter)
            self._lane.touch(waiter)
            self._lane.hurry()
            await waiter.wait(self._lane)
