"""What a process tells a monitoring system: `GET /metrics`, in Prometheus' text format.

Each process tells of itself alone: with --workers a scrape meets any of them, so who wants all runs nodes of one
worker. Only what their parent has started again, the embedded store and workers, all of them tell. Who may ask is who
may see analytics; without tokens, everybody on this machine. No label is a person.
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
from playhead.server.problems import NOT_KEPT
from playhead.server.security.identity import ANALYTICS
from playhead.server.services import Services
from playhead.server.transport.counts import TrafficCounts

LAG_STEP_S = 0.5
LAG_WINDOW = 20
"""Steps that the worst lag is taken of: 10 s, as often as most scrape."""
FLUSH_BUCKETS_S = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics(Collector):
    """One registry. What exists anyway is read when somebody asks; only flushes are observed as they happen."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._flushes = Histogram(
            "playhead_flush_seconds",
            "From taking a batch until all were told",
            ["lane"],
            registry=self._registry,
            buckets=FLUSH_BUCKETS_S,
        )
        self._build = GaugeMetricFamily("playhead_build_info", "What runs here", labels=["python", "version"])
        self._build.add_metric([python_version(), _version()], 1)
        self._lags: deque[float] = deque([0.0], LAG_WINDOW)
        self._services: Services | None = None
        self._retries: Mapping[str, Callable[[], int]] = {}

    def flush(self, lane: str) -> Callable[[float], None]:
        """What a flusher is given to tell how long each flush took, in seconds."""
        return self._flushes.labels(lane).observe

    def watch(self, services: Services, retries: Mapping[str, Callable[[], int]]) -> None:
        """Args: retries: by the name of a loop, how often it has had to try again."""
        self._services, self._retries = services, retries
        self._registry.register(self)

    async def run(self) -> None:
        """Measure the loop's lag, for ever; cancel it to stop."""
        while True:
            began = time.monotonic()
            await asyncio.sleep(LAG_STEP_S)
            self._lags.append(max(0.0, time.monotonic() - began - LAG_STEP_S))

    def collect(self) -> Iterator[Metric]:
        services = self._services
        assert services is not None  # noqa: S101 registered by `watch`
        yield self._build
        yield _gauge("playhead_connections", "Open WebSockets", len(services.admission.sockets))
        waiting = GaugeMetricFamily("playhead_pending_reports", "Reports that wait for the next flush", labels=["lane"])
        waiting.add_metric(["heartbeats"], services.heartbeats.waiting)
        waiting.add_metric(["requests"], services.requests.waiting)
        yield waiting
        stuck = any(lane.trouble is not None for lane in (services.heartbeats, services.requests))
        yield _gauge("playhead_store_trouble", "1 while a batch can't be stored", int(stuck))
        if isinstance(clock := services.clock, StoreClock):
            what = "How far this machine's clock is ahead of the store's, by which records go"
            yield _gauge("playhead_clock_offset_seconds", what, clock.offset_ms / 1_000)
        yield _gauge(
            "playhead_unread_bytes", "Of answers that clients have not taken yet", services.access.answer_memory.size
        )
        yield _gauge("playhead_tasks", "Tasks on the event loop", len(asyncio.all_tasks()))
        yield _gauge("playhead_event_loop_lag_seconds", "The worst of the last 10 s", max(self._lags))
        retries = CounterMetricFamily("playhead_retries", "Attempts after the first, by loop", labels=["loop"])
        for name, count in self._retries.items():
            retries.add_metric([name], count())
        yield retries
        damaged = CounterMetricFamily(
            "playhead_damaged_values", "How often a stored value could not be read, by kind", labels=["kind"]
        )
        for kind, times in services.store.damaged_values.items():
            damaged.add_metric([kind], times)
        yield damaged
        yield from _traffic(services.counts)

    def routes(self) -> list[Route]:
        return [Route("/metrics", self.show)]

    async def show(self, request: Request) -> Response:
        assert self._services is not None  # noqa: S101 routed after `watch`
        (await self._services.access.identify(request)).require(ANALYTICS)
        return Response(generate_latest(self._registry), headers=NOT_KEPT, media_type=CONTENT_TYPE_LATEST)


def _traffic(counts: TrafficCounts) -> Iterator[Metric]:
    requests = CounterMetricFamily("playhead_requests", "HTTP answers", labels=["method", "route", "status"])
    for (method, route, status), count in counts.requests.items():
        requests.add_metric([method, route, str(status)], count)
    yield requests
    refused = CounterMetricFamily("playhead_refusals", "Problems answered, by their code", labels=["reason", "way"])
    for (way, reason), count in counts.refused.items():
        refused.add_metric([reason, way], count)
    yield refused
    closed = CounterMetricFamily("playhead_closes", "WebSockets that ended, by close code", labels=["closer", "code"])
    for labels, count in counts.closed.items():
        closed.add_metric(labels, count)
    yield closed


def _version() -> str:
    try:
        return version("playhead")
    except PackageNotFoundError:  # run from its source, not installed
        return "unknown"


def _gauge(name: str, what: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, what, value=value)
