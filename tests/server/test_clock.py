"""The clock of all nodes is the store's time, however wrong the clocks of machines are, and however they are set."""

import asyncio
import contextlib
import itertools
import logging
from pathlib import Path
from uuid import uuid4

import pytest

from playhead.protocol.scalars import parse_instant
from playhead.server.clock import EVERY_S, FAR_MS, SLEW_MS, StoreClock, system_clock
from playhead.storage.embedded.valkey import EmbeddedValkey
from playhead.storage.keys import Keys
from playhead.storage.store import StoreUnavailable, TimeNotAllowed, open_store
from tests.clustered import clustered
from tests.conftest import StoreServer
from tests.device import device
from tests.faketime import LIBRARY, WITHOUT, WallClock
from tests.inside import keys_of, parts_of
from tests.missing import missing
from tests.ports import free_port
from tests.rest import ok, rest, scraped
from tests.server.program import serve
from tests.serving import START_MS, FakeClock
from tests.storage.own_store import as_playhead, opened, running, written_acl

pytestmark = pytest.mark.stores("valkey", "redis7", "cluster")
DAY_S = 86_400


class Line:
    """A store that returns its time, over a connection with latency in both directions."""

    def __init__(self, machine: FakeClock, ahead_ms: int = 0) -> None:
        self._machine = machine
        self.ahead_ms = ahead_ms
        """How far the store's time is ahead of the machine's monotonic clock."""
        self.there_ms = self.back_ms = 0
        self.away = False
        self.asked = 0

    async def time(self) -> int:
        if self.away:
            raise StoreUnavailable("away")
        self.asked += 1
        self._machine.mono += self.there_ms
        at = self._machine.mono + self.ahead_ms
        self._machine.mono += self.back_ms
        return at


async def started(machine: FakeClock, line: Line) -> StoreClock:
    clock = StoreClock(line.time, machine)
    await clock.start()
    return clock


@pytest.fixture
def machine() -> FakeClock:
    return FakeClock()


@pytest.fixture
def line(machine: FakeClock) -> Line:
    return Line(machine, START_MS - machine.mono)


@pytest.mark.parametrize("step_s", [-DAY_S, -60, 0.5, 60, DAY_S])
async def test_the_machines_wall_clock_does_not_matter(machine: FakeClock, line: Line, step_s: float) -> None:
    """It is set before the start, after it, and back: no reading changes, and the offset is reported."""
    machine.wall += round(1_000 * step_s)
    clock = await started(machine, line)
    assert clock().wall == START_MS
    assert clock.offset_ms == round(1_000 * step_s)
    for step in (-step_s, -step_s, step_s):
        machine.wall += round(1_000 * step)
        machine.advance(10)
        before = clock().wall
        await clock.sample()
        assert clock().wall == before == line.ahead_ms + machine.mono


async def test_the_shortest_of_several_round_trips_is_used(machine: FakeClock, line: Line) -> None:
    """A slow answer gives a less exact time; the error bound is reported."""
    trips = iter([(300, 100), (4, 4), (90, 10)])
    ask = line.time

    async def time() -> int:
        line.there_ms, line.back_ms = next(trips)
        return await ask()

    line.time = time  # type: ignore[method-assign]
    clock = await started(machine, line)
    assert clock().wall == line.ahead_ms + machine.mono
    assert clock.uncertainty_ms == 5


async def test_a_sample_within_its_error_bound_changes_nothing(machine: FakeClock, line: Line) -> None:
    clock = await started(machine, line)
    line.there_ms, line.back_ms = 400, 0
    await clock.sample()
    assert clock().wall == line.ahead_ms + machine.mono
    assert clock.uncertainty_ms == 201


@pytest.mark.parametrize("by_ms", [50, SLEW_MS, SLEW_MS + 1, 3_600_000, 1_000 * DAY_S])
async def test_a_store_whose_clock_steps_forward_is_followed(machine: FakeClock, line: Line, by_ms: int) -> None:
    clock = await started(machine, line)
    line.ahead_ms += by_ms
    await clock.sample()
    assert clock().wall == line.ahead_ms + machine.mono


@pytest.mark.parametrize("by_ms", [50, SLEW_MS])
async def test_a_reading_that_is_slightly_ahead_slows_down(machine: FakeClock, line: Line, by_ms: int) -> None:
    """It runs at half speed and never steps back, so that later events have later instants, until it is the store's
    time again."""
    clock = await started(machine, line)
    line.ahead_ms -= by_ms
    before = clock().wall
    await clock.sample()
    readings = [clock().wall]
    while machine.mono + line.ahead_ms < before + by_ms:
        machine.advance(0.002)
        readings.append(clock().wall)
    assert readings[0] == before
    assert all(later > earlier for earlier, later in itertools.pairwise(readings))
    assert readings[-1] == line.ahead_ms + machine.mono


@pytest.mark.parametrize("by_ms", [SLEW_MS + 1, 3_600_000, 1_000 * DAY_S])
async def test_a_reading_that_is_far_ahead_steps_back(
    machine: FakeClock, line: Line, by_ms: int, caplog: pytest.LogCaptureFixture
) -> None:
    """As a new node would read it. Instants stored in the meantime do not outrank new reports."""
    clock = await started(machine, line)
    line.ahead_ms -= by_ms
    await clock.sample()
    assert clock().wall == line.ahead_ms + machine.mono
    (warning,) = (record for record in caplog.records if "The time of new records steps back" in record.message)
    assert f"{by_ms / 1_000:.3f} s" in warning.message


async def test_the_time_continues_during_an_outage(machine: FakeClock, line: Line) -> None:
    clock = await started(machine, line)
    line.away = True
    with pytest.raises(StoreUnavailable):
        await clock.sample()
    machine.wall -= 1_000 * DAY_S
    machine.mono += 60_000
    assert clock().wall == START_MS + 60_000
    assert clock.sampled_ms_ago == 60_000


async def test_a_growing_offset_is_logged_once_and_so_is_its_end(
    machine: FakeClock, line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clock = await started(machine, line)
    for wall_ms, level in ((FAR_MS + 1, "WARNING"), (0, None), (-FAR_MS, "INFO"), (100, None)):
        machine.wall += wall_ms
        caplog.clear()
        await clock.sample()
        assert [record.levelname for record in caplog.records] == ([level] if level else [])
    assert clock.note is None


async def test_samples_are_taken_repeatedly(machine: FakeClock, line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after an outage of the store."""
    assert EVERY_S <= 10
    monkeypatch.setattr("playhead.server.clock.EVERY_S", 0.001)
    clock = await started(machine, line)
    task = asyncio.create_task(clock.run())
    try:
        async with asyncio.timeout(10):
            for by_ms in (5_000, -5_000):
                line.away = True
                await asyncio.sleep(0.01)
                line.ahead_ms += by_ms
                line.away = False
                while clock().wall != line.ahead_ms + machine.mono:  # noqa: ASYNC110 no event tells of a sample
                    await asyncio.sleep(0)
    finally:
        task.cancel()


async def test_the_time_is_the_stores(store_server: StoreServer) -> None:
    store = open_store(store_server.url, worker="w", key_prefix="unused")
    try:
        clock = await StoreClock.of(store)
        assert clock.reference == "store"
        assert abs(clock.offset_ms) <= clock.uncertainty_ms + 2, "the store is on the same machine"
        assert clock.note is None
    finally:
        await store.close()


@pytest.mark.parametrize("store_server", ["cluster"], indirect=True)
async def test_on_a_cluster_one_primary_is_asked(store_server: StoreServer, prefix: str) -> None:
    """The primary that has the epoch, which is the same for all nodes."""
    store = open_store(store_server.url, worker="w", key_prefix=prefix)

    async def asked() -> dict[str, int]:
        counts = {}
        for primary in await parts_of(store).link.primaries():
            (stats,) = await primary.ask([("INFO", "commandstats")])
            counts[primary.name] = stats.get("cmdstat_time", {}).get("calls", 0)
        return counts

    try:
        await store.epoch()
        before = await asked()
        await StoreClock.of(store)
        after = await asked()
        assert len(after) > 1
        assert {name for name in after if after[name] > before[name]} == {
            parts_of(store).link.primary_of(keys_of(store).epoch)
        }
    finally:
        await store.close()


async def test_after_a_failover_the_clock_of_the_new_primary_is_followed(tmp_path: Path) -> None:
    """Real servers: the replica of the primary with the epoch is an hour ahead, and takes over."""
    if LIBRARY is None:
        missing(WITHOUT)
    wall, keys = WallClock(tmp_path / "offset", 3_600), Keys()
    with clustered(tmp_path) as servers:
        primary = servers.primary_of(keys.epoch)
        replica = servers.replica_of(primary)
        await asyncio.to_thread(replica.kill)
        replica.environment = wall.environment
        await asyncio.to_thread(servers.heal)
        store = open_store(servers.url, worker="w", key_prefix=keys.prefix, timeout_s=2)
        try:
            clock = await StoreClock.of(store)
            assert abs(clock.offset_ms) < FAR_MS
            await asyncio.to_thread(primary.kill)
            async with asyncio.timeout(60):
                while abs(clock.offset_ms + 3_600_000) > FAR_MS:
                    with contextlib.suppress(StoreUnavailable):
                        await store.epoch()  # commits and subscriptions refresh the topology
                        await clock.sample()
        finally:
            await store.close()


@pytest.mark.parametrize("kind", ["redis7", "valkey"])
async def test_without_permission_for_time_the_machines_clock_is_used_and_reported(kind: str, tmp_path: Path) -> None:
    acl = written_acl(tmp_path)
    acl.write_text(acl.read_text().replace(" +time", ""))
    path = tmp_path / "store.sock"
    url = as_playhead(path)
    with running(kind, tmp_path, url, "--unixsocket", path, "--aclfile", acl):
        async with opened(url) as store:
            with pytest.raises(TimeNotAllowed):
                await StoreClock.of(store)
            clock = await StoreClock.of(store, or_machine=True)
            assert clock.reference == "machine"
            assert clock.note is not None
            assert "allow +time" in clock.note
            assert abs(clock().wall - system_clock().wall) < FAR_MS


async def test_a_machine_whose_clock_is_wrong_reports_it(tmp_path: Path) -> None:
    """A real process reports it in the log at startup and when it changes, in /readyz and in the metrics.

    What it stores and sends has the store's time.
    """
    if LIBRARY is None:
        missing(WITHOUT)
    wall, user, video = WallClock(tmp_path / "offset", 3_600), str(uuid4()), str(uuid4())
    with EmbeddedValkey(tmp_path / "data", fsync=False) as valkey:
        async with (
            serve(free_port(), "--redis-url", valkey.url, **wall.environment) as program,
            rest(program.running) as api,
            device(program.running, user) as player,
        ):
            await program.logged("WARNING playhead.server.commands.serve: This machine's clock is 3600.0")
            ready = ok(await api.get("/readyz"))
            assert abs(ready["clock"]["offsetMs"] - 3_600_000) < FAR_MS
            (note,) = (note for note in ready["notes"] if "ahead of the store's" in note)
            assert "Records use the store's clock, the expiry of tokens this machine's" in note
            assert abs((await scraped(api))["playhead_clock_offset_seconds{}"] - 3_600) < FAR_MS / 1_000
            assert abs(parse_instant(player.welcome["serverTime"]) - system_clock().wall) < 60_000
            await player.play(video, 0, 10)
            record = ok(await api.get(f"/progress/{user}/{video}"))
            assert abs(parse_instant(record["lastWatched"]) - system_clock().wall) < 60_000
            wall.set(-86_400)
            assert abs(ok(await api.get("/readyz"))["clock"]["offsetMs"] + 86_400_000) < FAR_MS
            wall.set(0)
            await program.logged("INFO playhead.server.clock: This machine's clock is 0.0")
            ready = ok(await api.get("/readyz"))
            assert abs(ready["clock"]["offsetMs"]) < FAR_MS
            assert not [note for note in ready.get("notes", ()) if "clock" in note]
            assert (await player.play(video, 10, 20))["rejected"] == []
