"""The link to a cluster: it knows which primary has which slot, and sends commands to all primaries concurrently.

redis-py's own cluster client is not used: its NodesManager reconnects to every node whenever it reads the topology, and
its pools raise an error when they are exhausted, where ours wait. The part of the cluster protocol used here is small:
CLUSTER SLOTS, and the error replies MOVED, ASK, TRYAGAIN and CLUSTERDOWN. Any command may be sent twice.
"""

import asyncio
import random
from collections.abc import Callable, Iterable
from typing import Any

from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, RedisError, TryAgainError

from playhead.storage.backoff import Backoff
from playhead.storage.connection.address import Address
from playhead.storage.connection.link import StageGuard
from playhead.storage.connection.pipeline import Command, close_pool
from playhead.storage.connection.primary import Primary, node_pool
from playhead.storage.errors import StoreUnavailable
from playhead.storage.keys import TAGS

SLOTS = 16_384
MOST_RANGES = 3
"""Ranges of slots in a primary's description."""
REFRESH_PARTS = 20
"""After this fraction of the timeout without an answer, the next node is asked for the topology as well."""
PAUSE_S = 0.05, 0.5
"""The first pause and the longest before commands are sent again while a slot moves or the cluster is down."""
REDIRECTIONS = (MovedError, AskError, TryAgainError, ClusterDownError)


class Cluster:
    """The primaries of a cluster.

    Args:
        timeout_s: how long redirections are followed, and the longest wait for each answer.
        retrying: as for `pool_of`.
    """

    tags = TAGS

    def __init__(self, address: Address, timeout_s: float, scripts: list[str], retrying: Backoff) -> None:
        self._address = address
        self._retrying = retrying
        self.timeout_s = timeout_s
        self._scripts = scripts
        self._owners: list[str] = []
        """For each slot, host:port of its primary; "" if no primary has it."""
        self._members: list[str] = [f"{host}:{port}" for host, port in address.hosts]
        self._primaries: dict[str, Primary] = {}
        self._refreshes = 0
        self._refresh_error: StoreUnavailable | None = None
        """Why the last refresh of the topology failed."""
        self._closed = False
        self.retries = 0
        """How often commands were sent again, to another node or later."""
        self.changes = 0
        """How often a refresh found slots at other primaries than before."""
        self._refreshing = asyncio.Lock()
        self.on_change: list[Callable[[], None]] = []
        """Called after each change."""

    def primary_of(self, key: str) -> str:
        """ "" if it is unknown."""
        return self._owners[key_slot(key.encode())] if self._owners else ""

    def node_for(self, channel: str) -> str:
        """The node to ask for a channel: its primary, or any node if that is unknown, which then redirects."""
        return self.primary_of(channel) or self._members[0]

    def primary(self, name: str) -> Primary:
        """The node with this name, host:port."""
        found = self._primaries.get(name)
        if found is None:
            host, _, port = name.rpartition(":")
            pool = node_pool(self._address, host, int(port), self.timeout_s, self._retrying)
            found = self._primaries[name] = Primary(name, pool, self._scripts)
            if self._closed:
                close_pool(pool)
        return found

    async def primaries(self) -> list[Primary]:
        if not self._owners:
            await self.refresh_topology()
        return [self.primary(name) for name in sorted(set(self._owners) - {""})]

    async def primary_for(self, key: str) -> Primary:
        if not self.primary_of(key):
            await self.refresh_topology()
        if not (name := self.primary_of(key)):
            raise StoreUnavailable("no primary is known for a slot")
        return self.primary(name)

    def locations(self) -> dict[str, str]:
        """The slots of each primary; "" stands for the slots without a primary, if there are any."""
        if not self._owners:
            return {}
        starts = [slot for slot in range(SLOTS) if not slot or self._owners[slot - 1] != self._owners[slot]]
        ranges: dict[str, list[str]] = {}
        for start, after in zip(starts, [*starts[1:], SLOTS], strict=True):
            ranges.setdefault(self._owners[start], []).append(f"{start}-{after - 1}")
        return {name: f"slots {_shortened(found)}" for name, found in ranges.items()}

    async def aclose(self) -> None:
        self._closed = True
        await _aclose(self._primaries.values())

    async def ask(
        self, commands: list[Command], guard: StageGuard | None = None, also: Iterable[str] = ()
    ) -> list[Any]:
        """Like `Link.ask`, with one pipeline for each primary. Redirected commands are sent again.

        PING is sent to every primary. Without a `guard`, a primary that does not answer fails its own commands only.
        """
        if not self._owners:
            await self.refresh_topology()
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + self.timeout_s, Backoff(*PAUSE_S)
        replies: list[Any] = [None] * len(commands)
        todo, asking = list(range(len(commands))), dict[int, str]()
        while True:
            routes = self._routes(commands, todo, asking, also)
            round_ = _Round(replies)
            answers = await _gather([self._ask_one(name, route, guard) for name, route in routes.items()])
            for (name, route), answer in zip(routes.items(), answers, strict=True):
                round_.read(name, route, answer, guard)
            if round_.is_stale:
                await self._refresh_after(moved=round_.moved, failed=round_.failed)
            if round_.error is not None and guard is not None:
                raise round_.error
            if not round_.again:
                return replies
            if loop.time() > deadline:
                raise StoreUnavailable(f"a slot of the cluster can't be reached: {round_.why}")
            self.retries += 1
            if round_.must_pause or round_.again == todo:
                await pause.wait()
            todo, asking, also = round_.again, round_.asking, ()

    def _routes(
        self, commands: list[Command], todo: list[int], asking: dict[int, str], also: Iterable[str]
    ) -> dict[str, "Route"]:
        routes: dict[str, Route] = {name: [] for name in also}
        for index in todo:
            command = commands[index]
            if command[0] == "PING":
                names = sorted(set(self._owners))
            else:
                names = [asking.get(index) or self.primary_of(command[3 if command[0] == "EVALSHA" else 1])]
            for name in names:
                route = routes.setdefault(name, [])
                if index in asking:
                    route.append((None, ("ASKING",)))
                route.append((index, command))
        return routes

    async def _ask_one(self, name: str, route: "Route", guard: StageGuard | None) -> list[Any] | Exception:
        if not name:
            return ClusterDownError("no primary is known for a slot")
        ends = guard.commands(name) if guard is not None else []
        try:
            return await self.primary(name).ask([command for _, command in route] + ends)
        except (RedisError, OSError) as error:
            return error

    async def refresh_topology(self, first: Iterable[str] = (), last: Iterable[str] = ()) -> None:
        """Read the topology from the first node that answers. Nodes with open connections are asked before others.

        Callers that arrive during a refresh share its result, or its failure, so no caller waits for more than two.

        Args:
            first: nodes to ask first.
            last: nodes to ask last.

        Raises:
            StoreUnavailable: no node answers.
        """
        refreshes = self._refreshes
        async with self._refreshing:
            if self._refreshes != refreshes:
                if self._refresh_error is not None:
                    raise StoreUnavailable(str(self._refresh_error)) from self._refresh_error
                return
            seeds = [f"{host}:{port}" for host, port in self._address.hosts]
            others = random.sample(self._members, len(self._members))
            others = sorted(others, key=lambda name: name not in self._primaries) + seeds
            names = dict.fromkeys([*first, *(name for name in others if name not in last), *others])
            try:
                owners, members = await self._first_topology(names)
            except StoreUnavailable as error:
                self._refreshes, self._refresh_error = self._refreshes + 1, error
                raise
            self._refreshes, self._refresh_error = self._refreshes + 1, None
            changed, self._owners, self._members = owners != self._owners, owners, members
            await _aclose([self._primaries.pop(name) for name in self._primaries.keys() - {*members, *seeds}])
        if changed:
            self.changes += 1
            for callback in self.on_change:
                callback()

    async def _first_topology(self, names: Iterable[str]) -> tuple[list[str], list[str]]:
        """The topology by the first node that answers.

        Nodes are asked in turn, each a fraction of the timeout after the one before, or as soon as that one has failed.
        So a silent node costs only that fraction.
        """
        left, asked, why = iter(names), set[asyncio.Task[tuple[list[str], list[str]]]](), ""
        try:
            async with asyncio.timeout(self.timeout_s):
                while True:
                    name = next(left, None)
                    if name is not None:
                        asked.add(asyncio.create_task(self._topology_at(name)))
                    elif not asked:
                        raise StoreUnavailable(f"no node of the cluster answers: {why}")
                    wait_s = None if name is None else self.timeout_s / REFRESH_PARTS
                    done, asked = await asyncio.wait(asked, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        try:
                            return task.result()
                        except (RedisError, OSError) as error:
                            why = f"{type(error).__name__}: {error}"
        except TimeoutError:
            raise StoreUnavailable("no node of the cluster answers in time") from None
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def _topology_at(self, name: str) -> tuple[list[str], list[str]]:
        (reply,) = await self.primary(name).pipeline([("CLUSTER", "SLOTS")])
        return _topology(reply, name)

    async def _refresh_after(self, moved: list[str], failed: list[str]) -> None:
        """Refresh after a round. If nodes have failed, their errors are reported instead of the refresh's."""
        try:
            await self.refresh_topology(moved, failed)
        except StoreUnavailable:
            if not failed:
                raise


Route = list[tuple[int | None, Command]]
"""The commands for one primary, each with its index; ASKING has none."""


class _Round:
    """The primaries' answers to one round of commands, and what to do next."""

    def __init__(self, replies: list[Any]) -> None:
        self._replies = replies
        self.again: list[int] = []
        self.asking: dict[int, str] = {}
        self.moved: list[str] = []
        self.failed: list[str] = []
        self.must_pause = self.is_stale = False
        self.why: Exception | None = None
        self.error: StoreUnavailable | None = None

    def read(self, name: str, route: Route, answer: list[Any] | Exception, guard: StageGuard | None) -> None:
        if isinstance(answer, Exception):
            self.failed.append(name)
            self.is_stale = True
            self.error = StoreUnavailable(f"{type(answer).__name__}: {answer}")
            self.error.__cause__ = answer
            for index, _ in route:
                if index is not None:
                    self._replies[index] = self.error
            return
        for (index, _), reply in zip(route, answer, strict=False):
            if index is not None:
                self._take(name, index, reply)
        if guard is not None:
            ends = answer[len(route) :]
            self.is_stale |= any(isinstance(reply, REDIRECTIONS) for reply in ends)
            try:
                guard.check(name, ends)
            except StoreUnavailable as error:
                self.error = error

    def _take(self, name: str, index: int, reply: Any) -> None:
        if not isinstance(reply, REDIRECTIONS):
            if not isinstance(self._replies[index], Exception):  # keep the error if another primary has failed
                self._replies[index] = reply
            return
        self.again.append(index)
        self.why = reply
        if isinstance(reply, MovedError):
            self.is_stale = True
            self.moved.append(_name(reply.host, reply.port, name))
        elif isinstance(reply, AskError):
            self.asking[index] = _name(reply.host, reply.port, name)
        else:
            self.must_pause = self.is_stale = True


async def _aclose(primaries: Iterable[Primary]) -> None:
    await asyncio.gather(*(primary.aclose() for primary in primaries), return_exceptions=True)


async def _gather(questions: list[Any]) -> list[Any]:
    """Await all concurrently; a single one is awaited without a task."""
    return [await questions[0]] if len(questions) == 1 else await asyncio.gather(*questions)


def _shortened(ranges: list[str]) -> str:
    more = len(ranges) - MOST_RANGES
    return ", ".join(ranges) if more <= 0 else f"{', '.join(ranges[:MOST_RANGES])} and {more} ranges more"


def _name(host: str, port: int, asked: str) -> str:
    """host:port. A node that does not know its own host omits it; it is then the host of the node that was asked."""
    return f"{host or asked.rpartition(':')[0]}:{port}"


def _topology(reply: Any, asked: str) -> tuple[list[str], list[str]]:
    """Parse a reply to CLUSTER SLOTS: the primary of each slot, and all nodes."""
    if isinstance(reply, Exception):
        raise reply
    owners = [""] * SLOTS
    members: dict[str, None] = {}
    for start, end, *nodes in reply:
        names = [_name("" if host in (None, b"?") else host.decode(), port, asked) for host, port, *_ in nodes]
        owners[start : end + 1] = [names[0]] * (end + 1 - start)
        members |= dict.fromkeys(names)
    return owners, list(members)
