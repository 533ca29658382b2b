"""Let REST requests wait until a flusher has stored their reports and deletions."""

import asyncio
from collections.abc import Sequence

from playhead.protocol.messages import Ack
from playhead.protocol.record import Outcome, Report
from playhead.protocol.session import Sessions
from playhead.storage.store import Committed, Flusher, StoreUnavailable

PATIENCE_S = 15.0
"""Longest wait for a commit that is due. Then the client is asked to retry: the report was stored, or will be."""

LATER = 1 << 62
"""ms since 1970, after any report: a request reports what is already over, and may have been sent elsewhere before."""


class Waiter:
    """A flusher's reporter that a request awaits."""

    since = LATER

    def __init__(self) -> None:
        self._stored: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()

    def committing(self) -> None:
        """Called when the batch with this request's ops is sent to the store."""

    def outcome(self, op: Report | int, outcome: Outcome) -> None:
        """Called with the store's outcome for an op, unless it is JOINED."""

    def stored(self, committed: Committed) -> None:
        if not self._stored.done():
            self._stored.set_result(committed)

    async def wait(self, lane: Flusher) -> Committed:
        """Wait for the commit. Raises StoreUnavailable if the store takes too long."""
        try:
            async with asyncio.timeout(lane.interval_s + PATIENCE_S):
                return await self._stored
        except TimeoutError:
            raise StoreUnavailable(str(lane.trouble or "no answer in time")) from None
        finally:
            lane.forget(self)


class OpsWaiter(Waiter):
    """Waits for several ops of one user and keeps the outcome of each."""

    def __init__(self, user_id: str, ops: Sequence[tuple[str, Report | int]]) -> None:
        super().__init__()
        self._user_id = user_id
        self._ops = ops
        self._index = {id(op): index for index, (_, op) in enumerate(ops)}
        self.outcomes = [Outcome.JOINED] * len(ops)

    def outcome(self, op: Report | int, outcome: Outcome) -> None:
        if (index := self._index.get(id(op))) is not None:
            self.outcomes[index] = outcome

    async def commit(self, lane: Flusher, together: bool = False) -> Committed:
        """Add the ops to the flusher's batch and wait until they are stored.

        Args:
            together: create the new records of these ops all or none; the `seq` of the ops must be IN_SYNC.

        Raises:
            Full: too many reports are waiting; none of the ops was added.
            StoreUnavailable: the store takes too long. The same ops may be sent again.
        """
        lane.check_room(self._user_id, len(self._ops))
        for video_id, op in self._ops:
            lane.add(self._user_id, video_id, op, self)
        if together:
            lane.keep_together(self._user_id, (video_id for video_id, _ in self._ops))
        return await self.wait(lane)


class EnvelopeWaiter(Waiter):
    """Waits for the heartbeats of an envelope and keeps their acks."""

    def __init__(self, sessions: Sessions) -> None:
        super().__init__()
        self._sessions = sessions
        self.acks: list[Ack] = []

    def committing(self) -> None:
        self._sessions.committing()

    def outcome(self, op: Report | int, outcome: Outcome) -> None:
        if isinstance(op, Report):
            self._sessions.outcome(op.session, op.seqs, outcome)

    def stored(self, committed: Committed) -> None:
        self.acks = list(self._sessions.stored())
        super().stored(committed)


async def barrier(lane: Flusher) -> None:
    """Wait until everything added to `lane` so far is stored. Raises StoreUnavailable."""
    waiter = Waiter()
    lane.touch(waiter)
    lane.hurry()
    await waiter.wait(lane)
