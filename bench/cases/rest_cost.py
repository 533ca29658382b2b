"""CPU of a REST update and get, compared with a bare Starlette route with one HSET or HGET.

Sixteen kept connections send requests as fast as they are answered; only the CPU of the servers counts. The service
validates, joins the record by its rules and updates the video's totals; the bare route stores what it received.
"""

import asyncio
import json
from collections.abc import Callable

from bench.load.http import ask_all, get, post
from bench.load.spec import learner, video
from bench.options import Options
from bench.report import Row, Section, ratios
from bench.servers import Server, naive, playhead

WHEN = "2026-01-01T10:00:00.000Z"


def run(options: Options, say: Callable[[str], None]) -> Section:
    section = Section("REST: CPU a request, beside bare Starlette with HSET or HGET")
    costs: dict[tuple[str, str], list[tuple[float, float]]] = {}
    count = 1_500 if options.quick else 4_000
    for _ in range(options.turns):
        for name, start in (("Playhead", playhead), ("bare route", naive)):
            with start() as server:
                for what, requests in _requests(count).items():
                    cost = _measure(server, requests)
                    costs.setdefault((what, name), []).append(cost)
                    say(f"{name}, {what}: {cost[0]:.0f} µs, store {cost[1]:.0f} µs")
    for (what, name), values in costs.items():
        section.rows.append(Row(f"{what}, {name}: server", [server for server, _ in values], "µs"))
        section.rows.append(Row(f"{what}, {name}: store", [store for _, store in values], "µs"))
    for what in _requests(0):
        ours, theirs = ([server for server, _ in costs[what, name]] for name in ("Playhead", "bare route"))
        section.rows.append(Row(f"**{what}: Playhead / bare route**", ratios(ours, theirs), "×", 1.5))
    return section


def _requests(count: int) -> dict[str, list[bytes]]:
    keys = [(learner(1, i % 500), video(1, i % 20)) for i in range(count)]
    bodies = [
        {"userId": user, "videoId": video_id, "watchedDuration": 10 + i // 500, "lastWatched": WHEN}
        for i, (user, video_id) in enumerate(keys)
    ]
    return {
        "update": [post("/progress/update", json.dumps(body).encode()) for body in bodies],
        "get": [get(f"/progress/{user}/{video_id}") for user, video_id in keys],
    }


def _measure(server: Server, requests: list[bytes]) -> tuple[float, float]:
    """CPU of server and of store per request, µs."""
    asyncio.run(ask_all(server.port, requests[: len(requests) // 10]))
    before = server.cpu_s()
    asyncio.run(ask_all(server.port, requests))
    after = server.cpu_s()
    return (after[0] - before[0]) / len(requests) * 1e6, (after[1] - before[1]) / len(requests) * 1e6
