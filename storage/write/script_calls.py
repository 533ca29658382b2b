"""Divides a batch into slices, and a slice into script calls: many records in one call, but no call so long that it
blocks the store, and no slice so large that making and reading its calls blocks the event loop.

On one server a call may use any keys; on a cluster only those of one partition. There a batch is sorted by partition
first: one call for each partition, and more only if one would be too long.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import msgpack

from playhead.storage.connection.pipeline import Command
from playhead.storage.keys import Keys, id_of
from playhead.storage.values.packing import append
from playhead.storage.write.pending import Batch, Delta, Key, NeedsValue

WEIGHT_PER_CALL = 200
"""Reports, or records, in one script call: a few ms, during which the store serves no other client."""
WEIGHT_PER_SLICE = 400
"""Reports in the calls that are made, or read, before other tasks may run: a few ms of this process."""
States = dict[str, tuple[list[str], list[bytes]]]
"""By shard of a video: userIds, and for each the state that `lua/users.lua` returned."""


class UserCall(NamedTuple):
    """One call of `lua/users.lua`."""

    users: list[str]
    """In the order of KEYS, without duplicates."""
    records: list[Key]
    """In the order of the answer."""
    packed: bytes
    """ARGV[3]."""
    synced: bytes = b""
    """ARGV[8]: the videos of a sync. Then all of its items are in this call, and no records of other users."""


class VideoCall(NamedTuple):
    """One call of `lua/videos.lua`."""

    shards: list[str]
    packed: bytes
    """ARGV[3]."""


def slices(batch: Batch, partition: Callable[[str], str] | None = None) -> Iterator[list[list[tuple[Key, Delta]]]]:
    """Deltas in groups that no call may mix, in lists of about WEIGHT_PER_SLICE reports.

    The deltas of a learner with a sync are a group of their own, which is never divided.
    """
    deltas = batch.deltas
    if batch.syncs:
        for user_id, videos in batch.syncs.items():
            items = [(key, delta) for key, delta in deltas.items() if key[0] == user_id]
            yield [sorted(items, key=lambda item: item[0][1] not in videos)]
        deltas = {key: delta for key, delta in deltas.items() if key[0] not in batch.syncs}
    part: list[list[tuple[Key, Delta]]] = []
    weight = 0
    for group in _groups(deltas, partition):
        part.append([])
        inside = 0
        for item in group:
            part[-1].append(item)
            inside += len(item[1].ops)
            if inside >= WEIGHT_PER_SLICE:
                yield part
                part, weight, inside = [[]], 0, 0
        weight += inside
        if weight >= WEIGHT_PER_SLICE:
            yield part
            part, weight = [], 0
    if part:
        yield part


def by_partition(shards: States, partition: Callable[[str], str] | None) -> Iterator[States]:
    """States by shard, in groups that no call may mix."""
    if partition is None:
        return iter([shards])
    groups: dict[str, States] = {}
    for shard, states in shards.items():
        groups.setdefault(partition(shard), {})[shard] = states
    return iter(groups.values())


def _groups(deltas: dict[Key, Delta], partition: Callable[[str], str] | None) -> Iterable[Iterable[tuple[Key, Delta]]]:
    if partition is None:
        return [deltas.items()]
    groups: dict[str, list[tuple[Key, Delta]]] = {}
    for item in deltas.items():
        groups.setdefault(partition(item[0][0]), []).append(item)
    return groups.values()


def user_calls(
    part: list[tuple[Key, Delta]],
    durations: dict[str, int],
    subscribed: Callable[[str], bool],
    needs_value: NeedsValue,
    syncs: Mapping[str, Iterable[str]] = MappingProxyType({}),
) -> Iterator[UserCall]:
    """Calls of the deltas, by learner. One with many deltas is divided among several calls, in order, unless they
    sync."""
    syncs_here = syncs and part and part[0][0][0] in syncs
    by_user: dict[str, list[tuple[Key, Delta]]] = {}
    for item in part:
        user_id = item[0][0]
        if user_id in by_user:
            by_user[user_id].append(item)
        else:
            by_user[user_id] = [item]
    packed = bytearray()
    users: list[str] = []
    records: list[Key] = []
    weight = 0
    for user_id, items in by_user.items():
        ours = 1 if subscribed(user_id) else 0
        users.append(user_id)
        for key, delta in items:
            if weight >= WEIGHT_PER_CALL and not syncs_here:
                if not records or records[-1][0] != user_id:
                    users.pop()
                yield UserCall(users, records, bytes(packed))
                users, records, packed, weight = [user_id], [], bytearray(), 0
            records.append(key)
            ops = delta.ops
            want = 1 if needs_value(user_id, delta.reporters) else 0
            append((len(users), ours, key[1], durations[key[1]], want, len(ops)), packed, -1)
            for op in ops:
                append((op,) if isinstance(op, int) else op, packed, -1)
            weight += len(ops)
    if records:
        synced = msgpack.packb(list(syncs[users[0]]), use_bin_type=False) if syncs_here else b""
        yield UserCall(users, records, bytes(packed), synced)


def video_calls(by_shard: States) -> Iterator[VideoCall]:
    """Calls of the states by shard; a large shard is divided among several."""
    shards: list[str] = []
    groups: list[tuple[list[str], list[bytes]]] = []
    weight = 0
    for shard, (users, values) in by_shard.items():
        start = 0
        while start < len(users):
            end = start + WEIGHT_PER_CALL - weight
            shards.append(shard)
            groups.append((users[start:end], values[start:end]))
            weight += len(groups[-1][0])
            if weight >= WEIGHT_PER_CALL:
                yield VideoCall(shards, msgpack.packb(groups, use_bin_type=False))
                shards, groups, weight = [], [], 0
            start = end
    if shards:
        yield VideoCall(shards, msgpack.packb(groups, use_bin_type=False))


def video_keys(keys: Keys, shards: list[str]) -> list[str]:
    """The four keys of each shard, in the order of `lua/videos.lua`."""
    return [key for shard in shards for key in keys.of_shard(shard)]


def video_of_call(keys: Keys, command: Command, place: int) -> str:
    """The video at index `place` in a call of `lua/videos.lua` with `video_keys`."""
    return keys.video_of(id_of(command[3 + 4 * place]))
