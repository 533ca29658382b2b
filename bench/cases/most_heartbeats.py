"""The most heartbeats per second that one worker sustains: the last step at which the p99 of the acks is below the
flush interval plus 100 ms. Unlike everything else here, this is measured by the wall clock: on a shared machine it is a
lower bound.
"""

from collections.abc import Callable

from bench.drive import drive
from bench.load.spec import Load
from bench.options import Options
from bench.processes import Failed
from bench.report import Row, Section
from bench.servers import playhead

STEPS = (4_000, 8_000, 16_000, 24_000, 32_000, 40_000)
CONNECTIONS = 2_000
BOUND_MS = 1_100


def run(options: Options, say: Callable[[str], None]) -> Section:
    section = Section(f"Most heartbeats a second of one worker: {CONNECTIONS:,} connections, flush 1 s")
    most = 0
    for rate in STEPS:
        with playhead() as server:
            try:
                cost = drive(server, Load(server.port, "json", CONNECTIONS, rate, options.window_s))
            except Failed as error:
                section.remarks.append(f"{rate:,}/s: {error}")
                break
        say(f"{rate:,}/s: p99 {cost.outcome.p99_ms:.0f} ms, {cost.busy:.0%} busy {cost.caveat}")
        note = f"server {cost.busy:.0%} busy" + (f"; {cost.caveat}" if cost.caveat else "")
        section.rows.append(Row(f"{rate:,}/s: ack, p99", [cost.outcome.p99_ms], "ms", BOUND_MS, note))
        if cost.outcome.p99_ms > BOUND_MS or not cost.outcome.kept_up:
            break
        most = rate
    section.rows.insert(0, Row("**sustained**", [most], "heartbeats/s"))
    return section
