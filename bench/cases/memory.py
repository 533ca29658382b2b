"""The memory of a connection in the server, idle and active, and of a record in the store.

Connections: the growth of the server's private memory from 500 to 3,500 of them, so that the memory of an empty server
does not count; active ones send a heartbeat every second, with a flush every second. Records: the growth of the store's
used_memory with 1,000 learners of 20 videos each, watched in two sittings with some seconds twice: in total, and for
the user's side and the audience alone, which grow with each further record. Curves are limited by the length of the
video, and viewers leave the set of live ones after minutes: the table divides these by the records only to show them.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from bench.drive import drive
from bench.learners import commit, keys
from bench.load.spec import Load
from bench.options import Options
from bench.report import Row, Section
from bench.servers import playhead, store
from playhead.storage.store import Store, open_store
from tests.inside import keys_of, parts_of

FEW, MANY = 500, 3_500
LEARNERS, VIDEOS = 1_000, 20


def run(options: Options, say: Callable[[str], None]) -> Section:
    section = Section("Memory")
    idle: list[float] = []
    active: list[float] = []
    with playhead() as server:
        still = Load(server.port, "json", FEW, 0, 1.0)
        few = drive(server, still).rss_bytes
        many = drive(server, replace(still, connections=MANY)).rss_bytes
        idle.append((many - few) / (MANY - FEW) / 1_024)
        say(f"idle: {idle[-1]:.1f} KiB")
    with playhead() as server:
        beating = Load(server.port, "json", FEW, FEW, 3.0)
        few = drive(server, beating).rss_bytes
        many = drive(server, replace(beating, connections=MANY, rate=MANY)).rss_bytes
        active.append((many - few) / (MANY - FEW) / 1_024)
        say(f"active: {active[-1]:.1f} KiB")
    section.rows.append(Row("an idle connection", idle, "KiB", 32))
    section.rows.append(Row("an active connection, a beat each second", active, "KiB"))
    with store() as (valkey, _):
        whole, kinds = asyncio.run(_records(valkey.url))
    both = kinds["the users' hashes"] + kinds["the audiences"]
    note = "two sittings, some seconds twice; by the store's own estimate"
    section.rows.append(Row("a record in the store, user side and audience", [both], "B", 400, note))
    section.rows.append(Row("all that the store has grown by, a record", [whole], "B"))
    section.rows += [Row(f"… of it, {kind}", [size], "B") for kind, size in kinds.items()]
    return section


async def _records(url: str) -> tuple[float, dict[str, float]]:
    """Bytes per record: in total, and by kind of key as the store estimates them."""
    target = open_store(url, worker="bench", timeout_s=30)
    await commit(target, keys(2, 1, 1), sittings=2)  # loads scripts and buffers
    before = await _data_bytes(target)
    records = keys(1, LEARNERS, VIDEOS)
    await commit(target, records, sittings=2)
    after = await _data_bytes(target)
    names = {
        "the users' hashes": {keys_of(target).progress(user_id) for user_id, _ in records},
        "the audiences": {keys_of(target).audience(video_id) for _, video_id in records},
        "the curves": {keys_of(target).curve(video_id) for _, video_id in records},
        "who is watching": {keys_of(target).live(video_id) for _, video_id in records},
    }
    sizes = {}
    for kind, some in names.items():
        sizes[kind] = sum(await parts_of(target).run([("MEMORY", "USAGE", name, "SAMPLES", 0) for name in some])) / len(
            records
        )
    await target.close()
    return (after - before) / len(records), sizes


async def _data_bytes(target: Store) -> int:
    """used_memory without the temporary memory of connections and of the append-only file."""
    (info,) = await parts_of(target).run([("INFO", "memory")])
    return int(info["used_memory"] - info["mem_clients_normal"] - info["mem_aof_buffer"])
