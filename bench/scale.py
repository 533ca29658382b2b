"""`python -m bench.scale [--write]`: what a number of simultaneous viewers needs, from the unit costs in results.json.

A simulation of one worker, heartbeat by heartbeat, gives what the unit costs alone do not: how many heartbeats share a
record and an ack, and how long an ack takes. The rest is multiplication. `--write` puts the tables into docs/scale.md;
a test compares the page with them.
"""

import argparse
import math
import random
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from bench.unit_costs import UnitCosts
from playhead.server.settings import Settings
from playhead.storage.keys import TAGS, VIDEO_SHARDS

PAGE = Path(__file__).parent.parent / "docs" / "scale.md"
VIEWERS = (10_000, 1_000_000, 50_000_000)
PLANS = ((5, 1), (5, 5), (15, 5), (30, 15))
"""(heartbeat interval, flush interval), s."""
BUSY = 0.6
"""The largest share of a core; the rest is reserved for reconnects, failovers and bad days."""
PRIMARY_GIB = 16
"""The most data that one primary of the store holds. With more, operations on all of it take too long: a load after a
restart and the copy to a new replica take minutes, and each fork (for that copy, or to rewrite the append-only file)
some tenths of a second in which nothing is answered. Operators' rules of thumb, not measured here."""
PARTITIONS = len(TAGS)
"""Partitions of users and of videos, the slots of a cluster, spread over the primaries; assumed to be equally busy."""
CONNECTIONS = int(Settings.model_fields["max_connections"].default)
HELLOS_PER_S = float(Settings.model_fields["hellos_per_s"].default)
"""The limits of one worker: its death affects few players, and their reconnects are rate-limited."""
RECORDS = 20
"""Records of each learner in the store."""
AWAY = 10
"""Learners with records for each learner who is watching now."""
ROUND_TRIP_S, SYNC_S = 0.001, 0.004
"""A round trip to the store over a network, and a sync of its disk; a commit takes two of each."""
SIMULATED = 2_000
"""Connections of the simulated worker; its costs are scaled to this number."""


@dataclass(frozen=True, slots=True)
class Worker:
    """The result of simulating one worker."""

    records_a_beat: float
    p50_s: float
    p99_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """One line of the table."""

    viewers: int
    beat_s: float
    flush_s: float
    worker: Worker
    costs: UnitCosts

    @property
    def beats(self) -> float:
        return self.viewers / self.beat_s

    @property
    def records(self) -> float:
        return self.beats * self.worker.records_a_beat

    @property
    def server_cores(self) -> float:
        return 1e-6 * (self.beats * self.costs.beat_us + self.records * self.costs.record_us)

    @property
    def workers(self) -> int:
        return max(1, math.ceil(self.server_cores / BUSY), math.ceil(self.viewers / CONNECTIONS))

    @property
    def store_cores(self) -> float:
        return 1e-6 * self.records * self.costs.store_us

    @property
    def by_cpu(self) -> int:
        """Primaries of which none is more than BUSY; one more than PARTITIONS where as many are too few."""
        return _primaries(self.store_cores, BUSY)

    @property
    def by_memory(self) -> int:
        """Primaries of which none holds more than PRIMARY_GIB; likewise."""
        return _primaries(self.store_gib, PRIMARY_GIB)

    @property
    def primaries(self) -> int:
        return min(PARTITIONS, max(self.by_cpu, self.by_memory))

    @property
    def primary_gib(self) -> float:
        """Memory of the primary with the most partitions."""
        return self.store_gib * math.ceil(PARTITIONS / self.primaries) / PARTITIONS

    @property
    def bound(self) -> str:
        """What the number of primaries is for."""
        if max(self.by_cpu, self.by_memory) > PARTITIONS:
            return "too few"
        if self.by_cpu == self.by_memory:
            return "both"
        return "CPU" if self.by_cpu > self.by_memory else "memory"

    @property
    def server_gib(self) -> float:
        return self.viewers * self.costs.connection_kib / 2**20

    @property
    def store_gib(self) -> float:
        return self.viewers * AWAY * RECORDS * self.costs.stored_b / 2**30

    @property
    def mbit(self) -> tuple[float, float]:
        """Traffic from and to players."""
        return 8e-6 * self.beats * self.costs.beat_b, 8e-6 * self.records * self.costs.ack_b

    @property
    def reconnect_s(self) -> float:
        """How long one spare worker takes to greet all players of a dead one, with the rest of its core."""
        return min(CONNECTIONS, self.viewers) * max(1e-6 * self.costs.return_us / (1 - BUSY), 1 / HELLOS_PER_S)


def _primaries(whole: float, most: float) -> int:
    """The number of primaries of which none has more than `most` of the whole, in whole partitions."""
    each = math.floor(most * PARTITIONS / whole)
    return math.ceil(PARTITIONS / min(each, PARTITIONS)) if each else PARTITIONS + 1


def simulate(beat_s: float, flush_s: float, workers: int, costs: UnitCosts) -> Worker:
    """Simulate the players of one worker, with random phases, for at least a minute.

    `workers` share the primary and all flush at the same moment, the worst case for acks.
    """
    dice = random.Random(1)
    phases = [dice.uniform(0, beat_s) for _ in range(SIMULATED)]
    horizon = max(60.0, 4 * beat_s)
    beats = sorted((phase + n * beat_s, who) for who, phase in enumerate(phases) for n in range(int(horizon / beat_s)))
    waits: list[float] = []
    flush_at, records, next_beat = flush_s, 0, 0
    while next_beat < len(beats):
        batch: set[int] = set()
        first = next_beat
        while next_beat < len(beats) and beats[next_beat][0] < flush_at:
            batch.add(beats[next_beat][1])
            next_beat += 1
        busy_s = 1e-6 * len(batch) * (costs.record_us + costs.store_us * workers)
        stored_at = flush_at + 2 * (ROUND_TRIP_S + SYNC_S) + busy_s
        waits += [stored_at - at for at, _ in beats[first:next_beat]]
        records += len(batch)
        flush_at = max(flush_at + flush_s, stored_at)
    waits.sort()
    return Worker(records / len(beats), waits[len(waits) // 2], waits[len(waits) * 99 // 100])


def planned(viewers: int, beat_s: float, flush_s: float, costs: UnitCosts) -> Plan:
    """The plan for this many viewers. Acks wait for every worker that shares the primary; the costs are those of a
    cluster where one server is not enough."""
    alone = Plan(viewers, beat_s, flush_s, simulate(beat_s, flush_s, 1, costs), costs)
    if alone.primaries > 1:
        costs = costs.on_cluster()
        alone = replace(alone, worker=simulate(beat_s, flush_s, 1, costs), costs=costs)
    shared = simulate(beat_s, flush_s, max(1, round(viewers / SIMULATED / alone.primaries)), costs)
    return Plan(viewers, beat_s, flush_s, shared, costs)


def plans(costs: UnitCosts) -> str:
    """Markdown."""
    lines = [
        "| simultaneous viewers | heartbeat interval | flush interval | heartbeats/s | records/s | workers "
        "| primaries, limited by | memory per primary | ack p50, p99 | memory, workers | memory, store "
        "| traffic from, to players | a worker's players are back in |",
        "|" + "---:|" * 13,
    ]
    for viewers in VIEWERS:
        for beat_s, flush_s in PLANS:
            lines.append(_line(planned(viewers, beat_s, flush_s, costs)))
    return "\n".join(lines) + "\n"


def crowds(costs: UnitCosts) -> str:
    """The largest number of simultaneous viewers of one video, by the store's cost; Markdown."""
    lines = ["| heartbeat interval | on one server | on a cluster of 16 primaries or more |", "|---:|---:|---:|"]
    for beat_s in sorted({beat_s for beat_s, _ in PLANS}):
        server = BUSY * 1e6 * beat_s / costs.crowd_us
        lines.append(f"| {beat_s:g} s | {_thousands(server)} | {_thousands(server * VIDEO_SHARDS)} |")
    return "\n".join(lines) + "\n"


def _thousands(value: float) -> str:
    return f"{value // 1_000 * 1_000:,.0f}"


def _line(plan: Plan) -> str:
    incoming, outgoing = plan.mbit
    cells = (
        f"{plan.viewers:,}",
        f"{plan.beat_s:g} s",
        f"{plan.flush_s:g} s",
        f"{plan.beats:,.0f}",
        f"{plan.records:,.0f}",
        f"{plan.workers:,}",
        f"{plan.primaries:,}, {plan.bound}",
        f"{_round(plan.primary_gib)} GiB",
        f"{plan.worker.p50_s:.1f} s, {plan.worker.p99_s:.1f} s",
        f"{_round(plan.server_gib)} GiB",
        f"{_round(plan.store_gib)} GiB",
        f"{_round(incoming)}, {_round(outgoing)} Mbit/s",
        f"{plan.reconnect_s:.0f} s",
    )
    return "| " + " | ".join(cells) + " |"


def _round(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def filled(page: str, costs: UnitCosts) -> str:
    """The page with the tables of these costs between its marks."""
    for name, made in (("plan", plans(costs)), ("crowds", crowds(costs))):
        begin, end = f"<!-- {name}: made by python -m bench.scale -->\n", "<!-- end -->\n"
        head, _, rest = page.partition(begin)
        page = head + begin + made + end + rest.partition(end)[2]
    return page


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.scale")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/scale.md")
    costs = UnitCosts.load()
    if parser.parse_args().write:
        PAGE.write_text(filled(PAGE.read_text(), costs))
    else:
        print(plans(costs), crowds(costs), sep="\n", end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
