"""How the flush interval affects the cost of a heartbeat and the time until its ack."""

from collections.abc import Callable
from functools import partial

from bench.cases.variants import compare
from bench.load.spec import Load
from bench.options import Options
from bench.report import Section
from bench.servers import playhead

INTERVALS_S = (1, 0.25, 5)


def run(options: Options, say: Callable[[str], None]) -> Section:
    section = Section("CPU a heartbeat by flush interval: 2,000 connections, 4,000 heartbeats/s")
    variants = {
        f"flush {interval:g} s": (
            partial(playhead, FLUSH_INTERVAL_S=str(interval)),
            Load(0, "json", 2_000, 4_000, max(options.window_s, interval), burst_s=3 * interval, drain_s=3 + interval),
        )
        for interval in INTERVALS_S
    }
    compare(section, variants, 1, say, detail=True)
    return section
