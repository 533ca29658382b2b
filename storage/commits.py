"""Commits batches in two stages.

Stage 1 joins the reports into the users' records and is the truth; stage 2 brings the same records to their videos'
audiences and totals, by difference. Both are safe to repeat, so a commit that failed anywhere is simply made again,
and a crash between the stages heals with the next report of the record. A commit is two round trips, three where a
video's catalogue entry isn't cached, whatever the number of records; on a cluster, to each primary that is concerned.
"""

import asyncio
from collections.abc import Callable

import msgpack

from storage.audience import state_of
from storage.calls import States, UserCall, by_partition, slices, user_calls, video_calls, video_keys
from storage.catalogue import Catalogue
from storage.durability import Durability, StoreUnavailable
from storage.epoch import Epoch
from storage.fences import Fences, Mark
from storage.instants import Instants
from storage.keys import Keys, partition
from storage.link import Link, checked
from storage.packing import unpack_record
from storage.pending import Batch, Committed, Result, Wanted
from storage.scripts import Script
from storage.wire import Command

CALLS_AT_ONCE = 2
"""Answers of stage 1 that are read without a break."""


class Commits:
    """Those of one process.

    Args:
        script: as `Store.script`.
        worker, threshold_permille, live_ms, max_videos: as of `Store`.
    """

    def __init__(
        self,
        link: Link,
        keys: Keys,
        script: Callable[[str], Script],
        catalogue: Catalogue,
        durability: Durability,
        epoch: Epoch,
        *,
        worker: str,
        threshold_permille: int,
        live_ms: int,
        max_videos: int,
    ) -> None:
        self._link = link
        self._keys = keys
        self._partition = partition if link.tags else None
        self._catalogue = catalogue
        self._durability = durability
        self._epoch = epoch
        self._worker = worker
        self._threshold_permille = threshold_permille
        self._live_ms = live_ms
        self._max_videos = max_videos
        self._fences = Fences(keys, worker, link, script("fence"))
        self._users, self._videos = script("users"), script("videos")

    async def commit(self, batch: Batch, now: int, subscribed: Callable[[str], bool], wanted: Wanted) -> Committed:
        """As `Store.commit`."""
        if not batch.deltas:
            return Committed(self._epoch.known or await self._epoch.current())
        mark, lowest_rev, instants = Mark(self._fences), self._epoch.floor, Instants.of(batch, now)
        commands: list[Command] = [("GET", self._keys.epoch)]
        calls: list[UserCall] = []
        for done, part in enumerate(slices(batch, self._partition)):
            if done:
                await asyncio.sleep(0)
            durations = await self._catalogue.durations({video_id for group in part for (_, video_id), _ in group})
            for group in part:
                for call in user_calls(group, durations, subscribed, wanted, batch.syncs):
                    calls.append(call)
                    keys = list(map(self._keys.progress, call.users))
                    limits = *instants, self._max_videos, call.synced
                    arguments = self._threshold_permille, self._worker, call.packed, lowest_rev, *limits
                    commands.append(self._users.call(keys, *arguments))
        stored_epoch, *answers = checked(await self._link.ask(commands, mark, self._fences.moved()))
        committed = Committed(await self._epoch.recognise(stored_epoch, went_back=self._fences.went_back))
        self._fences.went_back = False
        if self._epoch.floor > lowest_rev:  # counted as before the loss: videos would take them for older than they are
            return await self.commit(batch, now, subscribed, wanted)
        by_shard: States = {}
        for done, (user_call, answer) in enumerate(zip(calls, answers, strict=True), 1):
            _take_results(user_call, answer, committed, by_shard, self._keys.shard)
            if not done % CALLS_AT_ONCE:
                await asyncio.sleep(0)
        written = {self._link.primary_of(self._keys.progress(call.users[0])) for call in calls}
        await self.finish(await self._video_commands(by_shard, now), written)
        if self._fences.went_back or self._epoch.known != committed.epoch:
            raise StoreUnavailable("the store has lost data in the middle of a commit")
        return committed

    async def bring(self, by_video: dict[str, list[tuple[str, bytes]]], now: int) -> None:
        """Stage 2 alone: bring stored values, (userId, value) by video, to the audiences; then wait until both last.

        Raises:
            StoreUnavailable: as `commit`.
            Damaged: a value that can't be read.
        """
        states: States = {}
        written: set[str] = set()
        for video_id, values in by_video.items():
            for user_id, value in values:
                written.add(self._link.primary_of(self._keys.progress(user_id)))
                users, of_users = states.setdefault(self._keys.shard(video_id, user_id), ([], []))
                users.append(user_id)
                of_users.append(state_of(unpack_record(value)))
        await self.finish(await self._video_commands(states, now), written)

    async def finish(self, commands: list[Command], written: set[str]) -> None:
        """Stage 2, and what makes both stages durable, also at the primaries where stage 1 alone has written.

        A primary that has gone back in time since stage 1 has lost that: the fences know it then.

        Raises:
            StoreUnavailable: not, or not surely, done.
        """
        waits = self._durability.wait()
        mark = Mark(self._fences, waits, self._durability.judge if waits else None)
        checked(await self._link.ask(commands, mark, written | self._fences.moved()))

    async def _video_commands(self, by_shard: States, now: int) -> list[Command]:
        commands: list[Command] = []
        groups = by_partition(by_shard, self._partition)
        for done, call in enumerate((call for group in groups for call in video_calls(group)), 1):
            keys = video_keys(self._keys, call.shards)
            commands.append(self._videos.call(keys, now, self._live_ms, call.packed))
            if not done % CALLS_AT_ONCE:
                await asyncio.sleep(0)
        return commands


def _take_results(
    call: UserCall, answer: bytes, committed: Committed, by_shard: States, shard_of: Callable[[str, str], str]
) -> None:
    """Put what a call of stage 1 answered into `committed`; and into `by_shard`, for stage 2, userIds and states."""
    # There is no text in the answer: states and values stay bytes.
    befores, afters, states, codes, values = msgpack.unpackb(answer, raw=True)
    pairs = zip(befores, afters, strict=True)
    if committed.revs.keys().isdisjoint(call.users):  # nearly always
        committed.revs.update(zip(call.users, pairs, strict=True))
    else:
        for user_id, (before, rev) in zip(call.users, pairs, strict=True):
            # Between two calls another worker may have changed something: revs spans only what is surely ours.
            oldest, newest = committed.revs.get(user_id, (before, before))
            committed.revs[user_id] = (oldest if newest == before else before, rev)
    for (user_id, video_id), state in zip(call.records, states, strict=True):
        if not state:
            continue
        shard = shard_of(video_id, user_id)
        if shard in by_shard:
            users, of_users = by_shard[shard]
            users.append(user_id)
            of_users.append(state)
        else:
            by_shard[shard] = ([user_id], [state])
    outcomes: dict[int, list[int]] = {}
    for i in range(0, len(codes), 3):
        outcomes.setdefault(codes[i], []).extend(codes[i + 1 : i + 3])
    for i in range(0, len(values), 2):
        committed.results[call.records[values[i]]] = Result(values[i + 1], tuple(outcomes.get(values[i], ())))
