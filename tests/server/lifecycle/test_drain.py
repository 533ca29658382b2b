"""The graceful shutdown of the real program: it becomes unready, acks reports, sends goodbyes and exits in time.

Nothing delays it: no peer that never reads, no endless request and no unavailable store.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from itertools import groupby
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from playhead.protocol.errors import CloseCode, Problem
from playhead.server.clock import system_clock
from playhead.server.lifecycle.drain import Drain
from playhead.server.limits.admission import Admission
from playhead.server.settings import Settings
from playhead.storage.embedded.valkey import EmbeddedValkey
from playhead.storage.store import open_store
from playhead.storage.write.flusher import Flusher
from playhead.storage.write.pending import Batch, Committed
from tests.device import Device, device
from tests.intact import intact
from tests.ports import free_port
from tests.rest import ok, rest
from tests.security.attacker import TEXT, Attacker, frame, upgrade
from tests.server.program import START_S, Program, alive, descendants, gone, serve

CROWD = 1_000
PATIENCE_S = 60.0
"""Bound on every wait; a test that gets here has failed."""
Goodbye = tuple[list[dict[str, Any]], int | None]


@contextlib.asynccontextmanager
async def program(tmp_path: Path, *options: str, **env: str) -> AsyncIterator[Program]:
    """Run the program with an embedded store, and without a flush before the drain."""
    env = {"PLAYHEAD_DRAIN_NOTICE_S": "1", "PLAYHEAD_FLUSH_INTERVAL_S": "60", "PLAYHEAD_HELLOS_BURST": "5000", **env}
    env |= {"PLAYHEAD_WRITE_TIMEOUT_S": "120"}  # so that no connection is closed before the shutdown
    async with serve(free_port(), "--data-dir", str(tmp_path / "data"), *options, **env) as running:
        yield running


async def devices_of(stack: contextlib.AsyncExitStack, running: Program, size: int) -> list[Device]:
    """Connect `size` learners, some at a time."""
    devices: list[Device] = []
    while len(devices) < size:
        some = [device(running.running, str(uuid4())) for _ in range(min(50, size - len(devices)))]
        devices += await asyncio.gather(*(stack.enter_async_context(each) for each in some))
    return devices


async def until_closed(socket: ClientConnection) -> Goodbye:
    """Return every message until the server closes, and the close code."""
    messages = []
    with contextlib.suppress(ConnectionClosed):
        while True:
            messages.append(json.loads(await socket.recv()))
    return messages, socket.close_code


async def connect_unreading(stack: contextlib.AsyncExitStack, running: Program, segment: int | None = None) -> None:
    """Connect a device that sends hello and then reads nothing."""
    user, videos = str(uuid4()), [str(uuid4()) for _ in range(1_000)]
    items = [{"videoId": video, "watchedDuration": 7, "lastWatched": "2024-05-01"} for video in videos]
    async with rest(running.running) as api:
        ok(await api.post("/progress/sync", json={"userId": user, "progressData": items}))
    silent = await Attacker.connect(running.port, receive_buffer=4_096, segment=segment)
    stack.callback(silent.close)
    hello = {"type": "hello", "device": "tv", "session": "s", "userId": user}
    await silent.send(upgrade())
    await silent.until(b"101 Switching")
    await silent.send(frame(TEXT, json.dumps(hello).encode()))
    await silent.until(b"welcome")


def unread_bytes(port: int) -> int:
    """Return how many bytes the kernel has yet to send from `port`."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(int(row[4].partition(":")[0], 16) for row in rows if int(row[1].partition(":")[2], 16) == port)


async def unready_reason(api: httpx.AsyncClient) -> str:
    async with asyncio.timeout(PATIENCE_S):
        while (response := await api.get("/readyz")).status_code != 503:  # noqa: ASYNC110 no event tells
            await asyncio.sleep(0.01)
    return str(response.json()["status"])


async def recorded(tmp_path: Path, seen: dict[tuple[str, str], list[int]]) -> None:
    """Open the program's store after its exit, and check that it holds exactly this."""
    with EmbeddedValkey(tmp_path / "data", fsync=False) as valkey:
        store = open_store(valkey.url, worker="w")
        for (user, video), cells in seen.items():
            assert intact(await store.record(user, video)).seen == cells
        await store.close()


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_thousand_devices_get_their_acks_beside_one_that_reads_nothing(workers: int, tmp_path: Path) -> None:
    """The program is unready first and still serves everyone. Then each device gets its ack, a goodbye with its own
    retry delay, and 4001. A request in progress is answered, new connections get a goodbye, and the exit code is 0.
    """
    video = str(uuid4())
    async with contextlib.AsyncExitStack() as stack:
        running = await stack.enter_async_context(program(tmp_path, "--workers", str(workers)))
        below = descendants(running.process.pid)
        await connect_unreading(stack, running)
        devices = await devices_of(stack, running, CROWD)
        api = await stack.enter_async_context(rest(running.running))
        for each in devices:
            await each.beat(video, played=[[0, 5]], position=5, state="playing")
        asked = {"userId": str(uuid4()), "videoId": video, "watchedDuration": 9, "lastWatched": "2024-05-01"}
        under_way = asyncio.create_task(api.post("/progress/realtime", json=asked))
        for each in devices:  # the answer comes after the heartbeat, which has then been accepted
            await each.send(type="ping")
        for each in devices:
            await each.until("pong")
        closes = [asyncio.create_task(until_closed(each.socket)) for each in devices]

        assert unread_bytes(running.port) > 100_000
        running.kill(signal.SIGTERM)
        async with rest(running.running) as fresh:
            assert await unready_reason(fresh) == "the process is shutting down"
        assert not any(task.done() for task in closes), "the notice comes before the goodbyes"
        async with connect(running.running.ws) as late:
            messages, code = await until_closed(late)
        assert ([message["type"] for message in messages], code) == (["goodbye"], 4001)

        retries = set()
        for messages, code in await asyncio.gather(*closes):
            assert code == 4001
            assert [message["type"] for message in messages] == ["ack", "goodbye"]
            assert messages[0]["seq"] == 1
            assert messages[1]["code"] == "restarting"
            retries.add(messages[1]["retryAfter"])
        assert min(retries) >= 2
        assert len(retries) > 100, "they do not all reconnect at once"
        assert ok(await under_way)["watchedDuration"] == 9
        assert await running.ended() == 0
        await gone(below)
    await recorded(tmp_path, {(each.user_id, video): [0, 5] for each in devices[:: CROWD // 50]})


async def test_a_peer_that_never_reads_is_aborted(tmp_path: Path) -> None:
    """Its unsent messages are in the process, which would wait for them forever."""
    async with contextlib.AsyncExitStack() as stack:
        running = await stack.enter_async_context(program(tmp_path, PLAYHEAD_DRAIN_TIMEOUT_S="8"))
        await connect_unreading(stack, running, segment=536)
        async with asyncio.timeout(8 + 2):  # what was promised, and a slow machine
            assert await running.stop() == 0
        assert running.log is not None
        assert "Aborted 1 sockets whose peers did not read the goodbye" in running.log.text


class FakeSocket:
    """A socket that leaves after its goodbye, and records what was called."""

    def __init__(self, admission: Admission, calls: list[str]) -> None:
        self._admission, self._calls = admission, calls

    def give_way(self) -> None:
        self._calls.append("give way")

    def hold(self) -> None:
        self._calls.append("hold")

    def end(self, problem: Problem, code: CloseCode, retry_after_s: float | None = None) -> None:
        self._calls.append("goodbye")
        self._admission.leave(self, ADDRESS, "")

    def abort(self) -> None:
        self._calls.append("abort")


ADDRESS = "192.0.2.1"


async def test_goodbyes_are_sent_to_some_sockets_at_a_time(tmp_path: Path) -> None:
    """The others are still served meanwhile. A flush precedes the goodbyes of each group and has their acks."""
    calls: list[str] = []

    async def stored(batch: Batch, committed: Committed) -> None:
        calls.append("flush")

    with EmbeddedValkey(tmp_path, fsync=False) as valkey:
        store = open_store(valkey.url, worker="w")
        lane = Flusher(store, interval_s=60, max_reports=10, now=system_clock, subscribed=lambda _: False, after=stored)
        settings = Settings(redis_url=valkey.url, max_newcomers=450, max_newcomers_per_address=450)
        admission = Admission(settings, system_clock)
        drain = Drain(settings, lane, admission)
        for _ in range(450):
            admission.accept(FakeSocket(admission, calls), ADDRESS)
        flushing = asyncio.create_task(lane.run())
        await drain.run(0)
        flushing.cancel()
        await asyncio.wait({flushing})
        await store.close()
    turns = [(what, len(list(run))) for what, run in groupby(calls)]
    assert turns == [turn for size in (200, 200, 50) for turn in (("hold", size), ("flush", 1), ("goodbye", size))]


async def test_exactly_the_acked_reports_are_stored(tmp_path: Path) -> None:
    """Also for learners who continue to send until their socket closes."""
    acked: dict[tuple[str, str], list[int]] = {}

    async def watch(player: Device) -> None:
        """Play a second of video at a time, at the fastest plausible rate."""
        video, last = str(uuid4()), 0
        hearing = asyncio.create_task(until_closed(player.socket))
        for n in range(200):
            if hearing.done():
                break
            with contextlib.suppress(ConnectionClosed):
                await player.beat(video, played=[[n, n + 1]], position=n + 1, state="playing")
            await asyncio.wait({hearing}, timeout=0.02)
        messages, code = await hearing
        assert code == 4001
        last = max(message["seq"] for message in messages if message["type"] == "ack")
        acked[player.user_id, video] = [0, last]

    async with contextlib.AsyncExitStack() as stack:
        running = await stack.enter_async_context(program(tmp_path))
        players = await devices_of(stack, running, 50)
        watching = [asyncio.create_task(watch(player)) for player in players]
        running.kill(signal.SIGTERM)
        await asyncio.gather(*watching)
        assert await running.ended() == 0
    assert len(acked) == len(players)
    await recorded(tmp_path, acked)


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_second_signal_exits_at_once(workers: int, tmp_path: Path) -> None:
    """There are no goodbyes, the exit code is that of the signal, and no process is left."""
    env = {"PLAYHEAD_DRAIN_NOTICE_S": "7", "PYTHONWARNINGS": "ignore"}  # the aborted socket is closed by neither side
    async with (
        program(tmp_path, "--workers", str(workers), **env) as running,
        device(running.running, str(uuid4())) as player,
        rest(running.running) as api,
    ):
        below = descendants(running.process.pid)
        running.kill(signal.SIGTERM)
        assert await unready_reason(api) == "the process is shutting down"
        if workers > 1:  # the parent handles nothing else until it has signalled all workers
            await asyncio.gather(*(until_not_ready(running) for _ in range(8)))
        assert await running.stop(signal.SIGTERM) == 128 + signal.SIGTERM
        messages, code = await until_closed(player.socket)
        assert [message["type"] for message in messages] == []
        assert code != 4001
        await gone(below)
        assert not any(alive(pid) for pid in below)


async def until_not_ready(running: Program) -> None:
    async with rest(running.running) as api:
        await unready_reason(api)


async def test_a_worker_that_receives_two_signals_drains(tmp_path: Path) -> None:
    """A shell or a service manager signals every process of a group, and the parent signals its workers too."""
    video = str(uuid4())
    async with (
        program(tmp_path, "--workers", "2") as running,
        device(running.running, str(uuid4())) as player,
    ):
        await player.beat(video, played=[[0, 5]], position=5)
        await player.send(type="ping")
        await player.until("pong")
        workers = [pid for pid in descendants(running.process.pid) if b"spawn_main" in command_of(pid)]
        assert len(workers) == 2
        async with asyncio.timeout(START_S):
            while not all(handles(pid, signal.SIGTERM) for pid in workers):  # noqa: ASYNC110 another process has no event
                await asyncio.sleep(0.01)  # the other one may still import its modules
        for pid in (*workers, running.process.pid):
            os.kill(pid, signal.SIGINT)
        messages, code = await until_closed(player.socket)
        assert ([message["type"] for message in messages], code) == (["ack", "goodbye"], 4001)
        assert await running.ended() == 0


def handles(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler of its own for the signal: proc(5), SigCgt."""
    (caught,) = re.findall(r"^SigCgt:\s*([0-9a-f]+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(caught, 16) >> (number - 1) & 1)


def command_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


async def test_an_unavailable_store_does_not_delay_the_exit(tmp_path: Path) -> None:
    """There is no ack, because nothing was stored; the player sends the report again."""
    with EmbeddedValkey(tmp_path / "store", fsync=False) as valkey:
        env = {"PLAYHEAD_DRAIN_TIMEOUT_S": "4", "PLAYHEAD_STORE_TIMEOUT_S": "0.5", "PLAYHEAD_DRAIN_NOTICE_S": "0"}
        async with (
            program(tmp_path, "--redis-url", valkey.url, **env) as running,
            device(running.running, str(uuid4())) as player,
        ):
            await player.beat(str(uuid4()), played=[[0, 5]], position=5)
            await player.send(type="ping")
            await player.until("pong")
            os.kill(valkey.pid, signal.SIGSTOP)
            try:
                running.kill(signal.SIGTERM)
                messages, code = await until_closed(player.socket)
                assert ([message["type"] for message in messages], code) == (["goodbye"], 4001)
                async with asyncio.timeout(4 + 2):  # what was promised, and a slow machine
                    assert await running.ended() == 0
            finally:
                os.kill(valkey.pid, signal.SIGCONT)


async def test_an_endless_request_does_not_delay_the_exit(tmp_path: Path) -> None:
    env = {"PLAYHEAD_DRAIN_TIMEOUT_S": "4", "PLAYHEAD_DRAIN_NOTICE_S": "0", "PLAYHEAD_BODY_TIMEOUT_S": "120"}
    async with program(tmp_path, **env) as running:
        endless = await Attacker.connect(running.port)
        try:
            head = b"POST /progress/update HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            await endless.send(head + b"content-length: 100\r\n\r\n{")
            async with rest(running.running) as api:
                ok(await api.get("/livez"))
            running.kill(signal.SIGTERM)
            async with asyncio.timeout(4 + 2):
                assert await running.ended() == 0
        finally:
            endless.close()
