"""Simulate a class: many learners watch at once, each with the Python client, on a running service.

    python examples/classroom.py http://127.0.0.1:8000 --learners 50 --seconds 30

Each learner watches at its own speed and sometimes jumps. At the end, the script compares what was watched with what
the service has stored, and exits with 1 if they differ.
"""

import argparse
import asyncio
import random
import sys
import time
from uuid import uuid4

from playhead.client import playhead_client

LESSON_S = 1_800
BEAT_S = 1.0


async def learn(url: str, video: str, seconds: float, rng: random.Random) -> tuple[int, int, list[float]]:
    """Simulate one learner.

    Returns:
        The seconds watched, the seconds that the service has stored, and the time in s that each ack took.
    """
    user, seen, waits = str(uuid4()), set[int](), list[float]()
    async with playhead_client(url, device="classroom", user_id=user, transports=("ws", "http")) as p:
        position, end = rng.randrange(0, LESSON_S // 2), time.monotonic() + seconds
        while time.monotonic() < end:
            began, stretch = time.monotonic(), rng.choice((1, 1, 1, 2))
            if rng.random() < 0.05:
                position = rng.randrange(0, LESSON_S - 10)
            if position + stretch > LESSON_S:
                break
            await p.watch(
                video, played=[(position, position + stretch)], position=position + stretch, duration=LESSON_S
            )
            waits.append(time.monotonic() - began)
            seen.update(range(position, position + stretch))
            position += stretch
            await asyncio.sleep(max(0.0, BEAT_S - waits[-1]))
        await p.flush()
        record = await p.rest.get(video)
    return len(seen), record.watched_duration or 0, waits


async def classroom(url: str, learners: int, seconds: float, seed: int) -> int:
    """Simulate all learners at once; the exit code."""
    video, rng = str(uuid4()), random.Random(seed)  # noqa: S311 a simulation
    results = await asyncio.gather(*(learn(url, video, seconds, random.Random(rng.random())) for _ in range(learners)))  # noqa: S311
    watched, known = sum(r[0] for r in results), sum(r[1] for r in results)
    waits = sorted(wait for _, _, each in results for wait in each)
    print(f"{learners} learners, {len(waits)} heartbeats, each stored in {waits[len(waits) // 2]:.2f} s (median)")
    print(f"watched {watched} s, stored {known} s: {'nothing is missing' if watched == known else 'THEY DIFFER'}")
    return int(watched != known)


def main() -> int:
    parser = argparse.ArgumentParser(description="Let a class of simulated learners watch a lesson.")
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8000")
    parser.add_argument("--learners", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    return asyncio.run(classroom(given.url, given.learners, given.seconds, given.seed))


if __name__ == "__main__":
    sys.exit(main())
