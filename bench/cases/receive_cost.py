"""The cost of receiving a message with three transports: whether a faster parser would be worthwhile.

They are uvicorn's own with an ASGI loop (the lower bound of the other tables), the service's fast path on top of it,
and picows, which parses in Cython. Each drops what it receives. An accept is the server's CPU time from the first
handshake until all are connected, divided by the connections.
"""

from collections.abc import Callable
from dataclasses import replace

from bench.drive import Cost, drive
from bench.load.spec import Load
from bench.options import Options
from bench.report import Row, Section, ratios
from bench.servers import bare, direct, picows

TRANSPORTS = {"uvicorn and an ASGI loop": bare, "the service's short way": direct, "picows": picows}


def run(options: Options, say: Callable[[str], None]) -> Section:
    load = Load(0, "bare", connections=2_000, rate=8_000, window_s=options.window_s)
    section = Section(f"CPU a message received and dropped: {load.connections:,} connections, {load.rate:,.0f}/s")
    costs: dict[str, list[Cost]] = {name: [] for name in TRANSPORTS}
    for turn in range(options.side_turns):
        for name, start in TRANSPORTS.items():
            with start() as server:
                cost = drive(server, replace(load, port=server.port, seed=turn))
            costs[name].append(cost)
            say(f"{name}: {cost.server_us:.1f} µs, accept {_accept_us(cost, load):.0f} µs {cost.caveat}")
    for name, runs in costs.items():
        section.rows.append(Row(name, [cost.server_us for cost in runs], "µs"))
        section.rows.append(Row(f"{name}: accept", [_accept_us(cost, load) for cost in runs], "µs"))
    ours, theirs = ([cost.server_us for cost in costs[name]] for name in ("the service's short way", "picows"))
    section.rows.append(Row("**the service's short way / picows**", ratios(ours, theirs), "×"))
    return section


def _accept_us(cost: Cost, load: Load) -> float:
    return 1e6 * cost.connect_cpu_s / load.connections
