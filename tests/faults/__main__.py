"""`make faults`: run every case in full on every store, and print a table. Exit code 1 if anything was lost or wrong.

Faults are injected into real processes while many players watch. Afterwards every record, summary and curve is
compared with a model that applies the pure rules of protocol/ to the heartbeats that were sent.
"""

import argparse
import asyncio
import logging
import sys
import time
from pathlib import Path

from tests.faults.effort import Effort
from tests.faults.place import Missing
from tests.faults.registry import CASES, Case
from tests.faults.report import table
from tests.faults.scene import Row

SHOWN = 5
"""Lines about lost or wrong values that are printed for each fault."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=[case.name for case in CASES], help="run this case only; repeatable"
    )
    parser.add_argument("--place", action="append", choices=sorted({p for case in CASES for p in case.places}))
    parser.add_argument("--short", action="store_true", help="run the short form of `make test`, on every place")
    parser.add_argument("--at-once", type=int, default=2, help="cases that run at the same time (2)")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    logging.getLogger("client").setLevel(logging.CRITICAL)
    chosen = [
        (case, place)
        for case in CASES
        for place in case.places
        if (not options.only or case.name in options.only) and (not options.place or place in options.place)
    ]
    began = time.monotonic()
    rows = asyncio.run(_all(chosen, Effort(options.short), options.at_once))
    text = table(rows, time.monotonic() - began)
    print(f"\n{text}")
    if options.out is not None:
        options.out.write_text(text)
    return 0 if rows and all(row.passed for row in rows) else 1


async def _all(chosen: list[tuple[Case, str]], effort: Effort, at_once: int) -> list[Row]:
    """Run all, and return their rows in the order of `chosen`."""
    turns = asyncio.Semaphore(at_once)

    async def one(case: Case, place: str) -> list[Row]:
        async with turns:
            print(f"{case.name} on {place} …", flush=True)
            rows = await _run(case, place, effort)
        for row in rows:
            print(f"  {'ok' if row.passed else 'FAILED':<7}{row.fault} ({row.place})", flush=True)
            for line in (*row.lost[:SHOWN], *row.wrong[:SHOWN]):
                print(f"    {line[:1_000]}", flush=True)
        return rows

    return [row for rows in await asyncio.gather(*(one(*each) for each in chosen)) for row in rows]


async def _run(case: Case, place: str, effort: Effort) -> list[Row]:
    try:
        return await case.run(place, effort)
    except Missing as missing:
        return [Row(case.name, place, wrong=[f"not run: {missing}"])]
    except Exception as error:  # the table says so, and the other cases are run
        return [Row(case.name, place, wrong=[f"the case raised {type(error).__name__}: {error}"])]


if __name__ == "__main__":
    sys.exit(main())
