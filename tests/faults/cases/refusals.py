"""The store answers with errors: no scripts, killed clients, read-only, no memory, no disk space, a new password."""

import contextlib
import resource
from collections.abc import Callable, Iterator

from tests.faults.effort import Effort
from tests.faults.place import Admin, Place, throw_out
from tests.faults.places import Embedded
from tests.faults.scene import Row, Scene, scene

PASSWORD = "not-known-to-the-service"
Refusal = Callable[[Place, Admin], contextlib.AbstractContextManager[None]]
"""Makes one server refuse, for the duration of its block."""
SOME = ((", at one primary", 1), (", at each primary", None))
ALL = (("", None),)
"""How many servers refuse; None means all."""


async def refusals(place: str, effort: Effort) -> list[Row]:
    """Each refusal for a while, under load; on a cluster at one primary, and at all of them."""
    rows = []
    async with scene(place) as s:
        for name, refusal, more in (
            ("SCRIPT FLUSH", forget_scripts, 10),
            ("CLIENT KILL of all", clients_thrown_out, 10),
            (*(HAS_TOO_FEW_REPLICAS if place == "cluster" else IS_READ_ONLY), 3),
            ("the store is out of memory (OOM)", out_of_memory, 3),
            ("the store asks for a password (NOAUTH)", locked, 3),
            ("the disk under the store is full", disk_full, 3),
        ):
            for where, some in SOME if place == "cluster" else ALL:

                async def during(refusal: Refusal = refusal, some: int | None = some) -> None:
                    await _refused(s, refusal, some, effort.either(3.0, 2.0 if place == "cluster" else 0.7))

                rows.append(await s.under(Row(name + where, place), during, effort.times(more, 1)))
    return rows


async def _refused(s: Scene, refusal: Refusal, some: int | None, seconds: float) -> None:
    await s.place.answers()
    writers = s.place.writers()
    with contextlib.ExitStack() as stack:
        for admin in s.dice.sample(writers, some or len(writers)):
            stack.enter_context(refusal(s.place, admin))
        if refusal not in MOMENTARY:
            await s.fleet.quiet(seconds)
    await s.place.answers()


@contextlib.contextmanager
def forget_scripts(_: Place, admin: Admin) -> Iterator[None]:
    with admin() as client:
        client.script_flush()
    yield


@contextlib.contextmanager
def clients_thrown_out(_: Place, admin: Admin) -> Iterator[None]:
    with admin() as client:
        throw_out(client)
    yield


MOMENTARY: tuple[Refusal, ...] = forget_scripts, clients_thrown_out
"""Refusals without a duration."""


@contextlib.contextmanager
def read_only(_: Place, admin: Admin) -> Iterator[None]:
    """A failover that went the wrong way."""
    with admin() as client:
        client.replicaof("127.0.0.1", 1)  # nothing listens there
        yield
        client.replicaof("NO", "ONE")


@contextlib.contextmanager
def too_few_replicas(_: Place, admin: Admin) -> Iterator[None]:
    """A cluster node cannot be made a replica of nothing; but it can require more replicas than it has."""
    with _set(admin, "min-replicas-to-write", 9, 0):
        yield


IS_READ_ONLY: tuple[str, Refusal] = "the store is a replica and read-only (READONLY)", read_only
HAS_TOO_FEW_REPLICAS: tuple[str, Refusal] = (
    "the store lacks replicas and refuses writes (NOREPLICAS)",
    too_few_replicas,
)


@contextlib.contextmanager
def out_of_memory(_: Place, admin: Admin) -> Iterator[None]:
    with _set(admin, "maxmemory", 1, 0):
        yield


@contextlib.contextmanager
def locked(_: Place, admin: Admin) -> Iterator[None]:
    """Set requirepass, and close every connection, because open ones would stay authenticated."""
    with admin() as client:
        client.config_set("requirepass", PASSWORD)
    with admin(password=PASSWORD) as client:
        throw_out(client)
        yield
        client.config_set("requirepass", "")


@contextlib.contextmanager
def disk_full(place: Place, admin: Admin) -> Iterator[None]:
    """Limit the size of files. The embedded store exits each time; a store that syncs each second refuses to write
    (MISCONF)."""
    if isinstance(place, Embedded):
        pids = [place.owner(), *place.pids()]  # the next store inherits it
        with _no_file_growth(pids):
            yield
            pids += place.pids()
    else:
        with _set(admin, "appendfsync", "everysec", "always"):
            with admin() as client:
                pid = client.info("server")["process_id"]
            with _no_file_growth([pid]):
                yield


@contextlib.contextmanager
def _no_file_growth(pids: list[int]) -> Iterator[None]:
    """Keep the files of these processes from growing. The caller may add to `pids` in the block."""
    for pid in pids:
        _limit(pid, 1)
    yield
    for pid in pids:
        _limit(pid, resource.RLIM_INFINITY)


def _limit(pid: int, size: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))


@contextlib.contextmanager
def _set(admin: Admin, name: str, value: str | int, afterwards: str | int) -> Iterator[None]:
    with admin() as client:
        client.config_set(name, value)
        yield
        client.config_set(name, afterwards)
