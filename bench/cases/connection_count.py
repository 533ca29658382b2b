"""Whether a heartbeat costs the same among 100, 1,000 and 10,000 connections.

The rate is the same for all, so each of a few connections sends many heartbeats, which share acks and records of a
flush. That makes a few connections cheap for a reason other than their number. So the same is repeated with a flush
interval in which each connection sends one heartbeat: then each has its own record and ack, whatever the number of
connections. In the last run 1,000 connections send heartbeats among 9,000 idle ones, which only answer pings.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from bench.cases.variants import compare
from bench.load.spec import Load
from bench.options import Options
from bench.report import Row, Section, ratios
from bench.servers import playhead

RATE = 2_000
COUNTS = (100, 1_000, 10_000)
ACTIVE = 1_000
MOST_S = COUNTS[-1] / RATE
"""The longest flush interval that the settings allow."""


def run(options: Options, say: Callable[[str], None]) -> Section:
    section = Section(f"CPU a heartbeat by number of connections, {RATE:,} heartbeats/s")

    def load(connections: int, idle: int = 0) -> Load:
        once_s = (connections - idle) / RATE  # the first heartbeats create the records
        return Load(0, "json", connections, RATE, options.window_s, warmup_s=1 + once_s, idle=idle)

    once = {
        f"{count:,} beat once a flush": (
            partial(playhead, FLUSH_INTERVAL_S=str(count / RATE)),
            replace(load(count), burst_s=2 * MOST_S, drain_s=2 * MOST_S),
        )
        for count in COUNTS
    }
    compare(section, once, options.side_turns, say, at_most=1.2)
    variants = {f"{count:,} beat": (playhead, load(count)) for count in COUNTS}
    most = COUNTS[-1]
    variants[f"{ACTIVE:,} beat among {most:,}"] = playhead, load(most, most - ACTIVE)
    costs = compare(section, variants, options.side_turns, say, at_most=1.2)
    alone, among = (costs[name] for name in (f"{ACTIVE:,} beat", f"{ACTIVE:,} beat among {most:,}"))
    if alone and among:
        pairs = ratios([cost.server_us for cost in among], [cost.server_us for cost in alone])
        section.rows.append(Row(f"**{ACTIVE:,} beat among {most:,} / {ACTIVE:,} beat**", pairs, "×", 1.2))
    return section
