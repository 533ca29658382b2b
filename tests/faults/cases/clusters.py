"""A cluster that fails over, moves a slot or loses shards under load; and several nodes of the service on one store."""

import asyncio
import random
from itertools import pairwise
from pathlib import Path

from playhead.protocol.intervals import coverage, intersection
from playhead.storage.keys import VIDEO_SHARDS, Keys
from tests.clustered import PRIMARIES, ClusterServers, at_once, by_keys, until
from tests.faults.cases.kills import kill_a_worker
from tests.faults.clustered import Clustered
from tests.faults.damage import CUT_BYTES, cut, held, wipe
from tests.faults.effort import Effort
from tests.faults.place import Change
from tests.faults.players import PATIENCE_S, Player
from tests.faults.scene import Row, Scene, scene

KEYS = Keys(video_shards=VIDEO_SHARDS)
TIMEOUT_S = 2.0
"""The service's timeout for the store's answers."""


async def changes(place: str, effort: Effort) -> list[Row]:
    """Slots change their primary. Nothing is lost, because an ack waits for disk and replica.

    A primary is killed; another one is silent for longer than the node timeout, and returns in the belief that it is
    still a primary; the slot of a learner or of a video moves, key by key or as a whole.
    """
    async with scene(place, STORE_TIMEOUT_S=str(TIMEOUT_S)) as s:
        cluster = s.place
        assert isinstance(cluster, Clustered)
        silent_s = effort.either(10, 3)

        async def killed() -> None:
            await asyncio.sleep(s.dice.random() * 0.2)
            await cluster.kill()

        async def silent() -> None:
            await cluster.answers()
            victim = s.dice.choice(cluster.servers.primaries())
            victim.stop()
            try:
                await asyncio.gather(asyncio.sleep(silent_s), cluster.taken_over(victim))
            finally:
                victim.resume()

        async def moved() -> None:
            await cluster.answers()
            sent = s.dice.choice(list(s.ledger.sent.values()))
            shard = KEYS.shard(sent.entry.beat.video_id, sent.user)
            key = s.dice.choice([KEYS.progress(sent.user), KEYS.audience(shard)])
            await asyncio.to_thread(_move, cluster.servers, key, s.dice)
            await s.fleet.more(20)

        return [
            await s.under(Row("kill -9 of a primary, its replica takes over", place), killed, effort.times(10, 1)),
            await s.under(Row(f"a primary is stopped for {silent_s} s", place), silent, effort.times(5, 1)),
            await s.under(Row("a slot moves to another primary", place), moved, effort.times(20, 1)),
        ]


def _move(servers: ClusterServers, key: str, dice: random.Random) -> None:
    """Move the slot of this key."""
    source = servers.primary_of(key)
    target = dice.choice([member for member in servers.primaries() if member is not source])
    move = dice.choice([by_keys, at_once])
    for _ in move(source, target, int(source.ask("CLUSTER", "KEYSLOT", key))):
        pass
    until(lambda: servers.primary_of(key) is target)


async def lost(place: str, effort: Effort) -> list[Row]:
    """Whole shards, primary and replica, return without their last bytes or empty, which replicas:1 cannot survive.

    Of the reports acked to learners whose records were on these shards, only those that are still stored are expected;
    everything of other learners must be there. The epoch changes, and one more report for each record, to either of two
    nodes, makes everything right again, including the totals on other shards of records that are gone.
    """
    rows = []
    async with scene(place, nodes=2, STORE_TIMEOUT_S=str(TIMEOUT_S)) as s:
        for name, change, count, full, short in (
            (f"the file of one shard cut by {CUT_BYTES:,} bytes", cut, 1, 3, 0),
            ("one shard starts empty", wipe, 1, 3, 1),
            ("the whole cluster starts empty", wipe, PRIMARIES, 3, 0),
        ):
            row = Row(name, place)

            async def fault(row: Row = row, change: Change = change, count: int = count) -> None:
                given_up = await _lose(s, change, count)
                row.remark = f"earlier acks of its learners are expected as stored ({given_up:,} in the last run)"
                s.fleet.lap()

            if times := effort.times(full, short):
                rows.append(await s.under(row, fault, times))
    return rows


async def _lose(s: Scene, change: Change, count: int) -> int:
    """Kill `count` shards, change their files, and start them again.

    The ledger forgets the heartbeats that were acked to learners whose records are there. Returns their number.
    """
    cluster, given_up = s.place, 0
    assert isinstance(cluster, Clustered)
    await cluster.answers()
    servers = cluster.servers
    shards = {primary: servers.replica_of(primary) for primary in s.dice.sample(servers.primaries(), count)}
    users = (
        {each.user for each in s.ledger.sent.values()}
        | {each.user for each in s.ledger.claims}
        | {user for user, _ in s.ledger.base}
    )
    theirs = {user for user in users if servers.primary_of(KEYS.progress(user)) in shards}

    async def damage(directories: list[Path]) -> None:
        nonlocal given_up
        await s.fleet.quiet(TIMEOUT_S)  # the others may still confirm a commit that these have confirmed before
        for directory in directories:
            change(directory)
        kept = {} if change is wipe else {key: record for each in directories for key, record in held(each).items()}
        given_up = s.ledger.rebase(kept, theirs)

    await cluster.lose(shards, damage)
    return given_up


async def nodes(place: str, effort: Effort) -> list[Row]:
    """Two nodes of two workers each; a learner's two devices are connected to different nodes.

    The answers of each node equal the model, as with a single process, and the plays of one device are pushed to the
    other.
    """
    rows = []
    async with scene(place, workers=2, nodes=2, STORE_TIMEOUT_S=str(TIMEOUT_S)) as s:

        async def nothing() -> None: ...

        async def node_killed() -> None:
            await s.dice.choice(s.services).kill()

        async def worker_killed() -> None:
            await kill_a_worker(s.dice.choice(s.services), s.dice)

        async def store_killed() -> None:
            await s.place.kill()

        for name, fault, full, short in (
            ("none: two nodes of two workers", nothing, 5, 1),
            ("kill -9 of one of two nodes, workers and all", node_killed, 10, 1),
            ("kill -9 of one of four workers", worker_killed, 10, 1),
            ("kill -9 of the store under two nodes", store_killed, 5, 0),
        ):
            row = Row(name, place)

            async def across(row: Row = row) -> None:
                row.remark = f"pushes across nodes afterwards: {await _push_across_nodes(s)}, all arrived"

            if times := effort.times(full, short):
                rows.append(await s.under(row, fault, times, across))
        return rows


async def _push_across_nodes(s: Scene) -> int:
    """Let each device of each pair report once, and wait until it is pushed to the other, at the other node.

    No other device reports meanwhile, because a device that reports learns of changes by the answer.

    Returns:
        The number of pushes.

    Raises:
        TimeoutError: a device was not sent the change.
    """
    s.fleet.gate.clear()
    await s.fleet.acked(s.ledger.unacked())
    for each in s.fleet.players:
        await each.client.flush()
    pairs = [(a, b) for a, b in pairwise(s.fleet.players) if a.user == b.user]
    assert all(a.url != b.url for a, b in pairs)
    await asyncio.gather(*(_push(a, b) for a, b in pairs))
    await asyncio.gather(*(_push(b, a) for a, b in pairs))
    return 2 * len(pairs)


async def _push(other: Player, player: Player) -> None:
    player.report(max(player.videos, key=lambda video: player.videos[video]))
    beat = player.client.pending[-1].beat
    seconds, _ = coverage([(round(start * 1_000), round(end * 1_000)) for start, end in beat.played])
    async with asyncio.timeout(PATIENCE_S):
        while intersection(seconds, _known(other, beat.video_id)) != seconds:  # noqa: ASYNC110 a push
            await asyncio.sleep(0.01)


def _known(player: Player, video: str) -> list[int]:
    """The seconds that are seen according to a device."""
    record = player.client.record(video)
    return [] if record is None else [edge for pair in record.seen or () for edge in pair]
