"""What a heartbeat costs more on a cluster: a flush goes there in a call for each partition of users and of videos that
it touches instead of few long ones, and the viewers of each video are spread over 16 shards.

As a worker that is full has it: 4,000 heartbeats a flush, each a record and an ack of its own. Of 100 videos 40 records
of a flush share each, and what is written of it; on the cluster 2.5 do. To tell that apart, one server has them of
2,000 videos too. The cluster has three primaries; a worker makes as many calls to more of them.
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
