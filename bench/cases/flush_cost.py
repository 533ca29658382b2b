"""A flush in detail: its CPU per record in the process and in the store, its longest script, the longest time that it
blocks the event loop, and the memory of a pending record.

It runs in this process, with the service's own Flusher and Store and a store of its own: 20,000 learners with one
pending heartbeat each, whose records exist already. The reporters ignore their notifications, so making and writing
acks is not included. The CPU time of the process is the kernel's account (getrusage). The event loop is blocked between
two turns of a ticker; that is measured in CPU time of the thread, which is independent of other processes, and in
flushes of its own, since the ticker never sleeps. Python's garbage collector is off as in the service, and a full
collection, which the service makes when its memory has grown, is not included.
"""

import asyncio
import gc
import time
import tracemalloc
from collections.abc import Callable

import uvloop

from bench.learners import Nobody, heartbeat
from bench.load.spec import learner, video
from bench.options import Options
from bench.processes import Failed, cpu_s
from bench.report import Row, Section
from bench.servers import store
from playhead.protocol.session import Now
from playhead.server.lifecycle.gc_schedule import GcSchedule
from playhead.storage.store import EmbeddedValkey, Flusher, Store, open_store
from tests.inside import parts_of

RECORDS = 20_000
ROUNDS = 9
SCRIPT_US = 200
"""Commands that take longer are scripts."""


def run(options: Options, say: Callable[[str], None]) -> Section:
    with store() as (valkey, _):
        return uvloop.run(_run(valkey, say))


async def _run(valkey: EmbeddedValkey, say: Callable[[str], None]) -> Section:
    target = open_store(valkey.url, worker="bench", durability="fsync", timeout_s=60)
    bench = _Flushes(target)
    await bench.fill_and_drain()  # creates the records
    GcSchedule()  # no automatic collections, as in the service
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(ROUNDS):
        bench.fill()
        before, store_before = time.process_time(), cpu_s(valkey.pid)
        await bench.drain()
        ours.append(1e6 * (time.process_time() - before) / RECORDS)
        theirs.append(1e6 * (cpu_s(valkey.pid) - store_before) / RECORDS)
        say(f"{ours[-1]:.1f} µs a record, store {theirs[-1]:.1f} µs")
    stalls: list[float] = []
    for _ in range(ROUNDS):
        bench.fill()
        ticks: list[float] = []
        ticker = asyncio.create_task(_tick(ticks))
        await asyncio.sleep(0)
        await bench.drain()
        ticker.cancel()
        stalls.append(1e3 * max(ticks))
        say(f"loop held up {stalls[-1]:.1f} ms")
    crowd = _Flushes(target, videos=1)
    await crowd.fill_and_drain()
    crowd.fill()
    store_before = cpu_s(valkey.pid)
    await crowd.drain()
    together = 1e6 * (cpu_s(valkey.pid) - store_before) / RECORDS
    waiting = bench.memory_of_waiting()
    # The threshold excludes the scripts' own commands, which would fill the log and take time to log.
    await parts_of(target).run([("CONFIG", "SET", "slowlog-log-slower-than", SCRIPT_US, "slowlog-max-len", 10_000)])
    await parts_of(target).run([("SLOWLOG", "RESET"), ("CONFIG", "RESETSTAT")])
    await bench.drain()
    (log,) = await parts_of(target).run([("SLOWLOG", "GET", 10_000)])
    (stats,) = await parts_of(target).run([("INFO", "commandstats")])
    calls = stats["cmdstat_evalsha"]["calls"]
    scripts = sorted(entry[2] / 1e3 for entry in log if entry[3][0].upper() == b"EVALSHA")
    await target.close()
    return Section(
        f"A flush of {RECORDS:,} records",
        [
            Row("server CPU a record, acks apart", ours, "µs", 4),
            Row("store CPU a record", theirs, "µs", 20),
            Row("store CPU a record, where all watch one video", [together], "µs"),
            Row("longest script, by the store's own clock", [scripts[-1]], "ms", 5, f"of {calls}"),
            Row("median script", [scripts[-calls // 2 :][0]], "ms"),
            Row("longest that the loop is held up (CPU)", stalls, "ms", 10),
            Row("memory of a record that waits", [waiting], "B", note="without its reporter"),
        ],
        ["The store measures its scripts by the wall clock, which includes waiting for a core."],
    )


class _Flushes:
    """A Flusher, and one heartbeat of each learner for each flush."""

    def __init__(self, store: Store, videos: int = 100) -> None:
        self._flusher = Flusher(
            store,
            interval_s=3_600,
            max_reports=1_000_000,
            now=lambda: Now(time.time_ns() // 1_000_000, time.monotonic_ns() // 1_000_000),
            subscribed=lambda _: True,
            after=_nothing,
            needs_value=lambda user_id, reporters: False,  # no learner has another device
        )
        self._records = [(learner(1, i), video(videos, i % videos)) for i in range(RECORDS)]
        self._reporters = [Nobody() for _ in range(RECORDS)]
        self._seq = 0

    def fill(self) -> None:
        self._seq += 1
        for (user_id, video_id), reporter in zip(self._records, self._reporters, strict=True):
            self._flusher.add(user_id, video_id, heartbeat((user_id, video_id), self._seq), reporter)

    async def drain(self) -> None:
        if not await self._flusher.drain(120):
            raise Failed("the store did not take a flush")

    async def fill_and_drain(self) -> None:
        self.fill()
        await self.drain()

    def memory_of_waiting(self) -> float:
        """Bytes per pending record; the records are still pending when this returns."""
        gc.collect()
        tracemalloc.start()
        self.fill()
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return size / RECORDS


async def _tick(longest: list[float]) -> None:
    """Append the thread's CPU time from one turn of the loop to the next, s, with the small cost of the ticker."""
    last = time.thread_time()
    while True:
        await asyncio.sleep(0)
        now = time.thread_time()
        longest.append(now - last)
        last = now


async def _nothing(batch: object, committed: object) -> None:
    """Nobody else needs to know."""
