"""Builds the ASGI app from the settings; the only module that wires the parts together."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, nullcontext
from typing import Any
from uuid import uuid4

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from playhead.server.clock import Clock, StoreClock, system_clock
from playhead.server.lifecycle.drain import Drain, drained_first
from playhead.server.lifecycle.duration_backfill import DurationBackfill
from playhead.server.lifecycle.gc_schedule import GcSchedule
from playhead.server.limits.admission import Admission
from playhead.server.limits.body_memory import BodyMemory
from playhead.server.limits.user_locks import UserLocks
from playhead.server.problems import HANDLERS
from playhead.server.push.hub import Hub
from playhead.server.rest.bodies import BodyReader
from playhead.server.rest.health import HealthEndpoints
from playhead.server.rest.metrics import Metrics
from playhead.server.rest.pages import pages
from playhead.server.rest.progress import ProgressEndpoints
from playhead.server.rest.sessions import SessionEndpoints
from playhead.server.rest.videos import VideoEndpoints
from playhead.server.security.access import Access
from playhead.server.security.gate import Gate, cors
from playhead.server.security.public_rates import PublicRates
from playhead.server.services import Services
from playhead.server.settings import Settings
from playhead.server.socket.endpoint import SocketEndpoint
from playhead.server.transport.counts import TRAFFIC_COUNTS, TrafficCounts
from playhead.server.transport.handshake import SOCKET_PATH
from playhead.server.transport.refusals import Refusals
from playhead.server.transport.safe_headers import with_safe_headers
from playhead.storage.store import Backoff, Flusher, Outage, Store, StoreUnavailable, open_store

logger = logging.getLogger(__name__)

EXIT_CODE = 1
"""The exit code when a process ends itself. uvicorn's code for a failed start, 3, would end the other workers too."""
START_S = 30.0
"""How long a starting process waits for the store. Its parent has reached the store, so an outage is likely short."""
START_RETRY_S = 0.05, 2.0
"""The first delay between two attempts, and the longest."""


def create_store(settings: Settings) -> Store:
    """Create the store of one process, without connecting yet."""
    if settings.redis_url is None:
        raise ValueError("redis_url is not set; start the embedded store before the app and pass its URL")
    return open_store(
        settings.redis_url,
        worker=uuid4().hex,
        key_prefix=settings.key_prefix,
        threshold_permille=settings.threshold_permille,
        durability=settings.durability or "memory",
        timeout_s=settings.store_timeout_s,
        live_ms=round(3_000 * settings.heartbeat_interval_s),
        max_videos=settings.max_videos_per_user,
    )


def create_app(
    settings: Settings,
    clock: Clock | None = None,
    own_process: bool = False,
    store_restarts: Callable[[], int] = int,
    worker_restarts: Callable[[], int] = int,
    refusals: Refusals | None = None,
) -> Starlette:
    """Create the app of one process. Its lifespan connects to the store and owns every background task.

    Args:
        clock: used for all instants instead of the store's clock and this machine's.
        own_process: whether the app has the process to itself and may manage its garbage collector and signals.
        store_restarts: returns how often the embedded store was restarted.
        worker_restarts: returns how often any worker of the service was replaced after it died.
        refusals: the refusal log of the process, shared with the transport; by default the app has its own.
    """
    refused = refusals or Refusals()
    machine, given = clock or system_clock, clock
    access = Access(settings, machine)

    @asynccontextmanager
    async def lifespan(app: _App) -> AsyncIterator[dict[str, Any]]:
        store = create_store(settings)
        start = Backoff(*START_RETRY_S)
        try:
            store_clock = await _wait_for_store(store, start)
        except StoreUnavailable as error:
            await store.close()
            if own_process:  # pragma: no cover - os._exit leaves no time to write what was covered
                logger.critical("The store does not answer, exiting: %s", error)
                os._exit(EXIT_CODE)
            raise
        clock = given or store_clock
        hub, metrics = Hub(store, clock), Metrics()

        def flusher(lane: str, interval_s: float) -> Flusher:
            return Flusher(
                store,
                lane=lane,
                interval_s=interval_s,
                max_reports=settings.max_pending_reports,
                max_of_user=settings.user_pending_reports,
                now=clock,
                subscribed=hub.subscribed,
                after=hub.committed,
                timed=metrics.flush(lane),
                needs_value=hub.needs_value,
            )

        admission = Admission(settings, machine)
        lanes = flusher("heartbeats", settings.flush_interval_s), flusher("requests", 0)
        backfill = DurationBackfill(store, lanes[1], clock)
        drain = Drain(settings, lanes[0], admission)
        services = Services(
            settings, clock, access, admission, store, hub, *lanes, backfill, drain, refused, app.counts, UserLocks()
        )
        metrics.watch(
            services,
            {
                "start": lambda: start.retries,
                "commit-heartbeats": lambda: lanes[0].backoff.retries,
                "commit-requests": lambda: lanes[1].backoff.retries,
                "channels": lambda: hub.resubscriptions,
                "store-connections": lambda: store.connection_retries,
                "cluster-commands": lambda: store.command_retries,
                "durations": lambda: backfill.backoff.retries,
                "key-set": lambda: access.authenticator.failed_fetches,
                "embedded-store": store_restarts,
                "workers": worker_restarts,
            },
        )
        largest = settings.max_body_bytes
        body_memory = BodyMemory(
            max(largest, settings.max_arriving_bytes),
            max(largest, settings.max_arriving_bytes_per_user),
            max(largest, settings.max_arriving_bytes_per_address),
        )
        bodies = BodyReader(largest, settings.body_timeout_s, body_memory)
        rates = PublicRates(settings, machine)
        endpoint = SocketEndpoint(services)
        app.socket = Gate(endpoint, settings, refused)
        app.router.routes[:] = [
            *endpoint.routes(),
            *ProgressEndpoints(services, bodies).routes(),
            *VideoEndpoints(services, bodies).routes(),
            *SessionEndpoints(services).routes(),
            *rates.limited("health checks", HealthEndpoints(services).routes()),
            *metrics.routes(),
            *rates.limited("files", pages(settings.serves_demo, settings.frame_ancestors)),
        ]
        app.counts.set_routes(app.routes)
        try:
            gc_schedule = [GcSchedule().run()] if own_process else []
            async with _running(hub.run(), metrics.run(), store_clock.run(), *gc_schedule):
                async with _running(*(lane.run() for lane in lanes)), _running(backfill.run()):
                    with drained_first(drain, settings) if own_process else nullcontext():
                        yield {TRAFFIC_COUNTS: app.counts}
                drained = await asyncio.gather(*(lane.drain(drain.left_s()) for lane in lanes))
                if not all(drained):
                    logger.error("The last batch was not stored; clients will resend the reports that were not acked")
        finally:
            await store.close()

    middleware = [Middleware(Gate, settings, refused)]
    if settings.allowed_origins:
        middleware.append(Middleware(CORSMiddleware, **cors(settings)))
    app = _App(middleware=middleware, exception_handlers=HANDLERS, lifespan=lifespan)
    app.router.redirect_slashes = False  # a redirect's target would contain the Host that the request names
    return app


class _App(Starlette):
    """Routes WebSockets past the middleware that only HTTP needs, which makes reconnect storms cheaper."""

    socket: ASGIApp | None = None

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.counts = TrafficCounts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await super().__call__(scope, receive, with_safe_headers(self.counts.counting_send(scope, send)))
        elif scope["type"] == "websocket":
            to_socket = scope["path"] == SOCKET_PATH and self.socket is not None
            await (self.socket if to_socket and self.socket is not None else super().__call__)(scope, receive, send)
            self.counts.count_problem(scope, "websocket")
        else:
            await super().__call__(scope, receive, send)


@asynccontextmanager
async def _running(*coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run the coroutines as tasks during the block, and cancel them at its end."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    for task in tasks:
        task.add_done_callback(_exit_on_failure)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _wait_for_store(store: Store, backoff: Backoff) -> StoreClock:
    """Wait until the store answers and offers what the service needs. A worker may start during a short outage.

    Returns:
        A clock that follows the store's time.

    Raises:
        StoreUnavailable: the store did not answer within START_S.
    """
    until = time.monotonic() + START_S
    outage = Outage(logger, "The store does not answer, waiting for it", "The store answers")
    while True:
        try:
            await store.epoch()
            await store.settle()
            clock = await StoreClock.of(store, or_machine=True)
        except StoreUnavailable as error:
            if time.monotonic() > until:
                raise
            outage.failed(error)
            await backoff.wait()
        else:
            outage.worked()
            return clock


def _exit_on_failure(task: asyncio.Task[None]) -> None:  # pragma: no cover - as above: it ends in os._exit
    """End the process when a background task fails, which is a bug: players reconnect and resend."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("A background task failed, exiting", exc_info=error)
        os._exit(EXIT_CODE)
