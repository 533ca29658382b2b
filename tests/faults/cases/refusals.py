"""The store answers, and refuses: scripts forgotten, clients thrown out, read-only, no memory, no disk, no password."""

import contextlib
import resource
from collections.abc import AsyncIterator, Awaitable, Callable

from tests.faults.effort import Effort
from tests.faults.places import Embedded, Place
from tests.faults.scene import Row, Scene, scene

PASSWORD = "not-known-to-the-service"
DENIED = {"password": PASSWORD}


async def refusals(place: str, effort: Effort) -> list[Row]:
    """Each for a while, under load."""
    rows = []
    async with scene(place) as s:
        for name, fault, more, fewer in (
            ("SCRIPT FLUSH", forget_scripts, 10, 1),
            ("CLIENT KILL of all", throw_out, 10, 1),
            ("the store is a replica and read-only (READONLY)", read_only, 3, 1),
            ("the store is out of memory (OOM)", out_of_memory, 3, 1),
            ("the store asks for a password (NOAUTH)", locked, 3, 1),
            ("the disk under the store is full", disk_full, 3, 1),
        ):

            async def during(fault: Fault = fault) -> None:
                await fault(s, effort.either(3.0, 0.7))

            rows.append(await s.under(Row(name, place), during, effort.times(more, fewer)))
    return rows


Fault = Callable[[Scene, float], Awaitable[None]]


async def forget_scripts(s: Scene, _: float) -> None:
    with s.place.admin() as client:
        client.script_flush()


async def throw_out(s: Scene, _: float) -> None:
    with s.place.admin() as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


async def read_only(s: Scene, seconds: float) -> None:
    """A failover that went the wrong way."""
    with s.place.admin() as client:
        client.replicaof("127.0.0.1", 1)  # where nobody is
        await s.fleet.quiet(seconds)
        client.replicaof("NO", "ONE")


async def out_of_memory(s: Scene, seconds: float) -> None:
    with s.place.admin() as client:
        client.config_set("maxmemory", 1)
        await s.fleet.quiet(seconds)
        client.config_set("maxmemory", 0)


async def locked(s: Scene, seconds: float) -> None:
    """requirepass, and every connection thrown out, for those that there are stay in."""
    with s.place.admin() as client:
        client.config_set("requirepass", PASSWORD)
    with s.place.admin(**DENIED) as client:
        for kind in ("pubsub", "normal"):
            client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        await s.fleet.quiet(seconds)
        client.config_set("requirepass", "")


async def disk_full(s: Scene, seconds: float) -> None:
    """By a limit on the size of files. The embedded store dies of it, again and again; one that syncs each second
    refuses to write (MISCONF)."""
    async with _synced_each_second(s.place):
        pids = s.place.pids()
        if isinstance(s.place, Embedded):
            pids.insert(0, s.place.owner())  # the next store inherits it
        for pid in pids:
            _limit(pid, 1)
        await s.fleet.quiet(seconds)
        for pid in (*pids, *s.place.pids()):
            _limit(pid, resource.RLIM_INFINITY)
        await s.place.answers()


def _limit(pid: int, size: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))


@contextlib.asynccontextmanager
async def _synced_each_second(place: Place) -> AsyncIterator[None]:
    if isinstance(place, Embedded):
        yield
        return
    with place.admin() as client:
        client.config_set("appendfsync", "everysec")
        yield
        client.config_set("appendfsync", "always")
