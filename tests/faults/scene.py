"""One run: a place, the real program on it, a fleet of players, and the comparison with the model at the end."""

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.faults.ledger import Ledger
from tests.faults.place import Place
from tests.faults.places import PLACES
from tests.faults.players import PATIENCE_S, Fleet, fleet
from tests.faults.relay import Relay, relay
from tests.faults.verdict import Verdict, compared
from tests.ports import free_port
from tests.server.program import Program, descendants, gone, serve
from tests.serving import Running

ENV = {
    "PLAYHEAD_FLUSH_INTERVAL_S": "0.05",
    "PLAYHEAD_ADDRESS_REQUESTS_PER_S": "100000",
    "PLAYHEAD_ADDRESS_REQUESTS_BURST": "100000",
}
"""All players have one address. Flushes are frequent, so that faults happen during flushes."""
LOG_TAIL = 3_000
"""Characters of the log that are shown if the server has ended."""
WARM = 60
"""Heartbeats that are acked before a fault."""
Act = Callable[[], Awaitable[None]]


class Service:
    """`playhead serve`, which is started again on the same port after each kill."""

    def __init__(self, options: tuple[str, ...], env: dict[str, str], stack: contextlib.AsyncExitStack) -> None:
        self.port = free_port()
        self._options, self._env, self._stack = options, env, stack
        self.program: Program | None = None

    @property
    def running(self) -> Running:
        assert self.program is not None
        return self.program.running

    @property
    def pid(self) -> int:
        assert self.program is not None
        return self.program.process.pid

    def died(self) -> str:
        """The end of its log if it has ended by itself, else an empty string."""
        assert self.program is not None
        code, log = self.program.process.returncode, self.program.log
        assert log is not None
        return "" if code is None else f"the server ended with {code}: {log.text[-LOG_TAIL:]}"

    async def start(self) -> None:
        self.program = await self._stack.enter_async_context(serve(self.port, *self._options, **self._env))

    async def kill(self, also: list[int] | None = None) -> None:
        """Kill the server with its workers, and `also`, and start it again."""
        assert self.program is not None
        pids = [*(also or ()), self.pid, *descendants(self.pid)]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await gone(pids)
        await self.program.ended()
        await self.start()

    async def stop(self) -> None:
        """Stop it by SIGTERM, and start it again."""
        assert self.program is not None
        await self.program.stop()
        await self.start()


@dataclass
class Row:
    """The result of one fault at one place. `recovered_s`: s from the end of a fault until all waiting reports are
    acked."""

    fault: str
    place: str
    runs: int = 0
    sent: int = 0
    acked: int = 0
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    recovered_s: list[float] = field(default_factory=list)
    remark: str = ""

    @property
    def passed(self) -> bool:
        return not self.lost and not self.wrong

    def add(self, verdict: Verdict) -> None:
        self.lost += verdict.lost
        self.wrong += verdict.wrong


@dataclass
class Scene:
    place: Place
    services: list[Service]
    """The nodes of the service, on one store."""
    fleet: Fleet
    ledger: Ledger
    dice: random.Random
    line: Relay | None
    """The relay between the players and the service, if requested."""

    @property
    def service(self) -> Service:
        """The first node, which is usually the only one."""
        return self.services[0]

    async def under(self, row: Row, fault: Act, runs: int = 1, afterwards: Act | None = None) -> Row:
        """Cause the fault while all play, wait until all waiting reports are acked, and compare; repeat this `runs`
        times. `afterwards` is called before each comparison, and may raise TimeoutError as well."""
        loop = asyncio.get_running_loop()
        for _ in range(runs):
            self.fleet.gate.set()
            sent, acked = self.ledger.count, self.ledger.acks
            try:
                await self.fleet.more(WARM)
                await fault()
                over, waiting = loop.time(), self.ledger.unacked()
                await self.fleet.acked(waiting)
                row.recovered_s.append(loop.time() - over)
                if afterwards is not None:
                    await afterwards()
            except TimeoutError:
                row.wrong.append(f"not recovered within {PATIENCE_S:g} s")
            await self.judge(row)
            row.runs += 1
            row.sent += self.ledger.count - sent
            row.acked += self.ledger.acks - acked
            if not row.passed:
                break
        return row

    async def judge(self, row: Row) -> None:
        """Let all players stop and every report be stored; then compare each node with the model."""
        if ended := [log for service in self.services if (log := service.died())]:
            row.wrong += ended
            return
        row.wrong += await self.fleet.settle()
        for service in self.services:
            row.add(await compared(service.running.http, self.ledger, self.fleet))


@contextlib.asynccontextmanager
async def scene(
    place: str,
    *,
    players: int = 24,
    seed: int = 1,
    workers: int = 1,
    nodes: int = 1,
    line: bool = False,
    http: bool = True,
    live: bool = False,
    own: Sequence[Mapping[str, str]] = ({},),
    store_env: Mapping[str, str] | None = None,
    **env: str,
) -> AsyncIterator[Scene]:
    """Run the service on a place, with players.

    Args:
        workers: workers of each node.
        nodes: number of `playhead serve` on the store; the players are spread over them.
        line: put a relay between the players and the service, which then has one node.
        http: some players use HTTP only.
        live: no player reports an evening some hours ago.
        own: additional environment of each node.
        store_env: environment of the store's process, for the places that start one.
        env: settings by their names in the environment, without the prefix; other variables after a `_`.
    """
    dice, ledger = random.Random(f"{seed} {place}"), Ledger()
    async with contextlib.AsyncExitStack() as stack:
        where = await stack.enter_async_context(PLACES[place](**({} if store_env is None else {"env": store_env})))
        options = (*where.options, *(("--workers", str(workers)) if workers > 1 else ()))
        names = {name: name[1:] if name.startswith("_") else f"PLAYHEAD_{name}" for name in env}
        settings = ENV | {names[name]: value for name, value in env.items()}
        each = [own[number] if number < len(own) else {} for number in range(nodes)]
        services = [Service(options, settings | dict(ours), stack) for ours in each]
        for service in services:
            await service.start()
        between = await stack.enter_async_context(relay(services[0].port)) if line else None
        urls = [f"http://127.0.0.1:{between.port if between else service.port}" for service in services]
        group = await stack.enter_async_context(fleet(urls, ledger, players, dice, http, live))
        yield Scene(where, services, group, ledger, dice, between)
