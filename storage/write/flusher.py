"""Takes the running batch on a schedule and commits it; tells everyone who waits.

Invariant: one batch at a time, and a batch is told "stored" only after the store has it. While the store is away the
batch on its way is tried again and again, unchanged, and the next one fills behind it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from playhead.protocol.record import Outcome, Report
from playhead.protocol.session import Now
from playhead.storage.backoff import Backoff
from playhead.storage.errors import StoreUnavailable
from playhead.storage.outage import Outage
from playhead.storage.write.pending import Batch, Committed, Origin, Pending, Wanted

logger = logging.getLogger(__name__)

GATHER_S = 0.001
"""Without an interval, and where requests come together: what the first waits for the others, so that they share."""
RETRY_S = 0.05, 2.0
"""The first delay and the longest. It never gives up: what waits is bounded, and whoever waits has deadlines."""
AT_ONCE = 200
"""Origins that are told without a break."""


class Committing(Protocol):
    """A store, as far as a flusher uses it."""

    async def commit(self, batch: Batch, now: int, subscribed: Callable[[str], bool], wanted: Wanted) -> Committed:
        """As `Store.commit`."""
        ...


class Flusher:
    """One batch after another, from memory to the store.

    Args:
        lane: its name in the log.
        interval_s: how long an ack takes at most, while the store keeps up; 0 flushes as soon as something waits
            (what comes during a commit shares the next).
        max_reports: reports that may wait; half as many flush at once.
        max_of_user: reports of one user that may wait; by default as many.
        subscribed: whether this process listens to a user's channel.
        after: told each batch that was stored, before the origins are.
        wanted: whose records' values the store is asked for.
        timed: told how many seconds each flush took, until all were told.
    """

    def __init__(
        self,
        store: Committing,
        *,
        lane: str = "heartbeats",
        interval_s: float,
        max_reports: int,
        now: Callable[[], Now],
        subscribed: Callable[[str], bool],
        after: Callable[[Batch, Committed], Awaitable[None]],
        wanted: Wanted = lambda user_id, origins: True,
        timed: Callable[[float], None] = lambda _: None,
        max_of_user: int | None = None,
    ) -> None:
        self._store = store
        self.interval_s = interval_s
        self._large = max(1, max_reports // 2)
        self._now = now
        self._subscribed = subscribed
        self._wanted = wanted
        self._after = after
        self._timed = timed
        self.backoff = Backoff(*RETRY_S)
        self._outage = Outage(
            logger, f"The store takes no {lane}, they wait in memory", f"The store takes {lane} again"
        )
        self._pending = Pending(max_reports, now().wall, max_of_user)
        self._wake = asyncio.Event()
        self._batch: Batch | None = None
        self._company = False
        """Whether several shared the last batch."""
        self.trouble: StoreUnavailable | None = None
        """Why the batch on its way isn't stored yet; None while all is well."""

    def add(self, user_id: str, video_id: str, op: Report | int, origin: Origin) -> bool:
        """Merge into the running batch; whether it is the first of its record there.

        Raises Full, and takes nothing, where there is no room.
        """
        if not len(self._pending):
            self._pending.begin(self._now().wall)
        first = self._pending.add(user_id, video_id, op, origin)
        if not self.interval_s or len(self._pending) >= self._large:
            self._wake.set()
        return first

    def check_room(self, user_id: str, reports: int) -> None:
        """Raises Full where there is no room for so many reports of this user."""
        self._pending.check_room(user_id, reports)

    def keep_together(self, user_id: str, videos: Iterable[str]) -> None:
        """The new ones among these records, just added with the `seq` IN_SYNC, begin all or none."""
        self._pending.keep_together(user_id, videos)

    @property
    def waiting(self) -> int:
        """Reports that wait for the next flush."""
        return len(self._pending)

    def touch(self, origin: Origin) -> None:
        """The next flush owes `origin` a word."""
        self._pending.touch(origin)

    def hurry(self) -> None:
        """Flush now, not when the interval is over."""
        self._wake.set()

    def forget(self, origin: Origin) -> None:
        """`origin` is gone; what it reported stays."""
        self._pending.forget(origin)
        if self._batch is not None:
            self._batch.origins.pop(origin, None)

    async def run(self) -> None:
        """Flush for ever; cancel it to stop. A commit that is cut off is made again by `drain`.

        Times run from the start of a flush to that of the next, however long the commit takes.
        """
        loop = asyncio.get_running_loop()
        due = loop.time() + self.interval_s
        while True:
            if self.interval_s:
                try:
                    async with asyncio.timeout_at(due):
                        await self._wake.wait()
                except TimeoutError:
                    pass
            else:
                await self._wake.wait()
                if self._company:
                    await asyncio.sleep(GATHER_S)
            self._wake.clear()
            began = loop.time()
            await self._flush()
            due = began + until_next(self.interval_s, loop.time() - began)

    async def drain(self, timeout_s: float) -> bool:
        """Store all that waits; False where the store would not have it in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._batch is not None or len(self._pending):
                    await self._flush()
        except TimeoutError:
            return False
        return True

    async def _flush(self) -> None:
        if self._batch is None:
            batch = self._pending.take(self._now().wall)
            if not batch:
                return
            self._batch = batch
        self._company = len(self._batch.origins) > 1
        loop = asyncio.get_running_loop()
        began = loop.time()
        committed = await self._commit(self._batch)
        await self._tell(self._batch, committed)
        self._batch = None
        self._timed(loop.time() - began)

    async def _commit(self, batch: Batch) -> Committed:
        while True:
            try:
                committed = await self._store.commit(batch, self._now().wall, self._subscribed, self._wanted)
            except StoreUnavailable as error:
                self._outage.failed(error)
                self.trouble = error
                await self.backoff.wait()
            else:
                self.backoff.reset()
                self._outage.worked()
                self.trouble = None
                return committed

    async def _tell(self, batch: Batch, committed: Committed) -> None:
        """Everyone, some at a time: thousands of acks in one go would hold up whoever sends meanwhile."""
        for key, result in committed.results.items():
            codes = result.outcomes
            for i in range(0, len(codes), 2):
                delta = batch.deltas[key]
                for origin in delta.origins:
                    origin.outcome(delta.ops[codes[i]], Outcome(codes[i + 1]))
        await self._after(batch, committed)
        waiting, origins = batch.origins, list(batch.origins)
        for first in range(0, len(origins), AT_ONCE):
            for origin in origins[first : first + AT_ONCE]:
                if waiting.pop(origin, origin) is None:  # else it is gone since
                    origin.stored(committed)
            await asyncio.sleep(0)
        freed = list(batch.deltas.values())
        batch.deltas.clear()
        while freed:
            del freed[-AT_ONCE:]  # thousands at once would take their time too
            await asyncio.sleep(0)


def until_next(interval_s: float, took_s: float) -> float:
    """How long after the start of a flush that took `took_s` the next one starts.

    Sooner than the interval by as much, for what comes right after a start waits for all of the next flush too. By half
    of it at most: a store that is slow shall not be asked ever more often.
    """
    return interval_s - min(took_s, interval_s / 2)
