"""Access to the parts of a store, for tests that look behind its facade."""

from collections import Counter
from dataclasses import replace

from redis.asyncio import Redis

from playhead.protocol.intervals import pairs
from playhead.protocol.record import Record
from playhead.storage.connection.link import Single
from playhead.storage.keys import Keys
from playhead.storage.parts import Parts
from playhead.storage.read.changes import Changes
from playhead.storage.read.curves import Curve, Points
from playhead.storage.read.totals import Totals
from playhead.storage.store import Store
from playhead.storage.values.audience import unpack_entry
from playhead.storage.values.damage import FOREIGN, Damaged


def parts_of(store: Store) -> Parts:
    """The parts that a store is made of."""
    return store._parts


def keys_of(store: Store) -> Keys:
    """The names of its keys and channels."""
    return parts_of(store).keys


def redis_of(store: Store | Parts) -> Redis:
    """The client of a store's only server; a cluster has several (`link.primaries`)."""
    link = (store if isinstance(store, Parts) else parts_of(store)).link
    assert isinstance(link, Single), "a cluster has several servers"
    return link.primary.redis


def records_in(changes: Changes | Damaged) -> list[tuple[str, Record]]:
    """(videoId, record) of all changes, unordered; only for changes that are all in memory."""
    assert isinstance(changes, Changes)
    return changes._decoded(changes._values.items())


async def recounted(store: Store | Parts, video_id: str) -> tuple[Totals, Curve]:
    """A video's totals and curve, computed from the readable entries of its audience. The stored totals must always
    equal them."""
    parts = store if isinstance(store, Parts) else parts_of(store)
    audiences = await parts.run_each([("HGETALL", parts.keys.audience(shard)) for shard in parts.keys.shards(video_id)])
    duration_ms = (await parts.catalogue.durations({video_id}))[video_id]
    viewers = completed = watched = 0
    steps: Counter[bytes] = Counter()
    for value in (value for audience in audiences if audience != FOREIGN for value in audience.values()):
        entry = unpack_entry(value)
        if isinstance(entry, Damaged):
            continue
        viewers += entry.watched > 0
        completed += entry.completed
        watched += entry.watched
        for letter, seconds in ((b"s", entry.seen), (b"a", entry.again)):
            for start, end in pairs(seconds):
                steps[letter + b"%d" % start] += 1
                steps[letter + b"%d" % end] -= 1
    points = Points()
    points.add(0, {name: b"%d" % by for name, by in steps.items()})
    totals = Totals(viewers, completed, watched)
    if duration_ms:
        totals = replace(totals, watched=min(watched, viewers * (duration_ms // 1_000)))
    return totals, points.curve(duration_ms)
