"""Brings a video's new duration to the records of those who watched it before, and may never report again.

A record takes the catalogue's duration over with its next report. Here everybody gets one that says nothing else: it is
as old as what the record knows, so by the usual rules it changes the duration, what follows from it, and no more.
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
"""The first delay and the longest. It never gives up: nothing else tells old records of the duration."""
PATIENCE_S = 2.0
MAX_VIDEOS = 1_000
"""Videos that may wait, beside the one at work; another new duration is refused before it is written."""


class DurationBackfill:
    """Works through the videos whose duration has changed, one after another, some learners at a time.

    If the process ends meanwhile, the rest take it over with their next report, or when another duration is put.
    """

    def __init__(self, store: Store, lane: Flusher, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._lane = lane
        self._videos: dict[str, asyncio.Event] = {}
        """Those whose records don't have it yet, and who waits for them."""
        self._being_written = 0
        self._wake = asyncio.Event()
        self.backoff = Backoff(*RETRY_S)
        self._outage = Outage(logger, "New durations reach records later", "New durations reach records again")

    @contextlib.asynccontextmanager
    async def changing(self, video_id: str) -> AsyncIterator[None]:
        """Write a new duration to the catalogue within it. It ends when the records have it, or after PATIENCE_S; then
        it goes on alone.

        Raises:
            PeerError: too many wait already. Nothing was written; try again.
        """
        if len(self._videos) + self._being_written >= MAX_VIDEOS and video_id not in self._videos:
            raise PeerError(Problem.UNAVAILABLE, "too many videos' records still lack their new duration")
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
        """Work for ever; cancel it to stop."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._videos:
                video_id, done = next(iter(self._videos.items()))
                del self._videos[video_id]
                try:
                    await self._bring(video_id)
                except (StoreUnavailable, Full) as error:
                    self._outage.failed("too many reports wait" if isinstance(error, Full) else error)
                    self._videos.setdefault(video_id, done)
                    await self.backoff.wait()
                else:
                    self.backoff.reset()
                    self._outage.worked()
                    done.set()

    async def _bring(self, video_id: str) -> None:
        async for user_ids in self._store.viewers(video_id):
            waiter = Waiter()
            for user_id, record in zip(user_ids, await self._store.records(user_ids, video_id), strict=True):
                at = 0 if isinstance(record, Damaged) else record.last_watched
                if at:
                    at = min(at, self._clock().wall)  # another would have the whole batch believe it
                    self._lane.add(user_id, video_id, Report(first_at=at, at=at), waiter)
            self._lane.touch(waiter)
            self._lane.hurry()
            await waiter.wait(self._lane)
