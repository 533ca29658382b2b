"""Whether the cost of a video's summary is independent of its number of viewers, and the cost of its curve.

The audiences are written by the service's own Store; the requests are sent to the service, sixteen at a time.
"""

import asyncio
import time
from collections.abc import Callable

from bench.learners import commit
from bench.load.http import ask_all, get
from bench.load.spec import learner, video
from bench.options import Options
from bench.report import Row, Section
from bench.servers import Server, playhead
from playhead.storage.store import open_store

FEW = 1_000


def run(options: Options, say: Callable[[str], None]) -> Section:
    many, curve = (20_000, 10_000) if options.quick else (1_000_000, 100_000)
    count = 1_000 if options.quick else 3_000
    section = Section("A video's totals by its number of viewers")
    with playhead() as server:
        assert server.store is not None  # noqa: S101 it has one
        small, large = video(9, 0), video(9, 1)
        asyncio.run(_audience(server.store.url, small, range(FEW)))
        asyncio.run(_audience(server.store.url, large, range(curve)))
        curves = [_measure(server, f"/analytics/videos/{large}", 50) for _ in range(3)]
        began = time.monotonic()
        asyncio.run(_audience(server.store.url, large, range(curve, many)))
        took_s = time.monotonic() - began
        say(f"{many - curve:,} viewers written in {took_s:.0f} s")
        few: list[float] = []
        lots: list[float] = []
        for _ in range(3):
            few.append(sum(_measure(server, f"/progress/summary/{small}", count)))
            lots.append(sum(_measure(server, f"/progress/summary/{large}", count)))
            say(f"summary: {few[-1]:.0f} µs at {FEW:,}, {lots[-1]:.0f} µs at {many:,}")
    section.rows += [
        Row(f"summary of {FEW:,} viewers, server and store", few, "µs"),
        Row(f"summary of {many:,} viewers, server and store", lots, "µs"),
        Row(f"**{many:,} / {FEW:,} viewers**", [b / a for a, b in zip(few, lots, strict=True)], "×", 1.3),
        Row(f"curve of a 3-hour video, {curve:,} viewers: server", [ours / 1e3 for ours, _ in curves], "ms"),
        Row(f"curve of a 3-hour video, {curve:,} viewers: store", [theirs / 1e3 for _, theirs in curves], "ms"),
    ]
    return section


async def _audience(url: str, video_id: str, viewers: range) -> None:
    """Store viewers of a video of 3 h, each of whom has watched a minute somewhere in it."""
    target = open_store(url, worker="bench", timeout_s=60)
    await commit(target, ((learner(9, i), video_id) for i in viewers), length_s=10_000)
    await target.close()


def _measure(server: Server, path: str, count: int) -> tuple[float, float]:
    """CPU of server and of store per request, µs."""
    asyncio.run(ask_all(server.port, [get(path)] * 20))
    before = server.cpu_s()
    asyncio.run(ask_all(server.port, [get(path)] * count))
    after = server.cpu_s()
    return (after[0] - before[0]) / count * 1e6, (after[1] - before[1]) / count * 1e6
