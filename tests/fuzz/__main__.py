"""`make fuzz`: search for FUZZ_SECONDS (600). Half of the time goes to the fuzz targets, half to the property tests.

A finding is written to the corpus as found-<hash>, where the ordinary tests run it from then on: keep the file, and fix
the cause. The property tests print how to reproduce a failure. The exit status is 1 if anything was found.
"""

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.fuzz.search import search
from tests.fuzz.targets import CORPUS, SHARES, TARGETS, corpus

GRACE_S = 45
"""How long the last round of property tests may exceed the time before it is interrupted."""
Row = tuple[str, str, int]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("FUZZ_SECONDS") or 600))
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--target", choices=TARGETS, help="fuzz this target only")
    options = parser.parse_args()
    print(f"Fuzzing for {options.seconds:g} s, seed {options.seed}", flush=True)
    names = [options.target] if options.target else list(TARGETS)
    ends = time.monotonic() + options.seconds
    share_s = options.seconds * (1 if options.target else 0.5) / sum(SHARES.get(name, 1) for name in names)
    rows = [_fuzz(name, share_s * SHARES.get(name, 1), options.seed) for name in names]
    if not options.target:
        rows.append(_properties(ends, options.seed))
    print(f"\n{'target':<14}{'tried':<52}findings")
    for name, tried, findings in rows:
        print(f"{name:<14}{tried:<52}{findings}")
    return 1 if any(findings for _, _, findings in rows) else 0


def _fuzz(name: str, seconds: float, seed: int) -> Row:
    ends = time.monotonic() + seconds
    seeds = [path.read_bytes() for path in corpus(name)]
    result = search(TARGETS[name], seeds, random.Random(f"{name} {seed}"), lambda _: time.monotonic() < ends)
    for place, found in result.findings.items():
        path = CORPUS / name / f"found-{hashlib.sha256(found.data).hexdigest()[:12]}"
        path.write_bytes(found.data)
        print(f"\n{name}: {place}\n{found.trace}\nInput kept in {path}: {found.data[:2_000]!r}", flush=True)
    tried = f"{result.tried:,} inputs; {result.kept:,} reach {result.steps:,} steps"
    print(f"{name}: {tried}", flush=True)
    return name, tried, len(result.findings)


def _properties(ends: float, seed: int) -> Row:
    """Run tests/property in rounds, each with another seed. None is begun that would not end in time."""
    rounds, longest_s = 0, 0.0
    while not rounds or time.monotonic() + longest_s < ends:
        begun = time.monotonic()
        status = _round(seed + rounds, ends + GRACE_S)
        if status is None:
            return "properties", f"{rounds} rounds of tests/property; one more was interrupted", 0
        rounds += 1
        if status:
            return "properties", f"{rounds} rounds of tests/property", 1
        longest_s = max(longest_s, time.monotonic() - begun)
    return "properties", f"{rounds} rounds of tests/property", 0


def _round(seed: int, ends: float) -> int | None:
    """Run one round. Returns pytest's exit status, or None if it was interrupted."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "tests/property", f"--hypothesis-seed={seed}"]
    print(f"\n{' '.join(command[1:])}", flush=True)
    environment = {**os.environ, "HYPOTHESIS_PROFILE": "fuzz"}
    process = subprocess.Popen(command, env=environment, cwd=Path(__file__).parents[2])
    try:
        return process.wait(max(1.0, ends - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return None


if __name__ == "__main__":
    sys.exit(main())
