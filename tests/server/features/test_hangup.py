"""SIGHUP ends the service as SIGTERM does, with one process or several: no accepted report is lost, and a closed
terminal leaves nothing behind. Real processes."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from websockets.exceptions import ConnectionClosed

from tests.device import device
from tests.ports import free_port
from tests.rest import ok, rest
from tests.server.program import Program, descendants, gone, serve

UNTIL_THE_END = {"PLAYHEAD_FLUSH_INTERVAL_S": "60"}
"""Only the drain flushes."""
ALONE = ("setsid",)
"""In a session and a group of its own, as from a terminal of its own."""
IGNORING = ("sh", "-c", 'trap "" HUP; exec "$@"', "sh")
"""Ignore SIGHUP, as under nohup."""


def to_the_program(running: Program) -> None:
    running.kill(signal.SIGHUP)


def by_a_terminal(running: Program) -> None:
    """Send SIGHUP to the group, as the kernel does, and to the program, as the shell does as well."""
    os.killpg(running.process.pid, signal.SIGHUP)
    running.kill(signal.SIGHUP)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("hang_up", [to_the_program, by_a_terminal])
async def test_sighup_stores_accepted_reports_and_sends_goodbyes(
    tmp_path: Path, workers: int, hang_up: Callable[[Program], None]
) -> None:
    """The last report is acked, the player is asked to reconnect, the exit code is 0, and no process is left."""
    options, user, video = ("--workers", str(workers), "--data-dir", str(tmp_path)), str(uuid4()), str(uuid4())
    async with serve(free_port(), *options, through=ALONE, **UNTIL_THE_END) as running:
        below = descendants(running.process.pid)
        async with device(running.running, user) as player:
            await player.beat(video, played=[[0, 5]], position=5, state="playing")
            hang_up(running)
            assert (await player.acked())["rejected"] == []
            assert (await player.until("goodbye"))["code"] == "restarting"
            with pytest.raises(ConnectionClosed):
                await player.receive()
            assert player.socket.close_code == 4001
        assert await running.ended() == 0
        await gone(below)
    async with serve(free_port(), *options) as again, rest(again.running) as api:
        assert ok(await api.get(f"/progress/{user}/{video}"))["watchedDuration"] == 5


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_sighup_that_is_ignored_at_startup_changes_nothing(tmp_path: Path, workers: int) -> None:
    """Neither for the program nor for its workers."""
    options, user = ("--workers", str(workers), "--data-dir", str(tmp_path), "--flush-interval-s", "0.05"), str(uuid4())
    async with serve(free_port(), *options, through=IGNORING) as running, device(running.running, user) as player:
        for pid in (running.process.pid, *_python(running)):
            os.kill(pid, signal.SIGHUP)
        await asyncio.sleep(0)
        for second in range(0, 20, 5):
            await player.play(str(uuid4()), second, second + 5)
        assert running.process.returncode is None
        assert await running.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTTIN, signal.SIGTTOU], ids=["SIGTTIN", "SIGTTOU"])
async def test_signals_of_a_terminal_do_not_change_the_number_of_workers(
    tmp_path: Path, number: signal.Signals
) -> None:
    async with serve(free_port(), "--workers", "2", "--data-dir", str(tmp_path)) as running:
        before = descendants(running.process.pid)
        running.kill(number)
        running.kill(signal.SIGTERM)  # signals are handled in order, so this one after the other
        assert await running.ended() == 0
        await gone(before)
        assert running.log is not None
        assert "Traceback" not in running.log.text


def _python(running: Program) -> list[int]:
    """The workers, and other Python processes of the program; without the store."""
    found = []
    for pid in descendants(running.process.pid):
        if b"valkey-server" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            found.append(pid)
    return found
