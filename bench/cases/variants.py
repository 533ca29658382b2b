"""Runs one load on the service with several settings, and compares the cost of a heartbeat with that of the first."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace

from bench.drive import Cost, drive
from bench.load.spec import Load
from bench.processes import Failed
from bench.report import Row, Section, ratios
from bench.servers import Server

Variant = tuple[Callable[[], AbstractContextManager[Server]], Load]


def compare(
    section: Section,
    variants: Mapping[str, Variant],
    turns: int,
    say: Callable[[str], None],
    at_most: float | None = None,
    detail: bool = False,
) -> dict[str, list[Cost]]:
    """Run all variants, interleaved, and add their rows, with ratios to the first; `at_most` is the target of a
    ratio."""
    costs: dict[str, list[Cost]] = {name: [] for name in variants}
    for turn in range(turns):
        for name, (start, load) in variants.items():
            try:
                with start() as server:
                    cost = drive(server, replace(load, port=server.port, seed=turn))
            except Failed as error:
                section.remarks.append(f"**{name} failed in turn {turn + 1}: {error}**")
                say(f"FAILED: {name}: {error}")
                continue
            costs[name].append(cost)
            say(f"{name}: {cost.server_us:.1f} µs, store {cost.store_us:.1f} µs, {cost.busy:.0%} busy {cost.caveat}")
    for name, runs in costs.items():
        if not runs:
            continue
        acks = sum(cost.outcome.ack_frames for cost in runs) / max(1, sum(cost.outcome.acked for cost in runs))
        note = f"server {max(cost.busy for cost in runs):.0%} busy"
        note += "".join(f"; {caveat}" for caveat in {cost.caveat for cost in runs} if caveat)
        section.rows.append(Row(f"{name}: acks a heartbeat", [acks]))
        section.rows.append(Row(f"{name}: server", [cost.server_us for cost in runs], "µs", note=note))
        section.rows.append(Row(f"{name}: store", [cost.store_us for cost in runs], "µs"))
        if detail:
            section.rows.append(Row(f"{name}: ack, p50", [cost.outcome.p50_ms for cost in runs], "ms"))
            section.rows.append(Row(f"{name}: ack, p99", [cost.outcome.p99_ms for cost in runs], "ms"))
    first, *others = variants
    for name in others:
        both = len(costs[name]) == len(costs[first])
        mine, base = ([cost.server_us for cost in costs[which]] for which in (name, first))
        pairs = ratios(mine, base) if both else []
        section.rows.append(Row(f"**{name} / {first}**", pairs, "×", at_most))
    return costs
