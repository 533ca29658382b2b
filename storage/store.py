"""The durable side: commits batches to Redis or Valkey in two stages, and reads records back.

Stage 1 joins the reports into the users' records and is the truth; stage 2 brings the same records to their videos'
audiences and totals, by difference. Both are safe to repeat, so a commit that failed anywhere is simply made again,
and a crash between the stages heals with the next report of the record. A commit is two round trips, three where a
video's catalogue entry isn't cached, whatever the number of records.
"""

import asyncio
import importlib.resources
from collections.abc import Callable, Iterator
from hashlib import sha1
from typing import Any, Literal, NamedTuple, TypeVar
from uuid import uuid4

import msgpack
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from protocol.record import Record
from storage.catalogue import Catalogue
from storage.keys import Keys
from storage.packing import pack_report, unpack_record
from storage.pending import Batch, Committed, Delta, Key, Result
from storage.totals import LIVE_MS, VideoTotals

MAX_CONNECTIONS = 64
"""To the store, from one process; who finds none free waits."""
RECORDS_PER_CALL = 200
"""Records in one script call: keeps each call to a few ms, during which the store serves nobody else."""
Durability = Literal["memory", "fsync"]
T = TypeVar("T")


class StoreUnavailable(Exception):
    """The store can't be reached, or refuses to write. Try again; nothing of a failed commit is half true."""


class Changes(NamedTuple):
    """A snapshot of one user's records after a revision."""

    epoch: str
    rev: int
    records: list[tuple[str, Record]]
    """(videoId, record), the last changed first; tombstones too."""


class Script:
    """One Lua file, called by its hash."""

    def __init__(self, name: str) -> None:
        self.text = importlib.resources.files("storage").joinpath("lua", f"{name}.lua").read_text("utf-8")
        self.sha = sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def call(self, keys: list[str], *args: Any) -> tuple[Any, ...]:
        return ("EVALSHA", self.sha, len(keys), *keys, *args)


class Store:
    """Redis or Valkey as Playhead uses it.

    Args:
        url: redis://, rediss:// or unix://
        worker: this process's name, unique among all that share the store.
        threshold_permille: a record is complete at this part of its duration.
        durability: "fsync" answers a commit only when it is on the store's disk (WAITAOF).
        timeout_s: the longest wait for an answer.
    """

    def __init__(
        self,
        url: str,
        *,
        worker: str,
        keys: Keys | None = None,
        threshold_permille: int = 900,
        durability: Durability = "memory",
        timeout_s: float = 5.0,
    ) -> None:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=timeout_s,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 1),
        )
        self.redis: Redis = Redis.from_pool(pool)
        self.keys = keys or Keys()
        self.worker = worker
        self.catalogue = Catalogue(self.run, self.keys)
        self.totals = VideoTotals(self.run, self.keys)
        self._threshold_permille = threshold_permille
        self._durability = durability
        self.timeout_s = timeout_s
        self._users, self._videos, self._changes = Script("users"), Script("videos"), Script("changes")

    async def close(self) -> None:
        await self.redis.aclose()

    async def check(self) -> None:
        """Make sure that the store can do what is asked of it.

        Raises:
            StoreUnavailable: it doesn't answer, or lacks WAITAOF where durability is "fsync".
        """
        await self.epoch()
        if self._durability == "fsync":
            try:
                await self.run([self._wait_aof()])
            except StoreUnavailable as error:
                raise StoreUnavailable(
                    f"durability fsync needs WAITAOF and an append-only file there ({error})"
                ) from None

    async def epoch(self) -> str:
        """The store's identity: made when it is first used, gone when it loses its data.

        Who makes it tells all processes, on the channel of the key's name: each holds what the old one knew.
        """
        made, value = await self.run([("SET", self.keys.epoch, uuid4().hex, "NX"), ("GET", self.keys.epoch)])
        if made:
            await self.run([("PUBLISH", self.keys.epoch, value)])
        return str(value.decode())

    async def commit(self, batch: Batch, now: int, subscribed: Callable[[str], bool]) -> Committed:
        """Store a batch.

        Args:
            now: ms since 1970.
            subscribed: whether this worker itself listens to a user's channel.

        Raises:
            StoreUnavailable: not, or not surely, stored. Commit the same batch again.
        """
        committed = Committed(epoch="")
        by_video: dict[str, list[tuple[str, bytes]]] = {}
        durations = await self.catalogue.durations({video_id for _, video_id in batch.deltas})
        calls = list(_chunks(batch.deltas))
        commands: list[tuple[Any, ...]] = [("GET", self.keys.epoch)]
        for call in calls:
            groups = [
                (
                    1 if subscribed(user_id) else 0,
                    [(video_id, durations[video_id], _ops(delta)) for video_id, delta in items],
                )
                for user_id, items in call
            ]
            keys = [self.keys.progress(user_id) for user_id, _ in call]
            commands.append(self._users.call(keys, self._threshold_permille, self.worker, msgpack.packb(groups)))
        epoch, *answers = await self.run(commands)
        committed.epoch = epoch.decode() if epoch else await self.epoch()
        for call, answer in zip(calls, answers, strict=True):
            for (user_id, items), (before, rev, results) in zip(call, _unpack(answer), strict=True):
                # Between two calls another worker may have changed something: revs spans only what is surely ours.
                first, last = committed.revs.get(user_id, (before, before))
                committed.revs[user_id] = (first if last == before else before, rev)
                for (video_id, _), (value, outcomes) in zip(items, results, strict=True):
                    committed.results[user_id, video_id] = Result(value, tuple(outcomes))
                    if value:
                        by_video.setdefault(video_id, []).append((user_id, value))
        await self._commit_videos(by_video, now)
        return committed

    async def record(self, user_id: str, video_id: str) -> Record:
        """One record; the empty one where there is none."""
        (value,) = await self.run([("HGET", self.keys.progress(user_id), video_id)])
        return unpack_record(value or b"")

    async def changes(self, user_id: str, since: int | None = None, epoch: str | None = None) -> Changes:
        """A user's records that changed after `since`; all of them if it is None, or of another epoch."""
        key = self.keys.progress(user_id)
        known = -1 if since is None else since
        stored_epoch, reply = await self.run([("GET", self.keys.epoch), self._changes.call([key], known)])
        current = stored_epoch.decode() if stored_epoch else await self.epoch()
        if known >= 0 and (known > reply[0] or epoch not in (None, current)):
            (reply,) = await self.run([self._changes.call([key], -1)])
        rev, *flat = reply
        records = [(flat[i].decode(), unpack_record(flat[i + 1])) for i in range(0, len(flat), 2)]
        records.sort(key=lambda item: -item[1].rev)
        return Changes(current, rev, records)

    async def announce(self, user_id: str) -> None:
        """Publish which revision the user is at, and no records: a process that lacks some reads them."""
        (rev,) = await self.run([("HGET", self.keys.progress(user_id), "rev")])
        message = msgpack.packb((self.worker, int(rev or 0), int(rev or 0), ()))
        await self.run([("PUBLISH", self.keys.push(user_id), message)])

    async def run(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """Commands in one round trip; scripts that the store has forgotten are loaded again.

        Raises:
            StoreUnavailable: one of them failed, or the store did not answer in time.
        """
        try:
            replies = await self._pipeline(commands)
            if any(isinstance(reply, NoScriptError) for reply in replies):
                scripts = (self._users, self._videos, self._changes)
                await self._pipeline([("SCRIPT", "LOAD", script.text) for script in scripts])
                replies = await self._pipeline(commands)
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"{type(error).__name__}: {error}") from error
        for reply in replies:
            if isinstance(reply, Exception):
                raise StoreUnavailable(str(reply)) from reply
        return replies

    async def _pipeline(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        task = asyncio.current_task()
        cancelled = task.cancelling() if task else 0
        async with self.redis.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            replies: list[Any] = await pipe.execute(raise_on_error=False)
            if task and task.cancelling() > cancelled:
                # redis-py sends under asyncio.wait_for, which before Python 3.12 could swallow a cancellation.
                raise asyncio.CancelledError
            return replies

    async def _commit_videos(self, by_video: dict[str, list[tuple[str, bytes]]], now: int) -> None:
        commands: list[tuple[Any, ...]] = []
        videos: list[list[tuple[str, bytes]]] = []
        keys: list[str] = []
        room = RECORDS_PER_CALL

        def close_call() -> None:
            if videos:
                commands.append(self._videos.call(keys.copy(), now, LIVE_MS, msgpack.packb(videos, use_bin_type=False)))

        for video_id, records in by_video.items():
            for part in _parts(records, RECORDS_PER_CALL):
                if len(part) > room:
                    close_call()
                    videos, keys, room = [], [], RECORDS_PER_CALL
                room -= len(part)
                videos.append(part)
                k = self.keys
                keys += (k.audience(video_id), k.summary(video_id), k.curve(video_id), k.live(video_id))
        close_call()
        if self._durability == "fsync":
            commands.append(self._wait_aof())
        if commands:
            replies = await self.run(commands)
            if self._durability == "fsync" and replies[-1][0] < 1:
                raise StoreUnavailable("the store has not written to its disk in time")

    def _wait_aof(self) -> tuple[Any, ...]:
        return ("WAITAOF", 1, 0, int(self.timeout_s * 900))


_Call = list[tuple[str, list[tuple[str, Delta]]]]


def _chunks(deltas: dict[Key, Delta]) -> Iterator[_Call]:
    """Deltas by user, cut to RECORDS_PER_CALL; a user with more appears in several calls, in order."""
    by_user: dict[str, list[tuple[str, Delta]]] = {}
    for (user_id, video_id), delta in deltas.items():
        by_user.setdefault(user_id, []).append((video_id, delta))
    call: _Call = []
    room = RECORDS_PER_CALL
    for user_id, items in by_user.items():
        for part in _parts(items, RECORDS_PER_CALL):
            if len(part) > room:
                yield call
                call, room = [], RECORDS_PER_CALL
            call.append((user_id, part))
            room -= len(part)
    if call:
        yield call


def _parts(items: list[T], size: int) -> Iterator[list[T]]:
    return (items[i : i + size] for i in range(0, len(items), size)) if len(items) > size else iter((items,))


def _ops(delta: Delta) -> list[Any]:
    return [op if isinstance(op, int) else pack_report(op) for op in delta.ops]


def _unpack(answer: bytes) -> list[Any]:
    """A script's answer: values stay bytes; there is no other text in it."""
    groups: list[Any] = msgpack.unpackb(answer, raw=True, strict_map_key=False)
    return groups
