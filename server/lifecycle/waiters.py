"""Requests that wait until what they brought is stored."""

import asyncio
from collections.abc import Sequence

from playhead.protocol.messages import Ack
from playhead.protocol.record import Outcome, Report
from playhead.protocol.session import Sessions
from playhead.storage.store import Committed, Flusher, StoreUnavailable

PATIENCE_S = 15.0
"""Longest wait for a commit that is due; after it the client is told to try again: it was stored, or will be."""

LATER = 1 << 62
"""ms since 1970. A request comes when all that it tells is over, and perhaps was told elsewhere before."""


class Waiter:
    """A flusher's origin that somebody awaits."""

    since = LATER

    def __init__(self) -> None:
        self._stored: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()

    def taken(self) -> None:
        """The one batch that the request is in has left."""

    def outcome(self, op: Report | int, outcome: Outcome) -> None:
        """The store's word on an op, where it is not "joined"."""

    def stored(self, committed: Committed) -> None:
        if not self._stored.done():
            self._stored.set_result(committed)

    async def wait(self, lane: Flusher) -> Committed:
        """Raises StoreUnavailable where the store takes too long."""
        try:
            async with asyncio.timeout(lane.interval_s + PATIENCE_S):
                return await self._stored
        except TimeoutError:
            raise StoreUnavailable(str(lane.trouble or "no answer in time")) from None
        finally:
            lane.forget(self)


class OpsWaiter(Waiter):
    """Waits for some ops of one user and keeps what became of each."""

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
        """Raises Full, and takes nothing, or StoreUnavailable; then the same ops may be sent again.

        Args:
            together: the new records of these items begin all or none; their `seq` is IN_SYNC.
        """
        lane.check_room(self._user_id, len(self._ops))
        for video_id, op in self._ops:
            lane.add(self._user_id, video_id, op, self)
        if together:
            lane.keep_together(self._user_id, (video_id for video_id, _ in self._ops))
        return await self.wait(lane)


class EnvelopeWaiter(Waiter):
    """Waits for an envelope of heartbeats and keeps its acks."""

    def __init__(self, sessions: Sessions) -> None:
        super().__init__()
        self._sessions = sessions
        self.acks: list[Ack] = []

    def taken(self) -> None:
        self._sessions.taken()

    def outcome(self, op: Report | int, outcome: Outcome) -> None:
        if isinstance(op, Report):
            self._sessions.outcome(op.session, op.seqs, outcome)

    def stored(self, committed: Committed) -> None:
        self.acks = list(self._sessions.stored())
        super().stored(committed)


async def barrier(lane: Flusher) -> None:
    """All that `lane` has taken so far is stored; raises StoreUnavailable."""
    waiter = Waiter()
    lane.touch(waiter)
    lane.hurry()
    await waiter.wait(lane)
