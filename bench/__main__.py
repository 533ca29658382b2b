"""`python -m bench [--quick] [--only CASE]`: measures, prints a table for each case, and writes bench/RESULTS.md."""

import argparse
import importlib
import json
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from bench import cases
from bench.machine import described
from bench.options import Options
from bench.processes import Failed
from bench.report import Section, markdown

RESULTS, NUMBERS = (Path(__file__).parent / name for name in ("RESULTS.md", "results.json"))
ORDER = (
    "heartbeat_cost",
    "receive_cost",
    "flush_cost",
    "codec_cost",
    "connection_count",
    "flush_interval_cost",
    "durability_cost",
    "cluster_cost",
    "memory",
    "rest_cost",
    "totals_cost",
    "reconnect_cost",
    "most_heartbeats",
)
"""The most important cases first."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description="Measures the service; see bench/README.md.")
    parser.add_argument(
        "--quick", action="store_true", help="heartbeats only, one turn: takes about a minute, and is imprecise"
    )
    parser.add_argument(
        "--only", choices=ORDER, action="append", help="run this case only; may be repeated; leaves RESULTS.md as it is"
    )
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything that was started is ended
    options, started = Options(given.quick), time.monotonic()
    failed: list[str] = []
    numbers: dict[str, dict[str, float]] = {}
    page = [
        "# Results",
        f"Made by `make bench` on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        f"{' with --quick: rough' if given.quick else ''}. How to read it: [README.md](README.md).",
        "\n".join(f"- {line}" for line in described()),
    ]
    print("\n".join(page[1:]), file=sys.stderr)
    for name in given.only or (ORDER[:1] if given.quick else ORDER):
        began = time.monotonic()
        case = importlib.import_module(f"{cases.__name__}.{name}")
        try:
            section = case.run(options, lambda line, name=name: print(f"  {name}: {line}", file=sys.stderr, flush=True))
        except Failed as error:
            section = Section(name, remarks=[f"**failed: {error}**"])
            failed.append(name)
        page.append(markdown(section))
        numbers[section.title] = {row.what: float(f"{row.median:.4g}") for row in section.rows if row.values}
        print(page[-1], flush=True)
        print(f"  {name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    page.append(f"It took {time.monotonic() - started:.0f} s.")
    if not given.only and not given.quick:
        RESULTS.write_text("\n\n".join(page) + "\n")
        NUMBERS.write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
