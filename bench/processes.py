"""The programs that the bench starts, their CPU time and memory by the kernel's account, and how they are ended."""

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
"""The scheduler's CPU clock, in ns; Linux derives the clock ids of other processes from their pids."""
ROOT = Path(__file__).parent.parent
START_S = 30.0
STOP_S = 20.0


def cpu_s(pid: int) -> float:
    """User and system time of a process and all its threads, by its CPU clock: `/proc` has steps of 10 ms.

    Source: clock_getcpuclockid(3), computed here, since Python offers it for threads only.
    """
    return time.clock_gettime(~pid << 3 | SCHED_CLOCK)


def rss_bytes(pid: int) -> int:
    """Private memory of a process, without mapped libraries."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) * 1_024
    raise RuntimeError("no Private_Dirty")


class Failed(Exception):
    """A program of the bench failed; the message has its last output."""


@contextlib.contextmanager
def running(command: list[str], log: Path, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """Run a program with pipes for input and output and its errors in `log`; it is ended with the block."""
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
    """Wait until the process listens on the port. Raises Failed."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise Failed(f"{process.args!r} does not listen: {log.read_text()[-500:]}")
