"""Cuts a batch into slices, and a slice into script calls: many records in one call, and none so long that it holds
up the store, nor a slice so large that making and reading its calls holds up the event loop.

On one server a call may touch any keys, so partitions don't matter here; a cluster will want calls cut at their edges.
"""

from collections.abc import Callable, Iterator
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
        items = by_user.get(user_id)
        if items is None:
            by_user[user_id] = [(video_id, delta)]
        else:
            items.append((video_id, delta))
    return _cut(by_user, lambda item: len(item[1].ops))


def video_calls(by_video: dict[str, list[tuple[str, bytes]]]) -> Iterator[list[VideoRecords]]:
    """(userId, stored value) by video; a hot video appears in several calls."""
    return _cut(by_video, lambda item: 1)


def video_keys(keys: Keys, call: list[VideoRecords]) -> list[str]:
    """The four keys of each video, in the order that `lua/videos.lua` takes them."""
    return [key for video_id, _ in call for key in keys.of_video(video_id)]


def ops(delta: Delta) -> list[Any]:
    """A delta's operations as `lua/users.lua` takes them."""
    return [op if isinstance(op, int) else pack_report(op) for op in delta.ops]


def _cut(groups: dict[str, list[T]], weigh: Callable[[T], int]) -> Iterator[list[tuple[str, list[T]]]]:
    """Calls of about WEIGHT_PER_CALL each; a group that does not fit goes on in the next."""
    call: list[tuple[str, list[T]]] = []
    weight = 0
    for name, items in groups.items():
        if weight >= WEIGHT_PER_CALL:
            yield call
            call, weight = [], 0
        if len(items) == 1:
            call.append((name, items))
            weight += weigh(items[0])
            continue
        run: list[T] = []
        for item in items:
            if weight >= WEIGHT_PER_CALL:
                if run:
                    call.append((name, run))
                yield call
                call, run, weight = [], [], 0
            run.append(item)
            weight += weigh(item)
        call.append((name, run))
    if call:
        yield call
