"""Programs that the bench starts, what they cost by the kernel's own account, and how each is ended: by its pid."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

SCHED_CLOCK = 2
"""What the scheduler has counted, in ns; Linux numbers the clocks of others by their pids."""
ROOT = Path(__file__).parent.parent
START_S = 30.0
STOP_S = 20.0


def cpu_s(pid: int) -> float:
    """User and system time of a process and all its threads, by its own clock: `/proc` has it in steps of 10 ms.

    Source: clock_getcpuclockid(3), written out, for Python has it for threads alone.
    """
    return time.clock_gettime(~pid << 3 | SCHED_CLOCK)


def rss_bytes(pid: int) -> int:
    """Memory of its own: what it shares with nobody, so that mapped libraries don't count."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) * 1_024
    raise RuntimeError("no Private_Dirty")


class Failed(Exception):
    """A program of the bench did not do what it is for; the message has its last words."""


@contextlib.contextmanager
def running(command: list[str], log: Path, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A program with pipes for its input and output, its complaints in `log`; ended with the block."""
    with log.open("w") as complaints:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            text=True,
        )
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def await_port(port: int, process: subprocess.Popen[str], log: Path) -> None:
    """Until it listens."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise Failed(f"{process.args!r} does not listen: {log.read_text()[-500:]}")
