"""The durable side: commits batches to Redis or Valkey in two stages, and reads records back.

Stage 1 joins the reports into the users' records and is the truth; stage 2 brings the same records to their videos'
audiences and totals, by difference. Both are safe to repeat, so a commit that failed anywhere is simply made again,
and a crash between the stages heals with the next report of the record. A commit is two round trips, three where a
video's catalogue entry isn't cached, whatever the number of records; on a cluster, to each primary that is concerned.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple
from uuid import uuid4

import msgpack
from redis.asyncio import Redis
from redis.exceptions import MovedError, RedisError

from protocol.record import Record
from storage.address import parse_address
from storage.audience import state_of
from storage.calls import States, UserCall, by_partition, reader_calls, slices, user_calls, video_calls, video_keys
from storage.catalogue import Catalogue
from storage.channels import Listening
from storage.cluster import Cluster
from storage.durability import Durability
from storage.durability import StoreUnavailable as StoreUnavailable
from storage.endings import Endings
from storage.fences import Fences, Mark
from storage.keys import VIDEO_SHARDS, Keys, partition
from storage.link import Link, Seal, Single, checked, unavailable
from storage.packing import Damaged, unpack_record
from storage.pending import Batch, Committed, Result, Wanted
from storage.primary import Command, Primary, pool_of, sentinel_pool
from storage.scanning import Scanning
from storage.scripts import Script as Script
from storage.sharing import Shared
from storage.totals import VideoTotals

CALLS_AT_ONCE = 2
"""Answers of stage 1 that are read without a break."""


Run = Callable[[list[Command]], Awaitable[list[Any]]]
logger = logging.getLogger(__name__)


class Changes(NamedTuple):
    """A snapshot of one user's records after a revision."""

    epoch: str
    rev: int
    records: list[tuple[str, Record]]
    """(videoId, record), in no order; tombstones too."""


class Store:
    """Redis or Valkey as Playhead uses it.

    Args:
        url: as `storage/address.py` says.
        worker: this process's name, unique among all that share the store.
        threshold_permille: a record is complete at this part of its duration.
        durability: what a commit waits for before it is answered: memory, fsync or replicas:N.
        timeout_s: the longest wait for an answer.
        live_ms: how long after the last moment watched a viewer counts as watching.

    Raises:
        ValueError: `url` or `durability` is not one.
    """

    def __init__(
        self,
        url: str,
        *,
        worker: str,
        keys: Keys | None = None,
        threshold_permille: int = 900,
        durability: str = "memory",
        timeout_s: float = 5.0,
        live_ms: int = 15_000,
    ) -> None:
        self.keys = keys or Keys()
        self.worker = worker
        self._texts: list[str] = []
        """Of the scripts, which every primary must know."""
        self.link = _link(url, timeout_s, self._texts)
        if self.link.tags:
            self.keys = Keys(self.keys.prefix, VIDEO_SHARDS)
        self._partition = partition if self.link.tags else None
        self.catalogue = Catalogue(self.run, self.keys)
        self.endings = Endings(self.run, self.keys)
        self.totals = VideoTotals(self.run, self.keys, live_ms)
        self.scanning = Scanning(self.run, self._runs)
        self._live_ms = live_ms
        self._fences = Fences(self.keys, worker, self.link, self.script("fence"))
        self._epoch = ""
        self._threshold_permille = threshold_permille
        self.durability = Durability(durability, timeout_s)
        self.timeout_s = timeout_s
        self._users, self._videos, self._changes = (self.script(name) for name in ("users", "videos", "changes"))
        self._records: Shared[tuple[str, str], bytes | None] = Shared(self._read_records)
        self._readers: Shared[tuple[str, int], tuple[str, list[Any]]] = Shared(self._read_changes)

    @property
    def redis(self) -> Redis:
        """The client of the one server; a cluster has several (`link.primaries`)."""
        if not isinstance(self.link, Single):
            raise TypeError("a cluster has no one server")
        return self.link.primary.redis

    async def close(self) -> None:
        await self.link.aclose()

    async def check(self) -> None:
        """Make sure that the store can do what is asked of it.

        Raises:
            StoreUnavailable: it doesn't answer, or can't keep the durability.
        """
        try:
            await self.epoch()
        except StoreUnavailable as error:
            if isinstance(error.__cause__, MovedError):
                raise StoreUnavailable("it is a node of a cluster: say so with redis+cluster://") from error
            raise
        await self.settle()
        # Replicas may be away at a start: then acks wait.
        if self.durability.level.disk and not self.durability.level.replicas:
            await self._commit_videos([], {primary.name for primary in await self.link.primaries()})

    async def settle(self) -> None:
        """Find out by which means the durability is kept. Raises StoreUnavailable: by none, or no answer."""
        await self.durability.settle(await self._runs())

    async def missing(self) -> str | None:
        """Why replicas could not confirm a commit now; None where they could. Raises StoreUnavailable."""
        for run in await self._runs():
            if missing := await self.durability.missing(run):
                return missing
        return None

    async def _runs(self) -> list[Run]:
        """A round trip to each primary, in an order that stays."""
        if isinstance(self.link, Single):
            return [self.run]
        return [_run_at(primary) for primary in await self.link.primaries()]

    def listen(self, on_message: Callable[[str, bytes], None], on_confirmed: Callable[[str], None]) -> Listening:
        """Subscriptions to channels of this store."""
        return self.link.listen(on_message, on_confirmed)

    async def epoch(self) -> str:
        """The store's identity: made when it is first used, gone when it loses its data.

        Who makes it tells all processes, on the channel of the key's name: each holds what the old one knew.
        """
        made, value = await self.run([("SET", self.keys.epoch, uuid4().hex, "NX"), ("GET", self.keys.epoch)])
        if made:
            await self.run([("SPUBLISH", self.keys.epoch, value)])
        self._epoch = self._epoch or value.decode()
        return str(value.decode())

    async def commit(
        self,
        batch: Batch,
        now: int,
        subscribed: Callable[[str], bool],
        wanted: Wanted = lambda user_id, origins: True,
    ) -> Committed:
        """Store a batch.

        Args:
            now: ms since 1970.
            subscribed: whether this worker itself listens to a user's channel.
            wanted: whose records' values are asked for.

        Raises:
            StoreUnavailable: not, or not surely, stored. Commit the same batch again.
        """
        if not batch.deltas:
            return Committed(self._epoch or await self.epoch())
        mark = Mark(self._fences)
        commands: list[Command] = [("GET", self.keys.epoch)]
        calls: list[UserCall] = []
        for done, part in enumerate(slices(batch.deltas, self._partition)):
            if done:
                await asyncio.sleep(0)
            durations = await self.catalogue.durations({video_id for group in part for (_, video_id), _ in group})
            for group in part:
                for call in user_calls(group, durations, subscribed, wanted):
                    calls.append(call)
                    keys = list(map(self.keys.progress, call.users))
                    commands.append(self._users.call(keys, self._threshold_permille, self.worker, call.packed))
        stored_epoch, *answers = await self.sealed(commands, mark, self._fences.moved())
        batch.doubted |= self._fences.went_back
        committed = Committed(await self._recognise(stored_epoch))
        by_shard: States = {}
        for done, (user_call, answer) in enumerate(zip(calls, answers, strict=True), 1):
            _take_results(user_call, answer, committed, by_shard, self.keys.shard)
            if not done % CALLS_AT_ONCE:
                await asyncio.sleep(0)
        written = {self.link.primary_of(self.keys.progress(call.users[0])) for call in calls}
        await self._commit_videos(await self._video_commands(by_shard, now, anew=batch.doubted), written)
        if self._fences.went_back or self._epoch != committed.epoch:
            batch.doubted = True
            raise StoreUnavailable("the store has lost data in the middle of a commit")
        return committed

    async def _video_commands(self, by_shard: States, now: int, *, anew: bool = False) -> list[Command]:
        commands: list[Command] = []
        groups = by_partition(by_shard, self._partition)
        for done, call in enumerate((call for group in groups for call in video_calls(group)), 1):
            keys = video_keys(self.keys, call.shards)
            commands.append(self._videos.call(keys, now, self._live_ms, call.packed, int(anew)))
            if not done % CALLS_AT_ONCE:
                await asyncio.sleep(0)
        return commands

    async def _commit_videos(self, commands: list[Command], written: set[str]) -> None:
        """Stage 2, and what makes both stages durable, also at the primaries where stage 1 alone has written.

        A primary that has gone back in time since stage 1 has lost that: the fences know it then.
        """
        waits = self.durability.wait()
        mark = Mark(self._fences, waits, self.durability.judge if waits else None)
        await self.sealed(commands, mark, written | self._fences.moved())

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
                written.add(self.link.primary_of(self.keys.progress(user_id)))
                users, of_users = states.setdefault(self.keys.shard(video_id, user_id), ([], []))
                users.append(user_id)
                of_users.append(state_of(unpack_record(value)))
        await self._commit_videos(await self._video_commands(states, now), written)

    async def record(self, user_id: str, video_id: str) -> Record:
        """One record; the empty one where there is none."""
        value = await self._records.ask((user_id, video_id))
        try:
            return unpack_record(value or b"")
        except Damaged as error:
            logger.error("The record of user %s and video %s can't be read", user_id, video_id)
            raise StoreUnavailable("the stored record can't be read") from error

    async def _read_records(self, keys: Sequence[tuple[str, str]]) -> list[Any]:
        return await self._ask([("HGET", self.keys.progress(user_id), video_id) for user_id, video_id in keys])

    async def changes(self, user_id: str, since: int | None = None, epoch: str | None = None) -> Changes:
        """A user's records that changed after `since`; all of them if it is None, or of another epoch."""
        known = -1 if since is None else since
        current, (rev, *flat) = await self._readers.ask((user_id, known))
        if known >= 0 and (known > rev or epoch not in (None, current)):
            current, (rev, *flat) = await self._readers.ask((user_id, -1))
        records = []
        for i in range(0, len(flat), 2):
            try:
                records.append((flat[i].decode(), unpack_record(flat[i + 1])))
            except Damaged:
                logger.error("The record of user %s and video %r can't be read, it is left out", user_id, flat[i])
        return Changes(current, rev, records)

    async def _read_changes(self, readers: Sequence[tuple[str, int]]) -> list[Any]:
        """(epoch, reply of the script), or its error, for each (userId, revision known)."""
        calls = list(reader_calls([user_id for user_id, _ in readers], self._partition))
        commands: list[Command] = [("GET", self.keys.epoch)]
        for places in calls:
            keys = [self.keys.progress(readers[place][0]) for place in places]
            commands.append(self._changes.call(keys, *[readers[place][1] for place in places]))
        stored_epoch, *replies = await self._ask(commands)
        if isinstance(stored_epoch, StoreUnavailable):
            raise stored_epoch
        epoch = stored_epoch.decode() if stored_epoch else await self.epoch()
        found: dict[int, Any] = {}
        for places, reply in zip(calls, replies, strict=True):
            if isinstance(reply, StoreUnavailable):
                found |= dict.fromkeys(places, reply)
                continue
            for place, answer in zip(places, reply, strict=True):
                found[place] = (epoch, answer) if answer else StoreUnavailable("the user's progress can't be read")
        return [found[place] for place in range(len(readers))]

    def script(self, name: str) -> Script:
        """A file of `lua/` that `run` may be given calls of."""
        script = Script(name)
        self._texts.append(script.text)
        return script

    async def announce(self, user_id: str) -> None:
        """Publish which revision the user is at, and no records: a process that lacks some reads them."""
        (rev,) = await self.run([("HGET", self.keys.progress(user_id), "rev")])
        message = msgpack.packb((self.worker, int(rev or 0), int(rev or 0), ()))
        await self.run([("SPUBLISH", self.keys.push(user_id), message)])

    async def run(self, commands: list[Command]) -> list[Any]:
        """Commands in one round trip; scripts that a server has forgotten are loaded again.

        Raises:
            StoreUnavailable: one of them failed, or the store did not answer in time.
        """
        return checked(await self._ask(commands))

    async def sealed(self, commands: list[Command], seal: Seal, also: Iterable[str]) -> list[Any]:
        """As `run`, with the end of a commit's round trip at each primary: `seal` and `also` as in `Link.ask`."""
        return checked(await self._ask(commands, seal, also))

    async def _ask(self, commands: list[Command], seal: Seal | None = None, also: Iterable[str] = ()) -> list[Any]:
        """As `run`, but a command that failed has its StoreUnavailable among the replies."""
        replies = await self.link.ask(commands, seal, also)
        return [unavailable(reply) if isinstance(reply, Exception) else reply for reply in replies]

    async def _recognise(self, epoch: bytes | None) -> str:
        """The epoch of a store that answered `epoch`: a new one where it has lost what we knew it had."""
        if epoch is None:
            current = await self.epoch()
        elif self._fences.went_back and epoch.decode() == self._epoch:
            current = await self._renew()
        else:
            current = epoch.decode()
        self._fences.went_back = False
        self._epoch = current
        return current

    async def _renew(self) -> str:
        """A new epoch, told to all processes."""
        epoch = uuid4().hex
        await self.run([("SET", self.keys.epoch, epoch), ("SPUBLISH", self.keys.epoch, epoch)])
        self._fences.went_back = False
        return epoch


def _link(url: str, timeout_s: float, scripts: list[str]) -> Link:
    """Nothing is connected yet. Raises ValueError: `url` is not one."""
    address = parse_address(url)
    if address.kind == "cluster":
        return Cluster(address, timeout_s, scripts)
    if address.kind == "sentinel":
        return Single(Primary("", sentinel_pool(address, timeout_s), scripts))
    return Single(Primary("", pool_of(address.options, timeout_s), scripts))


def _run_at(primary: Primary) -> Run:
    """A round trip to this primary; raises StoreUnavailable where a command fails."""

    async def run(commands: list[Command]) -> list[Any]:
        try:
            return checked(await primary.ask(commands))
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"{type(error).__name__}: {error}") from error

    return run


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
