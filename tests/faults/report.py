"""The table of a run."""

import statistics
from collections.abc import Sequence

from tests.faults.scene import Row

HEAD = ["fault", "store", "runs", "sent", "acked", "lost", "wrong", "recovered, s: median (most)", "remark"]
LEGEND = """\
sent, acked: heartbeats of all players. lost: acked, but not in the store. wrong: records, summaries, curves and devices
that differ from the model. recovered: from the end of the fault until all reports waiting then were acked.
"""


def table(rows: Sequence[Row], took_s: float) -> str:
    """Markdown."""
    lines = [HEAD, ["---"] * len(HEAD), *(_cells(row) for row in rows)]
    runs, acked = sum(row.runs for row in rows), sum(row.acked for row in rows)
    lost, wrong = sum(len(row.lost) for row in rows), sum(len(row.wrong) for row in rows)
    total = f"{len(rows)} faults, {runs:,} runs, {acked:,} heartbeats acked, {lost} lost, {wrong} wrong; "
    total += f"{took_s / 60:.0f} min"
    return "\n".join([*("| " + " | ".join(cells) + " |" for cells in lines), "", total, "", LEGEND])


def _cells(row: Row) -> list[str]:
    times = row.recovered_s
    recovered = f"{statistics.median(times):.2f} ({max(times):.2f})" if times else ""
    counts = [f"{count:,}" for count in (row.runs, row.sent, row.acked, len(row.lost), len(row.wrong))]
    return [row.fault, row.place, *counts, recovered, row.remark]
