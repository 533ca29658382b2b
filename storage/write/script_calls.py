"""Cuts a batch into slices, and a slice into script calls: many records in one call, and none so long that it holds
up the store, nor a slice so large that making and reading its calls holds up the event loop.

On one server a call may touch any keys; on a cluster those of one partition, so there a batch is put in their order
first: one call for each partition, more only where it weighs too much for one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import msgpack

from playhead.storage.connection.pipeline import Command
from playhead.storage.keys import Keys, id_of
from playhead.storage.values.packing import append
from playhead.storage.write.pending import Batch, Delta, Key, Wanted

WEIGHT_PER_CALL = 200
"""Reports, or records, in one script call: a few ms, during which the store serves nobody else."""
WEIGHT_PER_SLICE = 400
"""Reports in the calls that are made, or read, without a break: a few ms of this process."""
States = dict[str, tuple[list[str], list[bytes]]]
"""By shard of a video: userIds, and of each the state that `lua/users.lua` answers."""


class UserCall(NamedTuple):
    """One call of `lua/users.lua`."""

    users: list[str]
    """In the order of KEYS, none twice."""
    records: list[Key]
    """In the order that the answer has them."""
    packed: bytes
    """ARGV[3]."""
    synced: bytes = b""
    """ARGV[8]: the videos of a sync, whose items are all here, and of this one user."""


class VideoCall(NamedTuple):
    """One call of `lua/videos.lua`."""

    shards: list[str]
    packed: bytes
    """ARGV[3]."""


def slices(batch: Batch, partition: Callable[[str], str] | None = None) -> Iterator[list[list[tuple[Key, Delta]]]]:
    """Deltas in groups that calls must not mix, in lists of about WEIGHT_PER_SLICE reports.

    What came of a learner with a sync is a group of its own, and never cut.
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
    """By shard, in groups that calls must not mix."""
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
    wanted: Wanted,
    syncs: Mapping[str, Iterable[str]] = MappingProxyType({}),
) -> Iterator[UserCall]:
    """Deltas by learner; one with many appears in several calls, in order, but for one with a sync."""
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
            want = 1 if wanted(user_id, delta.origins) else 0
            append((len(users), ours, key[1], durations[key[1]], want, len(ops)), packed, -1)
            for op in ops:
                append((op,) if isinstance(op, int) else op, packed, -1)
            weight += len(ops)
    if records:
        synced = msgpack.packb(list(syncs[users[0]]), use_bin_type=False) if syncs_here else b""
        yield UserCall(users, records, bytes(packed), synced)


def video_calls(by_shard: States) -> Iterator[VideoCall]:
    """(userIds, states) by shard; a large one appears in several calls."""
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
    """The four keys of each shard, in the order that `lua/videos.lua` takes them."""
    return [key for shard in shards for key in keys.of_shard(shard)]


def video_of_call(keys: Keys, command: Command, place: int) -> str:
    """The video that a call of `lua/videos.lua`, made of `video_keys`, has at `place`."""
    return keys.video_of(id_of(command[3 + 4 * place]))
