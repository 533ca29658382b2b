"""Commits batches in two stages.

Stage 1 joins the reports into the users' records, which are the source of truth; stage 2 updates the audiences and
totals of their videos by the difference. Both are safe to repeat, so a commit that failed anywhere is simply repeated,
and the effect of a crash between the stages is corrected by the next report of the record. A commit is two round trips,
three if a video's catalogue entry is not cached, for any number of records; on a cluster, to each primary involved.
"""

import asyncio
from collections.abc import Callable

import msgpack

from playhead.protocol.record import Outcome
from playhead.storage.connection.link import Link, checked
from playhead.storage.connection.pipeline import Command
from playhead.storage.errors import StoreUnavailable
from playhead.storage.guarantees.durability import Durability
from playhead.storage.guarantees.epoch import Epoch
from playhead.storage.guarantees.fences import FenceGuard, Fences
from playhead.storage.keys import Keys, partition
from playhead.storage.read.catalogue import Catalogue
from playhead.storage.scripts import Script
from playhead.storage.values.audience import state_of
from playhead.storage.values.damage import Damaged, DamageLog, named, or_damaged
from playhead.storage.values.instants import Instants
from playhead.storage.values.packing import unpack_record
from playhead.storage.write.pending import Batch, Committed, NeedsValue, Result
from playhead.storage.write.script_calls import (
    States,
    UserCall,
    by_partition,
    slices,
    user_calls,
    video_calls,
    video_keys,
    video_of_call,
)

_UNJOINED = Damaged("reports can't be joined to it")
CALLS_AT_ONCE = 2
"""Answers of stage 1 that are read before other tasks may run."""


class Commits:
    """Commits the batches of one process.

    Args:
        script: loads a script by its name.
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
        damage: DamageLog,
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
        self._damage = damage
        self._worker = worker
        self._threshold_permille = threshold_permille
        self._live_ms = live_ms
        self._max_videos = max_videos
        self._fences = Fences(keys, worker, link, script("fence"), damage)
        self._users, self._videos = script("users"), script("videos")

    async def commit(
        self, batch: Batch, now: int, subscribed: Callable[[str], bool], needs_value: NeedsValue
    ) -> Committed:
        """As `Store.commit`."""
        if not batch.deltas:
            return Committed(self._epoch.known or await self._epoch.current())
        guard, lowest_rev = FenceGuard(self._fences), self._epoch.floor
        instants = Instants.of(batch.since, batch.latest, now)
        commands: list[Command] = [("GET", self._keys.epoch)]
        calls: list[UserCall] = []
        for done, part in enumerate(slices(batch, self._partition)):
            if done:
                await asyncio.sleep(0)
            durations = await self._catalogue.durations({video_id for group in part for (_, video_id), _ in group})
            for group in part:
                for call in user_calls(group, durations, subscribed, needs_value, batch.syncs):
                    calls.append(call)
                    keys = list(map(self._keys.progress, call.users))
                    limits = *instants, self._max_videos, call.synced
                    arguments = self._threshold_permille, self._worker, call.packed, lowest_rev, *limits
                    commands.append(self._users.call(keys, *arguments))
        stored_epoch, *answers = await self._link.ask(commands, guard, self._fences.moved())
        (stored_epoch,) = checked(or_damaged([stored_epoch]))
        epoch = await self._epoch.after_commit(stored_epoch, rolled_back=self._fences.rolled_back)
        committed = Committed(epoch, damage=self._damage)
        self._fences.rolled_back = False
        if self._epoch.floor > lowest_rev:  # revisions from before the loss: videos would skip them as too old
            return await self.commit(batch, now, subscribed, needs_value)
        by_shard: States = {}
        for done, (user_call, answer) in enumerate(zip(calls, checked(answers), strict=True), 1):
            self._take_results(user_call, answer, committed, by_shard)
            if not done % CALLS_AT_ONCE:
                await asyncio.sleep(0)
        written = {self._link.primary_of(self._keys.progress(call.users[0])) for call in calls}
        await self.finish(await self._video_commands(by_shard, now), written)
        if self._fences.rolled_back or self._epoch.known != committed.epoch:
            raise StoreUnavailable("the store lost data during a commit")
        return committed

    async def update_videos(self, by_video: dict[str, list[tuple[str, bytes]]], now: int) -> None:
        """Stage 2 alone: update audiences and totals from stored values, (userId, value) by video, and make both
        durable.

        Damaged values are skipped.

        Raises:
            StoreUnavailable: as `commit`.
        """
        states: States = {}
        written: set[str] = set()
        for video_id, values in by_video.items():
            for user_id, value in values:
                record = unpack_record(value)
                if isinstance(record, Damaged):
                    self._damage.found("record", named(user_id, video_id), record)
                    continue
                written.add(self._link.primary_of(self._keys.progress(user_id)))
                users, of_users = states.setdefault(self._keys.shard(video_id, user_id), ([], []))
                users.append(user_id)
                of_users.append(state_of(record))
        await self.finish(await self._video_commands(states, now), written)

    async def _video_commands(self, by_shard: States, now: int) -> list[Command]:
        commands: list[Command] = []
        groups = by_partition(by_shard, self._partition)
        for done, call in enumerate((call for group in groups for call in video_calls(group)), 1):
            keys = video_keys(self._keys, call.shards)
            commands.append(self._videos.call(keys, now, self._live_ms, call.packed))
            if not done % CALLS_AT_ONCE:
                await asyncio.sleep(0)
        return commands

    async def finish(self, commands: list[Command], written: set[str]) -> None:
        """Run stage 2, and make both stages durable, also at primaries that only stage 1 wrote to.

        If a primary was rolled back since stage 1, it has lost those writes; the fences then detect it.

        Raises:
            StoreUnavailable: not done, or not certain.
        """
        waits = self._durability.wait()
        guard = FenceGuard(self._fences, waits, self._durability.judge if waits else None)
        replies = checked(await self._link.ask(commands, guard, written | self._fences.moved()))
        for command, (_, *damaged) in zip(commands, replies, strict=True):
            for place, user, why in zip(damaged[::3], damaged[1::3], damaged[2::3], strict=True):
                self._report_damaged(video_of_call(self._keys, command, place), user, why)

    def _report_damaged(self, video_id: str, user: bytes, why: bytes) -> None:
        """Log that stage 2 could not read a user's entry of the video or, if there is no user, the video's keys."""
        user_id, damaged = user.decode(errors="replace"), Damaged(why.decode(errors="replace")[:100])
        if user_id:
            self._damage.found("entry", named(user_id, video_id), damaged)
        else:
            self._damage.found("totals", f"video {video_id!r}", damaged)

    def _take_results(self, call: UserCall, answer: bytes, committed: Committed, by_shard: States) -> None:
        """Put the answer to a call of stage 1 into `committed`, and the states for stage 2 into `by_shard`."""
        # The answer contains no text: states and values stay bytes.
        befores, afters, states, codes, values = msgpack.unpackb(answer, raw=True)
        pairs = zip(befores, afters, strict=True)
        if committed.revs.keys().isdisjoint(call.users):  # the common case
            committed.revs.update(zip(call.users, pairs, strict=True))
        else:
            for user_id, (before, rev) in zip(call.users, pairs, strict=True):
                # Another worker may have changed a record between two calls: revs spans only our own changes.
                oldest, newest = committed.revs.get(user_id, (before, before))
                committed.revs[user_id] = (oldest if newest == before else before, rev)
        for (user_id, video_id), state in zip(call.records, states, strict=True):
            if not state:
                continue
            shard = self._keys.shard(video_id, user_id)
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
            key, of_ops = call.records[values[i]], tuple(outcomes.get(values[i], ()))
            committed.results[key] = Result(values[i + 1], of_ops)
            if Outcome.FAILED in of_ops[1::2]:
                self._damage.found("record", named(*key), _UNJOINED)
