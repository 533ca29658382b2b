"""The real program as a separate process: started, awaited, and ended by its own pid whatever the test does."""

import asyncio
import contextlib
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from playhead.server.settings import Settings
from tests.serving import Running

ROOT = Path(__file__).parents[2]
START_S = 60.0
"""Bound on a start; a test that reaches it has failed."""
END_S = 30.0
UNHANDLED = re.compile(r".*(?:was never (?:retrieved|awaited)|was destroyed but it is pending|Warning: (?!.*name=0)).*")
"""Python's warnings about bugs that would go unnoticed; uvicorn leaves its workers' stdin open, which is exempt."""
READY = re.compile(r"Playhead is ready on http://(127\.0\.0\.1|\[::1\]):(\d+)(;.*)?\n")


def environment(**extra: str) -> dict[str, str]:
    """The environment of this process, without settings from the developer's shell."""
    ours = {"PLAYHEAD_DRAIN_NOTICE_S": "0", "PYTHONWARNINGS": "error"}  # there is no balancer that needs the notice
    return {k: v for k, v in os.environ.items() if not k.startswith("PLAYHEAD_")} | ours | extra


@dataclass
class Program:
    """One `playhead serve`."""

    process: Process
    port: int
    line: str = ""
    """The line that it printed when it was ready."""
    log: "Log | None" = None

    async def logged(self, words: str) -> None:
        """Wait until the log has these words."""
        assert self.log is not None
        async with asyncio.timeout(END_S):
            while words not in self.log.text:
                self.log.more.clear()
                await self.log.more.wait()

    @property
    def running(self) -> Running:
        """The server as the other helpers expect it; its clock is not that of this server."""
        return Running(self.port, Settings(port=self.port))

    def kill(self, number: int) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait for the exit, and return the exit code."""
        async with asyncio.timeout(END_S):
            return await self.process.wait()

    async def stop(self, number: int = signal.SIGTERM) -> int:
        self.kill(number)
        return await self.ended()


@dataclass
class Log:
    """The lines that a program writes to stderr, as they arrive."""

    text: str = ""
    more: asyncio.Event = field(default_factory=asyncio.Event)

    async def follow(self, stream: asyncio.StreamReader) -> None:
        while line := await stream.readline():
            self.text += line.decode()
            self.more.set()


@contextlib.asynccontextmanager
async def launched(*options: str, through: Sequence[str] = (), **env: str) -> AsyncIterator[Process]:
    """`playhead serve` with these options, not waited for.

    Args:
        through: words before it, of a program that becomes it.
    """
    words = (*through, sys.executable, "-m", "server", "serve", *options)
    process = await asyncio.create_subprocess_exec(*words, cwd=ROOT, env=environment(**env), stdout=PIPE, stderr=PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(END_S):
                    await process.wait()
            except TimeoutError:
                await end_tree(process.pid)
                await process.wait()


@contextlib.asynccontextmanager
async def serve(port: int, *options: str, through: Sequence[str] = (), **env: str) -> AsyncIterator[Program]:
    """Run `playhead serve` until the block ends, once it reports that it is ready; `through` as for `launched`."""
    async with launched("--port", str(port), *options, through=through, **env) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        log = Log()
        following = asyncio.create_task(log.follow(process.stderr))
        try:
            async with asyncio.timeout(START_S):
                line = (await process.stdout.readline()).decode()
            assert READY.fullmatch(line), (line, log.text)
            yield Program(process, port, line, log)
        finally:
            following.cancel()
            await asyncio.wait({following})
            assert not (unhandled := UNHANDLED.findall(log.text)), unhandled


async def refused(*options: str, **env: str) -> tuple[int, str, str]:
    """Run a `playhead serve` that must not start: exit code, stdout, stderr."""
    async with launched(*options, **env) as process, asyncio.timeout(START_S):
        out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()


def descendants(pid: int) -> list[int]:
    """The processes below a process, without itself."""
    found: list[int] = []
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        for task in tasks:
            for child in (task / "children").read_text().split():
                found += (int(child), *descendants(int(child)))
    except OSError:
        pass  # the process has ended in the meantime
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended but was not reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


async def gone(pids: list[int]) -> None:
    """Wait until none of these processes is left."""
    async with asyncio.timeout(END_S):
        while any(alive(pid) for pid in pids):  # noqa: ASYNC110 no event tells of another's child
            await asyncio.sleep(0.02)


async def end_tree(pid: int) -> None:
    """SIGKILL a process and all processes below it."""
    for each in (pid, *descendants(pid)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
