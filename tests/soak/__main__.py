"""`make soak`: SOAK_SECONDS (1800) of churn, in rounds of about a minute; exit status 1 if a round leaves anything."""

import argparse
import asyncio
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.soak.churn import Unsettled, soak

ROUND_S = 60.0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("SOAK_SECONDS") or 1_800))
    parser.add_argument("--actors", type=int, default=60)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args(arguments)
    rounds = max(3, round(options.seconds / ROUND_S))
    print(f"Soaking for {options.seconds:g} s in {rounds} rounds, seed {options.seed}", flush=True)
    with TemporaryDirectory(prefix="playhead-soak-") as directory:
        try:
            found = asyncio.run(soak(Path(directory), options.seconds, options.actors, rounds, options.seed))
        except Unsettled as left:
            print(f"Left behind: {left}", file=sys.stderr)
            return 1
    lives = sum(sum(done.values()) for _, done in found)
    first, last = found[0][0], found[-1][0]
    grown = (last.rss_bytes - first.rss_bytes) / 1_048_576
    print(
        f"{lives:,} clients; nothing is left of them. Memory {first.rss_bytes / 1_048_576:.1f} MiB, {grown:+.1f} since"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
