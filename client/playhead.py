"""The client's public interface.

async with playhead_client("http://127.0.0.1:8000", device="laptop", token=token) as p:
    await p.watch(video_id, played=[(0, 5)], position=5)
    async for record in p.changes():
        print(record.video_id, record.resume)
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeVar
from uuid import UUID

from playhead.client.credentials import Credentials, subject
from playhead.client.engine import Engine, Route
from playhead.client.errors import ClientError, NotStored, Rejected
from playhead.client.journal import Journal
from playhead.client.outbox import Beat, Entry, Outbox
from playhead.client.pace import Backoff, steady_clock
from playhead.client.records import Changes
from playhead.client.rest import Rest
from playhead.client.waiting import Receipt
from playhead.protocol.messages import Heartbeat, Hello, RecordView
from playhead.protocol.scalars import MAX_AGE_MS, MAX_MEDIA_S, MAX_PLAYED

logger = logging.getLogger(__name__)

T = TypeVar("T")
State = Literal["playing", "paused", "ended"]


class Playhead:
    """One device of one user, made by `playhead_client`. Use all methods in the event loop that entered it."""

    def __init__(
        self,
        route: Route,
        rest: Rest,
        credentials: Credentials,
        hello: Hello,
        outbox_path: Path | None,
        max_pending: int,
        backoff: Backoff,
        close_timeout_s: float,
    ) -> None:
        self.rest = rest
        """The REST contract: update, sync, get, get_all, delete, summary, engagement, analytics, put_video."""
        self._route = route
        self._credentials = credentials
        self._hello = hello
        self._outbox_path = outbox_path
        self._max_pending = max_pending
        self._backoff = backoff
        self._close_timeout_s = close_timeout_s
        self._clock = steady_clock()
        self._last_report_ms: int | None = None
        self._journal: Journal | None = None
        self._engine: Engine | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed: ClientError | None = None
        self._error_raised = False
        """The error that ended the client was raised to the user."""

    async def __aenter__(self) -> Self:
        """Start to connect in the background.

        Raises OutboxBusy; if only a token can tell the user, also whatever `get_token` raises.
        """
        if self._engine is not None:
            raise RuntimeError("a client can be entered only once: make another")
        if self.rest.user_id is None:
            token = await self._credentials.token()
            self.rest.user_id = subject(token) if token is not None else None
            if self.rest.user_id is None and not self._route.websocket:
                raise ValueError("user_id: HTTP requires it, and the token has no subject")
        restored = None
        if self._outbox_path is not None:
            self._journal = Journal(self._outbox_path, self.rest.user_id or "")
            restored = self._journal.restored
        outbox = Outbox(self._hello.session, self._journal, restored, self._max_pending)
        self._engine = Engine(
            self._route, self._hello, outbox, self._credentials, self.rest, self._backoff, self._clock
        )
        self._task = asyncio.create_task(self._engine.run(), name="playhead")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.aclose()
        except ClientError as ending:
            if error is None:
                raise
            logger.warning("%s", ending)

    async def aclose(self) -> None:
        """Store waiting reports, for at most `close_timeout_s`, and close.

        Raises:
            NotStored: reports were not stored, and no `outbox_path` keeps them.
            Terminal: the error that ended the client earlier, if it was not raised before.
        """
        engine, task = self._live(), self._task
        if task is None:
            return
        try:
            with contextlib.suppress(TimeoutError, ClientError):
                async with asyncio.timeout(self._close_timeout_s):
                    await engine.waiting.flushed() if engine.error is None else None
        finally:
            self._task = None
            task.cancel()
            await asyncio.wait({task})
            if self._journal is not None:
                self._journal.close()
            left = len(engine.outbox)
            self._closed = engine.error or NotStored(left)
            engine.state = "ended"
            engine.fail(self._closed)
            engine.records.close()
        if engine.error is not None and not self._error_raised:
            raise engine.error
        if left and self._journal is None and engine.error is None:
            raise NotStored(left)

    def report(
        self,
        video_id: str | UUID,
        played: Iterable[tuple[float, float]] = (),
        position: float | None = None,
        *,
        duration: float | None = None,
        state: State = "playing",
        seek: bool = False,
        age_s: float = 0.0,
        span_s: float | None = None,
    ) -> None:
        """Queue a report, which is stored as soon as possible. Never blocks.

        Args:
            played: stretches [from, to) of media time, s; what was played twice is listed twice.
            position: the current position, s of media time.
            duration: of the video, s, if it is known.
            seek: the user has moved the position, rather than playback.
            age_s: how long ago this happened.
            span_s: the wall time that the report covers. Default: the time since the last report; for the first, the
                length of what was played.

        Raises:
            ValueError: a field is not valid.
            OutboxFull: too many reports are waiting; nothing was taken.
            Terminal: the server refuses this client; nothing was taken.
        """
        self._put(_beat(video_id, played, position, duration, state, seek), age_s, span_s)

    async def watch(
        self,
        video_id: str | UUID,
        played: Iterable[tuple[float, float]] = (),
        position: float | None = None,
        *,
        duration: float | None = None,
        state: State = "playing",
        seek: bool = False,
        age_s: float = 0.0,
        span_s: float | None = None,
    ) -> Receipt:
        """Queue a report as `report` does, and wait until it is stored. If cancelled, the report stays queued.

        Raises:
            Rejected: the report will never be stored.
            Terminal, OutboxFull, ValueError: as `report`.
        """
        key = self._put(_beat(video_id, played, position, duration, state, seek), age_s, span_s)
        return await self._following(self._live().waiting.stored(key))

    async def flush(self) -> None:
        """Wait until all reports so far are stored or rejected (see `rejected`). Raises Terminal."""
        self._raise_ended()
        await self._following(self._live().waiting.flushed())

    async def refresh(self) -> None:
        """Wait until `record` has everything that the service has.

        Needed before the first `record`, to resume, and to see the effect of this device's own reports, which are not
        pushed back to it. Raises Terminal.
        """
        self._raise_ended()
        await self._following(self._live().up_to_date())

    def record(self, video_id: str | UUID) -> RecordView | None:
        """The record as last received, with media times in s and instants in ms since 1970; None if there is none."""
        return self._live().records.get(str(video_id).lower())

    def changes(self) -> Changes:
        """Records that other devices change from now on, for `async for`; a deleted one has `deleted_at`.

        Changes by this device's own reports are only included after a reconnect or a `refresh`. A slow reader gets the
        newest record of each video. Ends when the client is closed; raises Terminal.
        """
        self._raise_ended()
        return self._live().records.changes(self._why)

    @property
    def pending(self) -> tuple[Entry, ...]:
        """The reports that are not acked, oldest first."""
        return self._live().outbox.entries

    @property
    def rejected(self) -> tuple[Rejected, ...]:
        """The newest rejections of reports that nobody waited for."""
        return tuple(self._live().waiting.rejected)

    @property
    def state(self) -> str:
        """`connecting`, `online`, `http` (without a WebSocket), `offline` (until the next attempt) or `ended`."""
        return self._live().state

    @property
    def trouble(self) -> str:
        """Why the client is not online, as text for people; empty while it is."""
        return self._live().trouble

    @property
    def retries(self) -> int:
        """The number of retries so far: connections that ended or failed, and failed HTTP requests.

        Delays grow up to `backoff_s`, so a number that keeps growing fast is worth investigating.
        """
        return self._live().retries

    @property
    def session(self) -> str:
        return self._hello.session

    def _put(self, beat: Beat, age_s: float, span_s: float | None) -> int:
        """Put a report into the outbox; returns the key of its entry."""
        engine = self._live()
        self._raise_ended()
        if not 0 <= age_s <= MAX_AGE_MS / 1_000 or not 0 <= (span_s or 0) <= MAX_MEDIA_S:
            raise ValueError("age_s should be from 0 s to a year, and span_s from 0 s to 48 h")
        at_ms = self._clock() - round(age_s * 1_000)
        if span_s is not None:
            since_ms = at_ms - round(span_s * 1_000)
        elif self._last_report_ms is not None:
            since_ms = min(self._last_report_ms, at_ms)
        else:
            since_ms = at_ms - round(1_000 * sum(end - start for start, end in beat.played))
        key = engine.outbox.put(beat, since_ms, at_ms)
        self._last_report_ms = max(at_ms, self._last_report_ms or 0)
        engine.wake.set()
        return key

    async def _following(self, waiting: Awaitable[T]) -> T:
        try:
            return await waiting
        except ClientError as error:
            self._error_raised = self._error_raised or error is self._live().error
            raise

    def _live(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("the client must be entered with `async with`")
        return self._engine

    def _why(self) -> ClientError | None:
        error = self._live().error
        self._error_raised = self._error_raised or error is not None
        return error

    def _raise_ended(self) -> None:
        error = self._closed or self._live().error
        if error is not None:
            self._error_raised = True
            raise error


def _beat(
    video_id: str | UUID,
    played: Iterable[tuple[float, float]],
    position: float | None,
    duration: float | None,
    state: State,
    seek: bool,
) -> Beat:
    """A report, rounded to ms and validated by the service's own rules. Raises ValueError."""
    stretches = tuple((round(start, 3), round(end, 3)) for start, end in played)
    if any(start > end for start, end in stretches):
        raise ValueError("played: a stretch should not end before it starts")
    for first in range(0, len(stretches) or 1, MAX_PLAYED):
        checked = Heartbeat(
            seq=1,
            video_id=str(video_id),
            played=list(stretches[first : first + MAX_PLAYED]),
            position=position,
            duration=duration,
            state=state,
            seek=seek,
        )
    return Beat(
        video_id=checked.video_id,
        played=stretches,
        position=None if position is None else round(position, 3),
        duration=duration or None,
        state=state,
        seek=seek,
    )
