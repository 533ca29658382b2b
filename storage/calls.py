"""Cuts a batch into slices, and a slice into script calls: many records in one call, and none so long that it holds
up the store, nor a slice so large that making and reading its calls holds up the event loop.

On one server a call may touch any keys, so partitions don't matter here; a cluster will want calls cut at their edges.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from storage.keys import Keys
from storage.packing import pack_report
from storage.pending import Delta, Key

WEIGHT_PER_CALL = 200
"""Reports, or records, in one script call: a few ms, during which the store serves nobody else."""
WEIGHT_PER_SLICE = 400
"""Reports in the calls that are made, or read, without a break: a few ms of this process."""
T = TypeVar("T")
UserItems = tuple[str, list[tuple[str, Delta]]]
VideoRecords = tuple[str, list[tuple[str, bytes]]]


def slices(deltas: dict[Key, Delta]) -> Iterator[list[tuple[Key, Delta]]]:
    """Deltas in order, in lists of about WEIGHT_PER_SLICE reports."""
    part: list[tuple[Key, Delta]] = []
    weight = 0
    for item in deltas.items():
        part.append(item)
        weight += len(item[1].ops)
        if weight >= WEIGHT_PER_SLICE:
            yield part
            part, weight = [], 0
    if part:
        yield part


def user_calls(part: list[tuple[Key, Delta]]) -> Iterator[list[UserItems]]:
    """Deltas by learner; one with many appears in several calls, in order."""
    by_user: dict[str, list[tuple[str, Delta]]] = {}
    for (user_id, video_id), delta in part:
        by_user.setdefault(user_id, []).append((video_id, delta))
    return _cut((user_id, part) for user_id, items in by_user.items() for part in _parts(items, _reports))


def video_calls(by_video: dict[str, list[tuple[str, bytes]]]) -> Iterator[list[VideoRecords]]:
    """(userId, stored value) by video; a hot video appears in several calls."""
    return _cut((video_id, part) for video_id, records in by_video.items() for part in _parts(records, _one))


def video_keys(keys: Keys, call: list[VideoRecords]) -> list[str]:
    """The four keys of each video, in the order that `lua/videos.lua` takes them."""
    return [key for video_id, _ in call for key in keys.of_video(video_id)]


def ops(delta: Delta) -> list[Any]:
    """A delta's operations as `lua/users.lua` takes them."""
    return [op if isinstance(op, int) else pack_report(op) for op in delta.ops]


def _cut(parts: Iterable[tuple[str, tuple[list[T], int]]]) -> Iterator[list[tuple[str, list[T]]]]:
    call: list[tuple[str, list[T]]] = []
    room = WEIGHT_PER_CALL
    for name, (part, weight) in parts:
        if weight > room and call:
            yield call
            call, room = [], WEIGHT_PER_CALL
        call.append((name, part))
        room -= weight
    if call:
        yield call


def _parts(items: list[T], weigh: Callable[[T], int]) -> Iterator[tuple[list[T], int]]:
    """Runs of at most WEIGHT_PER_CALL, each with its weight; one item that weighs more is a run of its own."""
    run: list[T] = []
    total = 0
    for item in items:
        weight = weigh(item)
        if run and total + weight > WEIGHT_PER_CALL:
            yield run, total
            run, total = [], 0
        run.append(item)
        total += weight
    if run:
        yield run, total


def _reports(item: tuple[str, Delta]) -> int:
    return len(item[1].ops)


def _one(item: object) -> int:
    return 1
