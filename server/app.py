"""The only place that wires: settings in, an ASGI app out."""

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
from playhead.server.lifecycle.duration_backfill import Durations
from playhead.server.lifecycle.gc_schedule import Garbage
from playhead.server.limits.admission import Admission
from playhead.server.limits.body_memory import ArrivingBodies
from playhead.server.limits.turns import Turns
from playhead.server.problems import HANDLERS
from playhead.server.push.hub import Hub
from playhead.server.rest.bodies import BodyReader
from playhead.server.rest.health import HealthEndpoints
from playhead.server.rest.metrics import Metrics
from playhead.server.rest.pages import pages
from playhead.server.rest.progress import ProgressEndpoints
from playhead.server.rest.sessions import OperationEndpoints
from playhead.server.rest.videos import VideoEndpoints
from playhead.server.security.access import Access
from playhead.server.security.gate import Gate, cors
from playhead.server.security.public_rates import PublicRates
from playhead.server.services import Services
from playhead.server.settings import Settings
from playhead.server.socket.endpoint import SocketEndpoint
from playhead.server.transport.counts import TALLY, Tally
from playhead.server.transport.handshake import SOCKET_PATH
from playhead.server.transport.refusals import Refusals
from playhead.server.transport.safe_headers import with_safe_headers
from playhead.storage.backoff import Backoff
from playhead.storage.keys import Keys
from playhead.storage.outage import Outage
from playhead.storage.store import Store, StoreUnavailable
from playhead.storage.write.flusher import Flusher

logger = logging.getLogger(__name__)

START_S = 30.0
"""For the store to answer a process that starts: its parent has met it, so it is away for a moment."""
START_RETRY_S = 0.05, 2.0


def create_store(settings: Settings) -> Store:
    """The store of one process; nothing is connected yet."""
    if settings.redis_url is None:
        raise ValueError("redis_url: whoever starts the app starts the embedded store first")
    return Store(
        settings.redis_url,
        worker=uuid4().hex,
        keys=Keys(settings.key_prefix),
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
    """One process of the service. Its lifespan connects to the store and owns every background task.

    Args:
        clock: for all instants, in the place of the store's and of this machine's clocks.
        own_process: nothing else lives in this process, so its memory and its signals are ours to manage.
        store_restarts: how often the embedded store was started again; by default never.
        worker_restarts: how often a worker, this or another, took the place of one that had died.
        refusals: those of the process, which the transport adds to as well; by default the app's alone.
    """
    refused = refusals or Refusals()
    machine, given = clock or system_clock, clock
    access = Access(settings, machine)

    @asynccontextmanager
    async def lifespan(app: _App) -> AsyncIterator[dict[str, Any]]:
        store = create_store(settings)
        start = Backoff(*START_RETRY_S)
        try:
            epoch, store_clock = await _met(store, start)
        except StoreUnavailable as error:
            await store.close()
            if own_process:
                _give_up("The store does not answer, the process ends: %s", error)
            raise
        clock = given or store_clock
        hub, metrics = Hub(store, epoch, clock), Metrics()

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
                wanted=hub.wanted,
            )

        admission = Admission(settings, machine)
        lanes = flusher("heartbeats", settings.flush_interval_s), flusher("requests", 0)
        durations = Durations(store, lanes[1], clock)
        drain = Drain(settings, lanes[0])
        services = Services(
            settings, clock, access, admission, store, hub, *lanes, durations, drain, refused, app.tally, Turns()
        )
        metrics.watch(
            services,
            {
                "start": lambda: start.retries,
                "commit-heartbeats": lambda: lanes[0].backoff.retries,
                "commit-requests": lambda: lanes[1].backoff.retries,
                "channels": lambda: hub.resubscriptions,
                "store-connections": lambda: store.retrying.retries,
                "cluster-commands": lambda: store.link.retries,
                "durations": lambda: durations.backoff.retries,
                "key-set": lambda: access.authenticator.failed_fetches,
                "embedded-store": store_restarts,
                "workers": worker_restarts,
            },
        )
        largest = settings.max_body_bytes
        arriving = ArrivingBodies(
            max(largest, settings.max_arriving_bytes),
            max(largest, settings.max_arriving_bytes_per_user),
            max(largest, settings.max_arriving_bytes_per_address),
        )
        bodies = BodyReader(largest, settings.body_timeout_s, arriving)
        rates = PublicRates(settings, machine)
        endpoint = SocketEndpoint(services)
        app.socket = Gate(endpoint, settings, refused)
        app.router.routes[:] = [
            *endpoint.routes(),
            *ProgressEndpoints(services, bodies).routes(),
            *VideoEndpoints(services, bodies).routes(),
            *OperationEndpoints(services).routes(),
            *rates.limited("health checks", HealthEndpoints(services).routes()),
            *metrics.routes(),
            *rates.limited("files", pages(settings.serves_demo, settings.frame_ancestors)),
        ]
        app.tally.know(app.routes)
        try:
            garbage = [Garbage().run()] if own_process else []
            async with _running(hub.run(), metrics.run(), store_clock.run(), *garbage):
                async with _running(*(lane.run() for lane in lanes)), _running(durations.run()):
                    with drained_first(drain, settings) if own_process else nullcontext():
                        yield {TALLY: app.tally}
                drained = await asyncio.gather(*(lane.drain(drain.left_s()) for lane in lanes))
                if not all(drained):
                    logger.error("The store did not take the last batch; what was not acked will be sent again")
        finally:
            await store.close()

    middleware = [Middleware(Gate, settings, refused)]
    if settings.allowed_origins:
        middleware.append(Middleware(CORSMiddleware, **cors(settings)))
    app = _App(middleware=middleware, exception_handlers=HANDLERS, lifespan=lifespan)
    app.router.redirect_slashes = False  # a redirect would lead to whatever Host the request names
    return app


class _App(Starlette):
    """With a short way to the socket, past what is for HTTP alone: the herd after a restart takes it."""

    socket: ASGIApp | None = None

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.tally = Tally()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await super().__call__(scope, receive, with_safe_headers(self.tally.counting(scope, send)))
        elif scope["type"] == "websocket":
            to_socket = scope["path"] == SOCKET_PATH and self.socket is not None
            await (self.socket if to_socket and self.socket is not None else super().__call__)(scope, receive, send)
            self.tally.refused_in(scope, "websocket")
        else:
            await super().__call__(scope, receive, send)


@asynccontextmanager
async def _running(*coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run these beside the block, and cancel them at its end."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    for task in tasks:
        task.add_done_callback(_die_of)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _met(store: Store, backoff: Backoff) -> tuple[str, StoreClock]:
    """The epoch of a store that can do what is asked of it, and its clock; a worker may start while the store is away
    for a moment.

    Raises:
        StoreUnavailable: it is away for longer than START_S.
    """
    until = time.monotonic() + START_S
    outage = Outage(logger, "The store does not answer, this process waits for it to start", "The store answers")
    while True:
        try:
            epoch = await store.epoch()
            await store.settle()
            clock = await StoreClock.of(store, or_machine=True)
        except StoreUnavailable as error:
            if time.monotonic() > until:
                raise
            outage.failed(error)
            await backoff.wait()
        else:
            outage.worked()
            return epoch, clock


def _give_up(message: str, error: BaseException) -> None:
    """Not with 0, nor with uvicorn's code for a bug at the start, at which the other workers would be ended too."""
    logger.critical(message, error)
    os._exit(1)


def _die_of(task: asyncio.Task[None]) -> None:
    """A bug in a background task ends the process at once, loudly and not with 0: players come back and send again."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("A background task died: the process ends", exc_info=error)
        os._exit(1)
