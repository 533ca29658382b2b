"""CPU of a device that reconnects: accept, hello and missing records, compared with a bare uvicorn accept.

First with nothing stored; then with learners of 200 records each, all at once: devices that miss no record, the two
that they watched themselves just before, more, or all of them.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from bench.drive import Cost, drive
from bench.learners import commit, keys
from bench.load.spec import Load, learner
from bench.options import Options
from bench.processes import Failed
from bench.report import Row, Section, ratios
from bench.servers import bare, playhead
from playhead.storage.store import open_store
from tests.inside import keys_of, parts_of

DEVICES, BACK, RECORDS = 1_000, 2_000, 200
CHANGED = (0, 2, 20, 200)
SEED = 5


def run(options: Options, say: Callable[[str], None]) -> Section:
    learners = BACK // 8 if options.quick else BACK
    section = Section("Coming back: CPU a device")
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(options.turns):
        for start, kind, costs in ((playhead, "json", ours), (bare, "bare", theirs)):
            with start() as server:
                costs.append(_us(drive(server, Load(server.port, kind, DEVICES, 0, 0.2))))
        say(f"accept, hello, sync of nothing: {ours[-1]:.0f} µs; bare accept: {theirs[-1]:.0f} µs")
    section.rows += [
        Row("Playhead: accept, hello, sync of nothing", ours, "µs"),
        Row("bare uvicorn: accept", theirs, "µs"),
        Row("**Playhead / bare accept**", ratios(ours, theirs), "×", 1.5),
    ]
    with playhead() as server:
        assert server.store is not None  # noqa: S101 it has one
        epoch, rev = asyncio.run(_past(server.store.url, learners))
        load = Load(server.port, "json", learners, 0, 0.2, seed=SEED, connecting=learners, epoch=epoch)
        synced: dict[int, float] = {}
        looked: dict[int, float] = {}
        for changed in CHANGED:
            before = server.cpu_s()[1]
            cost = drive(server, replace(load, since=rev - changed))
            if cost.outcome.records != changed * learners:
                raise Failed(f"{cost.outcome.records} records came, not {changed} for each of {learners} devices")
            store = (server.cpu_s()[1] - before) / learners * 1e6
            say(f"{changed} of {RECORDS} records changed: {_us(cost, learners):.0f} µs, store {store:.0f} µs")
            what = f"{learners:,} devices reconnect at once, {RECORDS} records each, {changed} of them changed"
            section.rows.append(Row(f"{what}: server", [_us(cost, learners)], "µs"))
            section.rows.append(Row(f"{what}: store", [store], "µs"))
            synced[changed], looked[changed] = _us(cost, learners), store
        none, _, some, everything = (synced[changed] for changed in CHANGED)
        each = [(some - none) / CHANGED[2], (everything - none) / CHANGED[3]]
        section.rows.append(
            Row("server, a changed record (of few, of all)", each, "µs", note="the two are equal if cost ∝ changes")
        )
        few = (looked[CHANGED[1]] - looked[0]) / (looked[RECORDS] - looked[0])
        section.rows.append(
            Row("store, two changed records, as part of all 200", [few], "", note="near 0 if cost ∝ changes")
        )
    return section


def _us(cost: Cost, devices: int = DEVICES) -> float:
    return 1e6 * cost.connect_cpu_s / devices


async def _past(url: str, learners: int) -> tuple[str, int]:
    """Give each learner copies of records made by commits; returns the store's epoch and the learners' revision."""
    target = open_store(url, worker="bench", timeout_s=60)
    committed = await commit(target, keys(SEED, 1, RECORDS), sittings=2)
    hashes = [keys_of(target).progress(learner(SEED, index)) for index in range(learners)]
    (made,) = await parts_of(target).run([("DUMP", hashes[0])])
    for copy in hashes[1:]:
        await parts_of(target).run([("RESTORE", copy, 0, made)])
    revs = {rev for _, rev in committed.revs.values()}
    await target.close()
    return committed.epoch, max(revs)
