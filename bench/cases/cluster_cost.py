"""The additional cost of a heartbeat on a cluster: a flush needs one call for each partition of users and of videos
instead of a few long calls, and the viewers of each video are spread over 16 shards.

The load is that of a full worker: 4,000 heartbeats per flush, each with its own record and ack. With 100 videos, 40
records of a flush share a video and its writes; on the cluster 2.5 do. To separate that effect, one server is also run
with 2,000 videos. The cluster has three primaries; with more of them a worker makes the same number of calls.
"""

from collections.abc import Callable
from dataclasses import replace

from bench.cases.variants import Variant, compare
from bench.load.spec import Load
from bench.options import Options
from bench.report import Row, Section, ratios
from bench.servers import playhead, playhead_on_cluster

CONNECTIONS, RATE = 10_000, 4_000
ALONE, SCATTERED, CLUSTER = "one server", "one server, 2,000 videos", "a cluster"


def run(options: Options, say: Callable[[str], None]) -> Section:
    section = Section(f"CPU a heartbeat on a cluster: {CONNECTIONS:,} connections, {RATE:,} heartbeats/s")
    load = Load(0, "json", CONNECTIONS, RATE, options.window_s, warmup_s=1 + CONNECTIONS / RATE)
    variants: dict[str, Variant] = {
        ALONE: (playhead, load),
        SCATTERED: (playhead, replace(load, videos=2_000)),
        CLUSTER: (playhead_on_cluster, load),
    }
    costs = compare(section, variants, options.side_turns, say)
    if all(costs.values()):
        mine, base = ([cost.store_us for cost in costs[name]] for name in (CLUSTER, ALONE))
        section.rows.append(Row(f"**{CLUSTER} / {ALONE}: store, all primaries**", ratios(mine, base), "×"))
    return section
