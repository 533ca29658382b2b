"""SIGHUP ends the service as SIGTERM does, with one process or several: nothing that was taken is lost, and a terminal
that is closed leaves nothing behind. Real processes."""

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
"""A flush comes by draining alone."""
ALONE = ("setsid",)
"""In a session and a group of its own, as from a terminal of its own."""
IGNORING = ("sh", "-c", 'trap "" HUP; exec "$@"', "sh")
"""As by nohup."""


def to_the_program(running: Program) -> None:
    running.kill(signal.SIGHUP)


def by_a_terminal(running: Program) -> None:
    """To all of the group by the kernel, and to the program by the shell as well."""
    os.killpg(running.process.pid, signal.SIGHUP)
    running.kill(signal.SIGHUP)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("hang_up", [to_the_program, by_a_terminal])
async def test_a_hangup_stores_what_was_taken_and_says_goodbye(
    tmp_path: Path, workers: int, hang_up: Callable[[Program], None]
) -> None:
    """The last report is acked, the player is told to come back, the exit code is 0, and no process is left."""
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
async def test_a_hangup_that_is_ignored_at_the_start_changes_nothing(tmp_path: Path, workers: int) -> None:
    """Neither for the program nor for one of its workers."""
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
async def test_what_a_terminal_tells_those_behind_it_changes_no_number_of_workers(
    tmp_path: Path, number: signal.Signals
) -> None:
    async with serve(free_port(), "--workers", "2", "--data-dir", str(tmp_path)) as running:
        before = descendants(running.process.pid)
        running.kill(number)
        running.kill(signal.SIGTERM)  # its signals are handled in order: this one after that one
        assert await running.ended() == 0
        await gone(before)
        assert running.log is not None
        assert "Traceback" not in running.log.text


def _python(running: Program) -> list[int]:
    """Its workers, and what else of Python is below it; the store is not."""
    found = []
    for pid in descendants(running.process.pid):
        if b"valkey-server" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            found.append(pid)
    return found
