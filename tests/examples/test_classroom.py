"""examples/classroom.py, run as its docstring says, on the real program."""

import asyncio
import sys
from pathlib import Path

from tests.ports import free_port
from tests.server.program import END_S, ROOT, serve


async def test_everything_that_a_class_watches_is_stored(tmp_path: Path) -> None:
    """Every client gets an ack for everything that was watched, and the service has exactly that."""
    async with serve(free_port(), "--data-dir", str(tmp_path / "data"), "--flush-interval-s", "0.2") as program:
        command = ["examples/classroom.py", program.running.http, "--learners", "15", "--seconds", "4"]
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(END_S):
            out, err = await process.communicate()
    assert (process.returncode, err.decode()) == (0, "")
    assert "15 learners" in out.decode()
    assert "nothing is missing" in out.decode()
