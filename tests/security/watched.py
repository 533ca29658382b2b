"""The program under attack, in a process of its own, and what is monitored: memory, log, connections, a learner.

Each test is an attack. Whatever it does, a well-behaved device is served throughout, memory stays within a bound, the
server closes every connection by itself, and its log does not grow.
"""

import asyncio
import contextlib
import os
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio

from playhead.server.settings import Settings
from playhead.storage.connection.primary import MAX_CONNECTIONS
from tests.device import Device, device
from tests.ports import free_port
from tests.rest import rest
from tests.security.attacker import MARK, PATIENCE_S
from tests.server.program import READY, START_S, launched
from tests.serving import Running

MEMORY_MIB = 48
"""How far the peak may exceed the memory of the warm program: the tree of one JSON body of the largest size with the
smallest values takes 26, its text 2 or 3, and not all freed memory is returned to the system."""
PING_EVERY_S = 0.01
"""Far below the rate at which a connection may send frames."""
LOG_LINES = 3
"""How many lines one attack may add to the log."""
VIDEO = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
SHORT = {
    "PLAYHEAD_HEAD_TIMEOUT_S": "1",
    "PLAYHEAD_BODY_TIMEOUT_S": "1",
    "PLAYHEAD_HELLO_TIMEOUT_S": "1",
    "PLAYHEAD_WRITE_TIMEOUT_S": "1",
    "PLAYHEAD_KEEP_ALIVE_S": "1",
    "PLAYHEAD_PING_INTERVAL_S": "1",
    "PLAYHEAD_PING_TIMEOUT_S": "2",
    "PLAYHEAD_FLUSH_INTERVAL_S": "0.01",
    "PLAYHEAD_DURABILITY": "memory",
    "PLAYHEAD_MAX_QUEUE_BYTES": "524288",
    "PLAYHEAD_MAX_CONNECTIONS_PER_USER": "128",
    "PLAYHEAD_FRAMES_PER_S": "100",
    "PLAYHEAD_ADDRESS_REQUESTS_BURST": "100000",
}
"""Deadlines short enough to wait for, and rates for many users at one address."""


@dataclass
class Target:
    """The process of the server, observed from outside."""

    process: Process
    port: int
    log: list[str] = field(default_factory=list)
    seen: "dict[str, Watch]" = field(default_factory=dict)
    """The results by attack."""

    @property
    def running(self) -> Running:
        return Running(self.port, Settings(port=self.port))

    def memory_mib(self, which: str = "VmRSS") -> float:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.partition(f"{which}:")[2].split()[0]) / 1_024

    def reset_peak_memory(self) -> None:
        """Make VmHWM the peak since now (proc(5), clear_refs)."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def files(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def connections(self) -> int:
        """TCP connections that the server holds open; closed ones that the kernel is still ending have inode 0."""
        local = f":{self.port:04X}"
        rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines() if local in row]
        return sum(row[1].endswith(local) and row[3] != "0A" and row[9] != "0" for row in rows)

    async def wait_for_connections(self, connections: int) -> None:
        """Wait until the server holds at most this many."""
        async with asyncio.timeout(PATIENCE_S):
            while self.connections() > connections:  # noqa: ASYNC110 another process sends no event
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def under_attack(data_dir: Path, warm: bool = True, **env: str) -> AsyncIterator[Target]:
    """Run the real program with its own store."""
    async with launched("--port", str(free_port()), "--data-dir", str(data_dir), **SHORT | env) as process:
        assert process.stdout is not None
        async with asyncio.timeout(START_S):
            ready = READY.fullmatch((await process.stdout.readline()).decode())
        assert ready
        target = Target(process, int(ready[2]))
        reading = asyncio.create_task(_read_log(target))
        try:
            if warm:
                await _warm_up(target)
            yield target
        finally:
            reading.cancel()


async def _read_log(target: Target) -> None:
    assert target.process.stderr is not None
    while line := await target.process.stderr.readline():
        target.log.append(line.decode(errors="replace"))


async def _warm_up(target: Target) -> None:
    """Cause everything to be loaded and allocated that well-behaved clients need once."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(50):
            learner = await stack.enter_async_context(device(target.running, str(uuid4())))
            await learner.beat(VIDEO, played=[[0, 5]], position=5, state="playing")
        await learner.acked()
    big = {"userId": str(uuid4()), "progressData": [{}] * 20_000}
    async with rest(target.running) as client:
        for _ in range(3):
            assert (await client.post("/progress/sync", json=big)).status_code == 422
    await target.wait_for_connections(0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Target]:
    """One server per module, so that leftovers of the attacks add up; at the end the measurements are printed."""
    async with under_attack(tmp_path_factory.mktemp("target")) as attacked:
        yield attacked
    lines = [f"{seen.worst_ms:7.1f} ms  {seen.grown_mib:+6.1f} MiB  {name}" for name, seen in attacked.seen.items()]
    title = "Longest ping of a well-behaved device, peak of memory above the warm program:"
    if (terminal := request.config.pluginmanager.get_plugin("terminalreporter")) is not None:
        terminal.write("\n" + "\n".join([title, *lines, ""]))


@pytest.fixture(scope="module")
def warm_mib(target: Target) -> float:
    return target.memory_mib()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def learner(target: Target) -> AsyncIterator[Device]:
    """A well-behaved device on one connection during all attacks."""
    async with device(target.running, str(uuid4())) as player:
        yield player


@dataclass
class Watch:
    """Bounds that an attack may widen, stating a reason, and the measurements."""

    memory_mib: float = MEMORY_MIB
    acks: int = 0
    worst_ms: float = 0.0
    grown_mib: float = 0.0


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def watch(
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
    target: Target,
    warm_mib: float,
    learner: Device,
) -> AsyncIterator[Watch]:
    """Check the bounds of every attack; the longest round trip of the learner's pings is reported but not checked."""
    seen, over = Watch(), asyncio.Event()
    files, connections, logged = target.files(), target.connections(), len(target.log)
    target.reset_peak_memory()
    playing = asyncio.create_task(_play(learner, seen, over))
    try:
        yield seen
        await target.wait_for_connections(connections)
    finally:
        over.set()
        await playing  # until the last heartbeat is acknowledged; raises what went wrong for the learner
    seen.grown_mib = target.memory_mib("VmHWM") - warm_mib
    target.seen[request.node.name] = seen
    record_property("worst_ping_ms", round(seen.worst_ms, 1))
    record_property("memory_mib", round(seen.grown_mib, 1))
    log = target.log[logged:]
    assert target.process.returncode is None
    assert seen.acks > 0
    assert seen.grown_mib < seen.memory_mib
    # The pool may have opened more connections to the store in the meantime.
    assert target.files() <= files + MAX_CONNECTIONS
    assert len(log) <= LOG_LINES, log
    assert [line for line in log if " ERROR " in line or " CRITICAL " in line or "Traceback" in line] == []
    assert MARK not in "".join(log)


async def _play(learner: Device, seen: Watch, over: asyncio.Event) -> None:
    """Send one heartbeat after the other, each acknowledged, and measure round trips at the same time."""
    pinging = asyncio.create_task(_ping(learner, seen))
    try:
        while not over.is_set():
            second = learner.seq % 3_600
            assert (await learner.play(VIDEO, second, second + 1))["rejected"] == []
            seen.acks += 1
    finally:
        pinging.cancel()
        await asyncio.wait([pinging])


async def _ping(learner: Device, seen: Watch) -> None:
    while True:
        start = time.perf_counter()
        try:
            await (await learner.socket.ping())
        finally:
            seen.worst_ms = max(seen.worst_ms, 1_000 * (time.perf_counter() - start))
        await asyncio.sleep(PING_EVERY_S)
