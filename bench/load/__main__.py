"""`python -m bench.load <Load as JSON>`: connects, sends heartbeats, and prints a Mark whenever counters are to be
read.

Open loop: if the generator is late, a heartbeat is sent immediately, and its latency counts from when it was due. The
Outcome has the lag of the generator; with a large lag it has not produced the requested load.
"""

import asyncio
import gc
import random
import resource
import sys

import uvloop
from picows import ws_connect

from bench.load.clients import KINDS
from bench.load.device import CLOCK, Client, Tally
from bench.load.spec import Load, Mark, Outcome

TICK_S = 0.002
READY_S = 120.0
QUIET_S = 0.03
"""Time without an ack after which a burst of acks is over."""


class Generator:
    """Runs the devices of a load, and measures."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.tally = Tally()
        self.lags: list[float] = []
        dice = random.Random(load.seed)
        self.clients = [KINDS[load.kind](load, i, self.tally, dice) for i in range(load.connections)]
        self.beating = self.clients[: load.connections - load.idle]

    async def run(self) -> None:
        await self._connect()
        gc.collect()
        gc.freeze()
        gc.disable()
        _print(Mark("connected"))
        outcome = await self._window() if self.load.rate else await self._hold()
        _print(Mark("done", outcome))
        await asyncio.to_thread(sys.stdin.readline)  # keep the connections until the bench has read its counters
        for client in self.clients:
            client.closing = True
            if client.transport is not None:
                client.transport.disconnect(graceful=False)

    async def _connect(self) -> None:
        slots = asyncio.Semaphore(self.load.connecting)

        async def connect(client: Client) -> None:
            async with slots:
                url = f"ws://127.0.0.1:{self.load.port}{client.path}"
                await ws_connect(lambda: client, url, extra_headers=client.headers, websocket_handshake_timeout=READY_S)

        async with asyncio.timeout(READY_S):
            await asyncio.gather(*map(connect, self.clients))
            while self.tally.ready < len(self.clients) and not self.tally.trouble:  # noqa: ASYNC110 polling is cheaper than thousands of events
                await asyncio.sleep(0.01)

    async def _hold(self) -> Outcome:
        """Send no heartbeats: keep the connections as idle as the protocol allows."""
        _print(Mark("begin"))
        await asyncio.sleep(self.load.window_s)
        _print(Mark("end"))
        return Outcome(0, 0, 0, 0.0, 0.0, 0.0, 0.0, 0, self.tally.records, True, self.tally.trouble)

    async def _window(self) -> Outcome:
        load, tally = self.load, self.tally
        ended = asyncio.Event()
        beating = asyncio.create_task(self._beat(ended))
        await asyncio.sleep(load.warmup_s)
        steady = await self._burst_over()
        sent, acked, frames, cpu = tally.sent, tally.acked, tally.ack_frames, _cpu_s()
        self.lags.clear()
        latencies: list[float] = []
        tally.latencies = latencies
        _print(Mark("begin"))
        await asyncio.sleep(load.window_s)
        steady = await self._burst_over() and steady
        sent, acked, frames, cpu = tally.sent - sent, tally.acked - acked, tally.ack_frames - frames, _cpu_s() - cpu
        tally.latencies = None
        _print(Mark("end"))
        ended.set()
        await beating
        lag = _percentile(self.lags, 99)
        deadline = CLOCK() + load.drain_s
        while (left := sum(len(client.due) for client in self.beating)) and CLOCK() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        p50, p99 = (_percentile(latencies, p) * 1_000 for p in (50, 99))
        return Outcome(sent, acked, frames, p50, p99, lag * 1_000, cpu, left, tally.records, steady, tally.trouble)

    async def _burst_over(self) -> bool:
        """Wait until a burst of acks is over, so that a window has whole flushes. Returns False if there was none."""
        if not self.beating[0].bursts:
            return True
        before = last = self.tally.ack_frames
        deadline = CLOCK() + self.load.burst_s
        while CLOCK() < deadline:
            await asyncio.sleep(QUIET_S)
            if last == self.tally.ack_frames > before:
                return True
            last = self.tally.ack_frames
        return False

    async def _beat(self, ended: asyncio.Event) -> None:
        clients, rate, count = self.beating, self.load.rate, 0
        start = CLOCK()
        while not ended.is_set():
            now = CLOCK()
            self.lags.append(max(0.0, now - start - count / rate))
            due = int((now - start) * rate)
            for i in range(count, due):
                clients[i % len(clients)].beat(start + i / rate)
            count = due
            await asyncio.sleep(TICK_S)


def _percentile(values: list[float], percent: int) -> float:
    values = sorted(values)
    return values[min(len(values) - 1, len(values) * percent // 100)] if values else 0.0


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _print(mark: Mark) -> None:
    print(mark.dumps(), flush=True)


uvloop.run(Generator(Load.loads(sys.argv[1])).run())
