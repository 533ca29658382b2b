"""`GET /metrics` for monitoring systems, in Prometheus' text format.

A process reports on itself only. With --workers a scrape reaches any one of them; to scrape all, run nodes of one
worker each. Restarts by the parent, of the embedded store and of workers, are reported by every worker. The endpoint
needs the scope `analytics`; without tokens, everybody on this machine may call it. No label identifies a person.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from platform import python_version

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from playhead.server.clock import StoreClock
from playhead.server.problems import NO_STORE
from playhead.server.security.identity import ANALYTICS
from playhead.server.services import Services
from playhead.server.transport.counts import TrafficCounts

LAG_STEP_S = 0.5
LAG_WINDOW = 20
"""The worst lag is that of the last 20 steps, which is 10 s, a common scrape interval."""
FLUSH_BUCKETS_S = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics(Collector):
    """The metrics of one process. Values are read at each scrape; only flush durations are recorded as they happen."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._flushes = Histogram(
            "playhead_flush_seconds",
            "From taking a batch until all its clients were notified",
            ["lane"],
            registry=self._registry,
            buckets=FLUSH_BUCKETS_S,
        )
        self._build = GaugeMetricFamily(
            "playhead_build_info", "Versions of Python and of the service", labels=["python", "version"]
        )
        self._build.add_metric([python_version(), _version()], 1)
        self._lags: deque[float] = deque([0.0], LAG_WINDOW)
        self._services: Services | None = None
        self._retries: Mapping[str, Callable[[], int]] = {}

    def flush(self, lane: str) -> Callable[[float], None]:
        """The function with which a flusher reports the duration of each flush, in seconds."""
        return self._flushes.labels(lane).observe

    def watch(self, services: Services, retries: Mapping[str, Callable[[], int]]) -> None:
        """Start to report on a process.

        Args:
            services: those of the process.
            retries: for each retry loop, by its name, a function that returns its number of retries.
        """
        self._services, self._retries = services, retries
        self._registry.register(self)

    async def run(self) -> None:
        """Measure the event loop's lag until cancelled."""
        while True:
            began = time.monotonic()
            await asyncio.sleep(LAG_STEP_S)
            self._lags.append(max(0.0, time.monotonic() - began - LAG_STEP_S))

    def collect(self) -> Iterator[Metric]:
        services = self._services
        assert services is not None  # noqa: S101 registered by `watch`
        yield self._build
        yield _gauge("playhead_connections", "Open WebSockets", len(services.admission.sockets))
        waiting = GaugeMetricFamily("playhead_pending_reports", "Reports waiting for the next flush", labels=["lane"])
        waiting.add_metric(["heartbeats"], services.heartbeats.waiting)
        waiting.add_metric(["requests"], services.requests.waiting)
        yield waiting
        stuck = any(lane.trouble is not None for lane in (services.heartbeats, services.requests))
        yield _gauge("playhead_store_trouble", "1 while a batch can't be stored", int(stuck))
        if isinstance(clock := services.clock, StoreClock):
            what = "How far this machine's clock is ahead of the store's, which timestamps records"
            yield _gauge("playhead_clock_offset_seconds", what, clock.offset_ms / 1_000)
        unread = services.access.answer_memory.size
        yield _gauge("playhead_unread_bytes", "Bytes of answers that clients have not read yet", unread)
        yield _gauge("playhead_tasks", "Tasks on the event loop", len(asyncio.all_tasks()))
        yield _gauge("playhead_event_loop_lag_seconds", "Worst event loop lag in the last 10 s", max(self._lags))
        retries = CounterMetricFamily("playhead_retries", "Attempts after the first, by retry loop", labels=["loop"])
        for name, count in self._retries.items():
            retries.add_metric([name], count())
        yield retries
        damaged = CounterMetricFamily(
            "playhead_damaged_values", "Reads of damaged stored values, by kind", labels=["kind"]
        )
        for kind, times in services.store.damaged_values.items():
            damaged.add_metric([kind], times)
        yield damaged
        yield from _traffic_metrics(services.counts)

    def routes(self) -> list[Route]:
        return [Route("/metrics", self.show)]

    async def show(self, request: Request) -> Response:
        assert self._services is not None  # noqa: S101 the route is added after `watch`
        (await self._services.access.identify(request)).require(ANALYTICS)
        return Response(generate_latest(self._registry), headers=NO_STORE, media_type=CONTENT_TYPE_LATEST)


def _traffic_metrics(counts: TrafficCounts) -> Iterator[Metric]:
    requests = CounterMetricFamily("playhead_requests", "HTTP responses", labels=["method", "route", "status"])
    for (method, route, status), count in counts.requests.items():
        requests.add_metric([method, route, str(status)], count)
    yield requests
    refused = CounterMetricFamily("playhead_refusals", "Problem responses, by problem code", labels=["reason", "way"])
    for (way, reason), count in counts.refused.items():
        refused.add_metric([reason, way], count)
    yield refused
    closed = CounterMetricFamily("playhead_closes", "Closed WebSockets, by close code", labels=["closer", "code"])
    for labels, count in counts.closed.items():
        closed.add_metric(labels, count)
    yield closed


def _version() -> str:
    try:
        return version("playhead")
    except PackageNotFoundError:  # run from the source tree
        return "unknown"


def _gauge(name: str, what: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, what, value=value)
