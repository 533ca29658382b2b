"""Commits the pending batch on a schedule, and notifies the reporters of its reports.

Invariant: one batch is committed at a time, and its reporters are notified only after the store has it. While the store
is unavailable the commit is retried with the same batch, and the next batch fills.
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
from playhead.storage.write.pending import Batch, Committed, NeedsValue, Pending, Reporter

logger = logging.getLogger(__name__)

GATHER_S = 0.001
"""Without an interval, if requests arrive together: how long the first one waits for others to share its commit."""
RETRY_S = 0.05, 2.0
"""The first delay and the longest. Retries never end: pending reports are bounded, and callers have deadlines."""
NOTIFIED_AT_ONCE = 200
"""Reporters that are notified before other tasks may run."""


class Committing(Protocol):
    """The part of a store that a flusher uses."""

    async def commit(
        self, batch: Batch, now: int, subscribed: Callable[[str], bool], needs_value: NeedsValue
    ) -> Committed:
        """As `Store.commit`."""
        ...


class Flusher:
    """Writes one batch after another to the store.

    Args:
        lane: its name in the log.
        interval_s: the longest time to an ack while the store keeps up; 0 flushes as soon as something is pending
            (whatever arrives during a commit shares the next one).
        max_reports: reports that may be pending; half as many start a flush.
        max_of_user: reports of one user that may be pending; max_reports by default.
        subscribed: whether this process is subscribed to a user's channel.
        after: called with each stored batch before its reporters are notified.
        needs_value: which records' values the store should return.
        timed: called with the duration of each flush, s, notifications included.
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
        needs_value: NeedsValue = lambda user_id, reporters: True,
        timed: Callable[[float], None] = lambda _: None,
        max_of_user: int | None = None,
    ) -> None:
        self._store = store
        self.interval_s = interval_s
        self._large = max(1, max_reports // 2)
        self._now = now
        self._subscribed = subscribed
        self._needs_value = needs_value
        self._after = after
        self._timed = timed
        self.backoff = Backoff(*RETRY_S)
        self._outage = Outage(
            logger, f"The store does not accept {lane}; they wait in memory", f"The store accepts {lane} again"
        )
        self._pending = Pending(max_reports, now().wall, max_of_user)
        self._wake = asyncio.Event()
        self._batch: Batch | None = None
        self._shared = False
        """Whether the last batch had several reporters."""
        self.trouble: StoreUnavailable | None = None
        """Why the last attempt to commit failed; None if it succeeded."""

    def add(self, user_id: str, video_id: str, op: Report | int, reporter: Reporter) -> bool:
        """Add an op to the pending batch. Returns whether it is the first of its record there.

        Raises:
            Full: there is no room; nothing was added.
        """
        if not len(self._pending):
            self._pending.begin(self._now().wall)
        first = self._pending.add(user_id, video_id, op, reporter)
        if not self.interval_s or len(self._pending) >= self._large:
            self._wake.set()
        return first

    def check_room(self, user_id: str, reports: int) -> None:
        """Raises Full: there is no room for this many reports of the user."""
        self._pending.check_room(user_id, reports)

    def keep_together(self, user_id: str, videos: Iterable[str]) -> None:
        """Create all or none of the new records among these, which were just added with the `seq` IN_SYNC."""
        self._pending.keep_together(user_id, videos)

    @property
    def waiting(self) -> int:
        """The number of reports that wait for the next flush."""
        return len(self._pending)

    def touch(self, reporter: Reporter) -> None:
        """Notify `reporter` after the next flush."""
        self._pending.touch(reporter)

    def hurry(self) -> None:
        """Flush now instead of at the end of the interval."""
        self._wake.set()

    def forget(self, reporter: Reporter) -> None:
        """Don't notify `reporter` any more; its reports are kept."""
        self._pending.forget(reporter)
        if self._batch is not None:
            self._batch.reporters.pop(reporter, None)

    async def run(self) -> None:
        """Flush until cancelled. `drain` repeats a commit that was interrupted.

        Intervals run from the start of one flush to the start of the next, however long the commit takes.
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
                if self._shared:
                    await asyncio.sleep(GATHER_S)
            self._wake.clear()
            began = loop.time()
            await self._flush()
            due = began + until_next(self.interval_s, loop.time() - began)

    async def drain(self, timeout_s: float) -> bool:
        """Store everything that is pending. Returns False if that was not possible in time."""
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
        self._shared = len(self._batch.reporters) > 1
        loop = asyncio.get_running_loop()
        began = loop.time()
        committed = await self._commit(self._batch)
        await self._notify(self._batch, committed)
        self._batch = None
        self._timed(loop.time() - began)

    async def _commit(self, batch: Batch) -> Committed:
        while True:
            try:
                committed = await self._store.commit(batch, self._now().wall, self._subscribed, self._needs_value)
            except StoreUnavailable as error:
                self._outage.failed(error)
                self.trouble = error
                await self.backoff.wait()
            else:
                self.backoff.reset()
                self._outage.worked()
                self.trouble = None
                return committed

    async def _notify(self, batch: Batch, committed: Committed) -> None:
        """Notify all reporters, some at a time: thousands of acks without a break would delay other tasks."""
        for key, result in committed.results.items():
            codes = result.outcomes
            for i in range(0, len(codes), 2):
                delta = batch.deltas[key]
                for reporter in delta.reporters:
                    reporter.outcome(delta.ops[codes[i]], Outcome(codes[i + 1]))
        await self._after(batch, committed)
        waiting, reporters = batch.reporters, list(batch.reporters)
        for first in range(0, len(reporters), NOTIFIED_AT_ONCE):
            for reporter in reporters[first : first + NOTIFIED_AT_ONCE]:
                if waiting.pop(reporter, reporter) is None:  # otherwise it was forgotten meanwhile
                    reporter.stored(committed)
            await asyncio.sleep(0)
        freed = list(batch.deltas.values())
        batch.deltas.clear()
        while freed:
            del freed[-NOTIFIED_AT_ONCE:]  # freeing thousands at once would also take long
            await asyncio.sleep(0)


def until_next(interval_s: float, took_s: float) -> float:
    """The time from the start of a flush that took `took_s` to the start of the next one.

    It is shorter than the interval by that duration, since a report that arrives right after a start also waits for all
    of the next flush. By half of the interval at most, so that a slow store is not flushed ever faster.
    """
    return interval_s - min(took_s, interval_s / 2)
