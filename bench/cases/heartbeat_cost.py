"""CPU of the server process for each durable, acked heartbeat, compared with the bare transport and three servers that
people write instead.

All run in turn, several times, under the same open loop from the same generator; the stores are the same binary with
the same settings (append-only file, each write synced before it is answered). The bare transport neither stores nor
answers, so its cost is per received heartbeat. python-socketio and the naive server cannot sustain the rate of the
others on a slow core and get a lower one, as their notes say. That may flatter the service: with fewer messages per
wake-up each costs more. python-socketio, which is far slower, runs in the first turn only.
"""

from collections.abc import Callable
from dataclasses import replace

from bench.drive import Cost, drive
from bench.load.spec import Load
from bench.options import Options
from bench.processes import Failed
from bench.report import Row, Section, ratios
from bench.servers import Start, Unavailable, bare, naive, node, playhead, socketio

SLOW, SLOWER = 0.3, 0.1
"""The part of the rate for servers that cannot sustain all of it."""
BARE, NODE, NAIVE, SOCKETIO = "bare transport", "Node ws + ioredis", "naive Starlette + HSET", "python-socketio + HSET"
PEERS: dict[str, tuple[Start, str, float]] = {
    "Playhead": (playhead, "json", 1.0),
    BARE: (bare, "bare", 1.0),
    NODE: (node, "each-acked", 1.0),
    NAIVE: (naive, "each-acked", SLOW),
    SOCKETIO: (socketio, "socketio", SLOWER),
}
TARGETS = {BARE: 1.4, NAIVE: 0.25, NODE: 0.8}


def run(options: Options, say: Callable[[str], None]) -> Section:
    load = Load(0, "", connections=2_000, rate=8_000, window_s=options.window_s)
    section = Section(f"CPU a durable heartbeat: {load.connections:,} connections, {load.rate:,.0f} heartbeats/s")
    costs: dict[str, dict[int, Cost]] = {name: {} for name in PEERS}
    skipped: dict[str, str] = {}
    for turn in range(options.turns):
        for name, (start, kind, share) in PEERS.items():
            if name in skipped or (turn and share == SLOWER):
                continue
            try:
                with start() as server:
                    cost = drive(server, replace(load, port=server.port, kind=kind, rate=load.rate * share, seed=turn))
            except Unavailable as error:
                skipped[name] = str(error)
                say(f"SKIPPED: {name}: {error}")
            except Failed as error:
                section.remarks.append(f"**{name} failed in turn {turn + 1}: {error}**")
                say(f"FAILED: {name}: {error}")
            else:
                costs[name][turn] = cost
                say(f"{name}: {cost.server_us:.1f} µs, store {cost.store_us:.1f} µs, {cost.busy:.0%} {cost.caveat}")
    section.remarks += [f"**{name} was skipped: {why}**" for name, why in skipped.items()]
    for name, runs in costs.items():
        section.rows += _rows(name, load.rate * PEERS[name][2], list(runs.values()))
    ours = costs.pop("Playhead")
    for name, runs in costs.items():
        both = [turn for turn in ours if turn in runs]
        pairs = ratios([ours[turn].server_us for turn in both], [runs[turn].server_us for turn in both])
        note = "0.4 is what we reach for" if name == NODE else ""
        section.rows.append(Row(f"**Playhead / {name}**", pairs, "×", TARGETS.get(name), note))
    return section


def _rows(name: str, rate: float, runs: list[Cost]) -> list[Row]:
    if not runs:
        return []
    note = f"{rate:,.0f}/s, server {max(cost.busy for cost in runs):.0%} busy"
    note += f", {sum(cost.outcome.ack_frames for cost in runs) / sum(cost.done for cost in runs):.2f} acks a heartbeat"
    note += "".join(f"; {caveat}" for caveat in sorted({cost.caveat for cost in runs}) if caveat)
    rows = [Row(f"{name}: server", [cost.server_us for cost in runs], "µs", note=note)]
    if name != BARE:
        rows += [
            Row(f"{name}: store", [cost.store_us for cost in runs], "µs"),
            Row(f"{name}: ack, p50", [cost.outcome.p50_ms for cost in runs], "ms"),
            Row(f"{name}: ack, p99", [cost.outcome.p99_ms for cost in runs], "ms"),
        ]
    return rows
