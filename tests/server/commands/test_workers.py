"""Several worker processes behind one port act as one service."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.device import Device, device
from tests.ports import free_port
from tests.rest import ok, rest, scraped
from tests.server.program import Program, alive, descendants, gone, serve

DEVICES = 20


@pytest.fixture
async def program(tmp_path: Path) -> AsyncIterator[Program]:
    """Two workers and the embedded store."""
    options = ("--workers", "2", "--data-dir", str(tmp_path / "data"), "--flush-interval-s", "0.05")
    async with serve(free_port(), *options) as running:
        yield running


def connections(pid: int, port: int) -> int:
    """How many accepted TCP connections to `port` a process has, according to the kernel."""
    inodes = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, *_, inode = line.split()[:10]
        if state == "01" and int(local.partition(":")[2], 16) == port:
            inodes.add(f"socket:[{inode}]")
    held = 0
    with contextlib.suppress(OSError):  # the process has ended in the meantime
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                held += os.readlink(entry) in inodes
    return held


def workers(program: Program) -> dict[int, int]:
    """The processes that have connections, and how many."""
    held = {pid: connections(pid, program.port) for pid in descendants(program.process.pid)}
    return {pid: count for pid, count in held.items() if count}


async def test_devices_on_both_workers_receive_all_changes(program: Program) -> None:
    """One learner's devices are spread over the workers: a change by any device, or by REST, reaches all the others."""
    user, by_device, by_rest = (str(uuid4()) for _ in range(3))
    async with contextlib.AsyncExitStack() as stack:
        devices: list[Device] = []
        while len(devices) < DEVICES or len(workers(program)) < 2:
            assert len(devices) < 20 * DEVICES, "one worker accepts all connections"
            devices.append(await stack.enter_async_context(device(program.running, user)))
        for end, player in ((10, devices[0]), (20, devices[-1])):
            await player.play(by_device, end - 10, end)
            for other in devices:
                if other is not player:
                    assert (await other.pushed(by_device))["seen"] == [[0, end]]
        http = await stack.enter_async_context(rest(program.running))
        item = {"videoId": by_rest, "watchedDuration": 77, "lastWatched": "2026-11-23T10:00:00Z"}
        ok(await http.post("/progress/update", json={"userId": user, **item}))
        for each in devices:
            assert (await each.pushed(by_rest))["watchedDuration"] == 77
            assert each.inbox == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
async def test_a_signal_ends_all_processes(program: Program, number: int) -> None:
    """With connections open: exit code 0 in time, and neither a worker nor the store is left."""
    below = descendants(program.process.pid)
    assert len(below) >= 3
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(4):
            player = await stack.enter_async_context(device(program.running, str(uuid4())))
            await player.beat(str(uuid4()), played=[[0, 5]], position=5)
        assert await program.stop(number) == 0
        await gone(below)
        assert not any(alive(pid) for pid in below)


async def test_a_killed_worker_is_replaced_and_its_devices_reconnect(program: Program) -> None:
    """kill -9 of one worker: a new one takes its place, what was acked is stored, and pushes work as before."""
    user, video = str(uuid4()), str(uuid4())
    async with device(program.running, user) as player:
        await player.play(video, 0, 10)
        (victim,) = workers(program)
        before = set(descendants(program.process.pid))
        os.kill(victim, signal.SIGKILL)
        await gone([victim])
    async with asyncio.timeout(30):
        while not (set(descendants(program.process.pid)) - before):  # noqa: ASYNC110 no event tells of another's child
            await asyncio.sleep(0.02)
    async with device(program.running, user) as back, device(program.running, user) as other:
        assert back.records[video]["seen"] == [[0, 10]]
        await back.play(video, 10, 20)
        assert (await other.pushed(video))["seen"] == [[0, 20]]


@pytest.mark.parametrize(("victim", "loop"), [(b"valkey-server", "embedded-store"), (b"spawn_main", "workers")])
async def test_every_worker_reports_all_restarts(program: Program, victim: bytes, loop: str) -> None:
    """The parent restarts workers and the store, and counts for all: for workers that lived on and for new ones."""
    killed = next(pid for pid in descendants(program.process.pid) if victim in command_line(pid))
    os.kill(killed, signal.SIGKILL)
    await gone([killed])
    reported: dict[int, float] = {}
    async with asyncio.timeout(30):
        while list(reported.values()).count(1) < 2:
            async with rest(program.running) as api:
                value = (await scraped(api))[f"playhead_retries_total{{{loop}}}"]
                reported |= dict.fromkeys(workers(program), value)
    assert set(reported.values()) == {1}
    assert killed not in reported


def command_line(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
