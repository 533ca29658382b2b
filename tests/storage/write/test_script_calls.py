"""Script calls of a batch: every delta and state is in one call, in order, and no call or slice is too long."""

from collections.abc import Iterable

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from playhead.protocol.record import IN_SYNC, Report
from playhead.storage.keys import VIDEO_SHARDS, Keys, partition
from playhead.storage.write.pending import Batch, Delta, Key
from playhead.storage.write.script_calls import (
    WEIGHT_PER_CALL,
    WEIGHT_PER_SLICE,
    States,
    UserCall,
    by_partition,
    slices,
    user_calls,
    video_calls,
    video_keys,
    video_of_call,
)


def batch_of(weights: Iterable[tuple[Key, int]], syncs: dict[str, frozenset[str]] | None = None) -> Batch:
    """A batch with the given number of reports for each record."""
    batch = Batch(syncs=syncs or {})
    for key, weight in weights:
        batch.deltas[key] = Delta([Report(1, 1, "s", seq, seq) for seq in range(1, weight + 1)])
    return batch


def calls_of(batch: Batch, clustered: bool) -> list[UserCall]:
    calls: list[UserCall] = []
    for part in slices(batch, partition if clustered else None):
        for group in part:
            durations = {video_id: 0 for (_, video_id), _ in group}
            calls += user_calls(group, durations, lambda user: user == "u1", lambda user, reporters: True, batch.syncs)
    return calls


def unpacked(call: UserCall) -> list[tuple[int, int, str, int]]:
    """(place of the user, subscribed, videoId, number of ops) of each record in the arguments."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(call.packed)
    found = []
    for place, ours, video_id, _, _, ops in unpacker:
        found.append((place, ours, video_id, ops))
        for _ in range(ops):
            unpacker.skip()
    return found


keys = st.tuples(st.sampled_from([f"u{n}" for n in range(8)]), st.sampled_from([f"v{n}" for n in range(8)]))


@given(weights=st.dictionaries(keys, st.integers(1, 250), max_size=30), clustered=st.booleans())
def test_every_delta_is_in_one_call_of_a_bounded_size(weights: dict[Key, int], clustered: bool) -> None:
    calls = calls_of(batch_of(weights.items()), clustered)
    assert sorted(key for call in calls for key in call.records) == sorted(weights)
    for call in calls:
        assert len(call.users) == len(set(call.users))
        records = unpacked(call)
        assert [(call.users[place - 1], video) for place, _, video, _ in records] == call.records
        assert [ops for *_, ops in records] == [weights[key] for key in call.records]
        assert all(ours == (call.users[place - 1] == "u1") for place, ours, *_ in records)
        assert {user for user, _ in call.records} == set(call.users)
        assert sum(weights[key] for key in call.records[:-1]) < WEIGHT_PER_CALL, "one more record at most"
        if clustered:
            assert len({partition(user) for user in call.users}) == 1


@given(weights=st.dictionaries(keys, st.integers(1, 250), max_size=30), clustered=st.booleans())
def test_a_slice_ends_with_the_record_that_makes_it_large(weights: dict[Key, int], clustered: bool) -> None:
    for part in slices(batch_of(weights.items()), partition if clustered else None):
        of_records = [len(delta.ops) for group in part for _, delta in group]
        assert sum(of_records[:-1]) < WEIGHT_PER_SLICE or len(part) > 1


def test_an_empty_batch_has_no_calls() -> None:
    assert calls_of(Batch(), clustered=False) == calls_of(Batch(), clustered=True) == []
    assert list(video_calls({})) == []


def test_a_sync_is_one_call_however_long_it_is() -> None:
    """Its new records are created all or none. Other reports of the learner follow it in the same call."""
    videos = frozenset(f"v{n}" for n in range(2 * WEIGHT_PER_CALL))
    items = [(("u", "other"), 3), *((("u", video), 1) for video in sorted(videos)), (("u1", "v"), 1)]
    batch = batch_of(items, syncs={"u": videos})
    for video in videos:
        batch.deltas["u", video].ops = [Report(1, 1, "", IN_SYNC, IN_SYNC)]
    sync, rest = calls_of(batch, clustered=False)
    assert (sync.users, rest.users) == (["u"], ["u1"])
    assert {video for _, video in sync.records[: len(videos)]} == videos
    assert sync.records[len(videos) :] == [("u", "other")]
    assert set(msgpack.unpackb(sync.synced)) == videos
    assert rest.synced == b""


def test_a_deletion_is_an_array_of_its_instant() -> None:
    batch = Batch()
    batch.deltas["u", "v"] = Delta([17])
    (call,) = calls_of(batch, clustered=False)
    unpacker = msgpack.Unpacker()
    unpacker.feed(call.packed)
    assert list(unpacker) == [[1, 0, "v", 0, 1, 1], [17]]


states = st.dictionaries(st.sampled_from([f"v{n}" for n in range(6)]), st.integers(1, 450), max_size=6)


@given(sizes=states)
def test_every_state_is_in_one_call_of_a_bounded_size(sizes: dict[str, int]) -> None:
    by_shard: States = {
        shard: ([f"{shard}-u{n}" for n in range(size)], [b"state"] * size) for shard, size in sizes.items()
    }
    found: dict[str, list[str]] = {}
    for call in video_calls(by_shard):
        groups = msgpack.unpackb(call.packed)
        assert len(groups) == len(call.shards)
        assert sum(len(users) for users, _ in groups) <= WEIGHT_PER_CALL
        for shard, (users, values) in zip(call.shards, groups, strict=True):
            assert len(users) == len(values) > 0
            found.setdefault(shard, []).extend(users)
    assert found == {shard: users for shard, (users, _) in by_shard.items()}


def test_states_are_grouped_by_the_partition_of_their_shard() -> None:
    by_shard: States = {f"video{n}": (["u"], [b"state"]) for n in range(300)}
    assert list(by_partition(by_shard, None)) == [by_shard]
    groups = list(by_partition(by_shard, partition))
    assert all(len({partition(shard) for shard in group}) == 1 for group in groups)
    assert {shard for group in groups for shard in group} == set(by_shard)


@pytest.mark.parametrize("shards", [1, VIDEO_SHARDS])
def test_the_video_of_a_call_is_found_by_its_place(shards: int) -> None:
    """For the log: the script names a damaged entry by the place of its shard in KEYS."""
    names = Keys("ph", shards)
    of_call = [names.shard(video, "u") for video in ("a", "b")]
    command = ("EVALSHA", "sha", 8, *video_keys(names, of_call))
    assert [video_of_call(names, command, place) for place in (0, 1)] == ["a", "b"]
