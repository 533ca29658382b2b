"""kill -9 of a client's process: the next process stores what it had reported, once."""

import asyncio
import random
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from playhead.server.clock import system_clock
from tests.client.line import PATIENCE_S, client
from tests.client.test_playhead import NOWHERE, stored
from tests.conftest import StoreServer
from tests.server.program import ROOT, environment
from tests.serving import serving

PLAYER = """
import asyncio, sys
from playhead.client import playhead_client

async def main(url, user, video, path):
    async with playhead_client(url, device="tv", user_id=user, outbox_path=path) as p:
        for index in range(100_000):
            p.report(video, [(2 * index, 2 * index + 2)], 2 * index + 2, age_s=2 * (3_000 - index))
            print(index + 1, len(p.pending), flush=True)
            await asyncio.sleep(0.001)

asyncio.run(main(*sys.argv[1:]))
"""


async def killed_player(url: str, user: str, video: str, path: Path, after: int) -> int:
    """Kill a player; the number of reports that it had made."""
    player = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PLAYER, url, user, video, str(path), cwd=ROOT, env=environment(), stdout=PIPE
    )
    assert player.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE_S):
            for _ in range(after):
                assert await player.stdout.readline()
    finally:
        player.send_signal(signal.SIGKILL)
        said = await player.stdout.read()
        await player.wait()
    lines = said.decode().split("\n")
    return int(lines[-2].split()[0]) if len(lines) > 1 else after


@pytest.mark.parametrize("online", [False, True], ids=["offline", "while-it-is-being-stored"])
async def test_the_next_process_stores_the_reports_of_a_killed_one(
    store_server: StoreServer, prefix: str, tmp_path: Path, online: bool
) -> None:
    """Three processes in a row are killed, with or without a server; all their reports, acked, sent or not sent, are
    stored once: seconds, repeats and total."""
    dice = random.Random(5)
    user, path = str(uuid4()), tmp_path / "outbox"
    reported: dict[str, int] = {}
    settings: dict[str, Any] = {"redis_url": store_server.url, "key_prefix": prefix, "flush_interval_s": 0.03}
    async with serving(system_clock, **settings) as server:
        for _ in range(3):
            video = str(uuid4())
            url = server.http if online else NOWHERE
            reported[video] = await killed_player(url, user, video, path, dice.randrange(50, 300))
        assert path.exists()
        async with client(server.http, user, outbox_path=path, close_timeout_s=PATIENCE_S) as p:
            assert p.pending
            await p.flush()
            assert not p.rejected
        assert not path.exists()
        for video, count in reported.items():
            record = await stored(server, user, video)
            ((start, end),) = record["seen"]
            assert start == 0
            assert end in (2 * count, 2 * count + 2)  # the last may be in the file and not yet on the screen
            assert record == {"seen": [[0, end]], "again": [], "playedDuration": float(end), "position": float(end)}
