"""The graceful shutdown of a process: become unready, store and ack accepted reports, send goodbyes.

On its own uvicorn closes all sockets at once when it receives a signal, before the app is notified. Therefore this
module handles the signal first, and passes it on to uvicorn once the sockets are gone; uvicorn then finishes the
requests in progress. Until then the port stays open and new connections are asked to reconnect later, because closing
the listener would reset connections that are not accepted yet.
"""

import asyncio
import contextlib
import logging
import random
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from playhead.protocol.errors import CloseCode, Problem
from playhead.server.lifecycle.signals import HANGUP, ending, ignore_hangup
from playhead.server.lifecycle.waiters import Waiter
from playhead.server.limits.admission import Admission
from playhead.server.limits.rates import LONGEST_WAIT_S
from playhead.server.settings import Settings
from playhead.storage.store import Flusher, StoreUnavailable

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 2.0
"""Shortest delay before a player reconnects after a goodbye; the longest is twice that."""
AT_ONCE = 200
"""Sockets that are sent a goodbye after one flush; with thousands of sockets the flushes pace the goodbyes."""
PEER_S = 5.0
"""How long peers may take to read the goodbye and answer the close."""
ABORT_S = 1.0
"""How long the cleanup of aborted connections may take."""


class Drain:
    """Closes the sockets of one process before it ends.

    `drain_timeout_s` has four parts: the notice; the flushes and goodbyes; REST requests in progress, which are
    uvicorn's; and the last flush. Each but the last takes a quarter at most.
    """

    def __init__(self, settings: Settings, heartbeats: Flusher, admission: Admission) -> None:
        self._settings = settings
        self._heartbeats = heartbeats
        self._admission = admission
        self._until: float | None = None
        self.begun = False
        """Whether the service is no longer ready: load balancers should send it nothing more."""

    def left_s(self) -> float:
        """How long the last flush may take; without a drain, its quarter."""
        quarter_s = self._settings.drain_timeout_s / 4
        if self._until is None:
            return quarter_s
        return max(min(1.0, quarter_s), self._until - asyncio.get_running_loop().time() - ABORT_S)

    async def run(self, notice_s: float) -> None:
        """Close every socket; called once. When it returns no socket is left."""
        clock, quarter_s = asyncio.get_running_loop().time, self._settings.drain_timeout_s / 4
        sockets = self._admission.sockets
        self.begun, self._until = True, clock() + self._settings.drain_timeout_s
        logger.info("Draining: %d sockets are open", len(sockets))
        await asyncio.sleep(notice_s)
        self._admission.stop()
        await self._close_all(clock() + quarter_s)
        await self._wait_until_empty(min(PEER_S, quarter_s))
        if sockets:
            logger.warning("Aborted %d sockets whose peers did not read the goodbye", len(sockets))
            for socket in list(sockets):
                socket.abort()
            await self._wait_until_empty(ABORT_S)

    async def _close_all(self, until: float) -> None:
        """Ack every report that was taken before the goodbye, if the store has it in time; take none after."""
        sockets = list(self._admission.sockets)
        spread_s = min(LONGEST_WAIT_S - RETRY_AFTER_S, max(RETRY_AFTER_S, len(sockets) / self._settings.hellos_per_s))
        for start in range(0, len(sockets), AT_ONCE):
            some = sockets[start : start + AT_ONCE]
            for socket in some:
                socket.hold()
            await self._flush(until)
            for socket in some:
                retry_after_s = RETRY_AFTER_S + spread_s * random.random()  # noqa: S311 jitter, not a secret
                socket.end(Problem.RESTARTING, CloseCode.RESTART, retry_after_s)

    async def _flush(self, until: float) -> None:
        waiter = Waiter()
        self._heartbeats.touch(waiter)
        self._heartbeats.hurry()
        with contextlib.suppress(TimeoutError, StoreUnavailable):
            async with asyncio.timeout_at(until):
                await waiter.wait(self._heartbeats)

    async def _wait_until_empty(self, within_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._admission.wait_until_empty()


@contextlib.contextmanager
def drained_first(drain: Drain, settings: Settings) -> Iterator[None]:
    """Drain on the first SIGTERM, SIGINT or SIGHUP during the block, then call the previous handler of the signal.
    SIGHUP is passed on as SIGTERM, because uvicorn does not handle it.

    A second SIGTERM or SIGINT ends the process at once with exit code 128 plus its number. This does not apply to
    workers: the parent, the shell and the service manager may each send the same first signal, so the parent decides.
    SIGINT is sent by a person and skips the notice for load balancers.
    """
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()
    before: dict[int, Any] = {}

    async def end(number: int, previous: Callable[[int, FrameType | None], Any]) -> None:
        try:
            await drain.run(0 if number == signal.SIGINT else settings.drain_notice_s)
        finally:
            previous(number, None)

    def handle(number: int) -> None:
        if not tasks:
            known = signal.SIGTERM if number == HANGUP else number
            tasks.add(loop.create_task(end(known, before[known])))
        elif settings.workers == 1 and number != HANGUP:
            raise SystemExit(128 + number)

    for number in ending():
        before[number] = signal.signal(number, lambda number, _: loop.call_soon_threadsafe(handle, number))
    try:
        yield
    finally:
        for restored, handler in before.items():
            signal.signal(restored, handler)
        if tasks:
            ignore_hangup()
        for task in tasks:
            task.cancel()
