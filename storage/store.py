"""The durable side: commits batches to Redis or Valkey in two stages, and reads records back.

Stage 1 joins the reports into the users' records and is the truth; stage 2 brings the same records to their videos'
audiences and totals, by difference. Both are safe to repeat, so a commit that failed anywhere is simply made again,
and a crash between the stages heals with the next report of the record. A commit is two round trips, three where a
video's catalogue entry isn't cached, whatever the number of records.
"""

import asyncio
import importlib.resources
import logging
from collections.abc import Callable, Sequence
from hashlib import sha1
from typing import Any, NamedTuple
from uuid import uuid4

import msgpack
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from protocol.record import Record
from storage.audience import state_of
from storage.calls import States, UserCall, slices, user_calls, video_calls, video_keys
from storage.cancellation import kept_cancellation
from storage.catalogue import Catalogue
from storage.durability import Durability
from storage.durability import StoreUnavailable as StoreUnavailable
from storage.endings import Endings
from storage.keys import Keys
from storage.packing import Damaged, unpack_record
from storage.pending import Batch, Committed, Result, Wanted
from storage.scanning import Scanning
from storage.sharing import Shared
from storage.totals import VideoTotals
from storage.wire import exchange, exchanging

MAX_CONNECTIONS = 64
"""To the store, from one process; who finds none free waits."""
CALLS_AT_ONCE = 2
"""Answers of stage 1 that are read without a break."""
READERS_PER_CALL = 10
"""Users whose changes are read in one script call: a few ms of the store, where each has hundreds of records."""


logger = logging.getLogger(__name__)


class Changes(NamedTuple):
    """A snapshot of one user's records after a revision."""

    epoch: str
    rev: int
    records: list[tuple[str, Record]]
    """(videoId, record), in no order; tombstones too."""


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
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=timeout_s,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 1),
        )
        if pool.connection_kwargs.get("decode_responses"):
            raise ValueError("decode_responses can't be asked for: records are not text")
        exchanging(pool)
        self.redis: Redis = Redis.from_pool(pool)
        self.keys = keys or Keys()
        self.worker = worker
        self.catalogue = Catalogue(self.run, self.keys)
        self.endings = Endings(self.run, self.keys)
        self.totals = VideoTotals(self.run, self.keys, live_ms)
        self.scanning = Scanning(self.run)
        self._live_ms = live_ms
        self._fence = 0
        """Commits that we know the store has counted."""
        self._epoch = ""
        self._threshold_permille = threshold_permille
        self.durability = Durability(durability, self.keys.fence, timeout_s)
        self.timeout_s = timeout_s
        self._scripts: list[Script] = []
        self._users, self._videos, self._changes = (self.script(name) for name in ("users", "videos", "changes"))
        self._records: Shared[tuple[str, str], bytes | None] = Shared(self._read_records)
        self._readers: Shared[tuple[str, int], tuple[str, list[Any]]] = Shared(self._read_changes)

    async def close(self) -> None:
        await self.redis.aclose()

    async def check(self) -> None:
        """Make sure that the store can do what is asked of it.

        Raises:
            StoreUnavailable: it doesn't answer, or can't keep the durability.
        """
        await self.epoch()
        await self.durability.settle(self.run)
        await self.durability.check(self.run)

    async def epoch(self) -> str:
        """The store's identity: made when it is first used, gone when it loses its data.

        Who makes it tells all processes, on the channel of the key's name: each holds what the old one knew.
        """
        made, value = await self.run([("SET", self.keys.epoch, uuid4().hex, "NX"), ("GET", self.keys.epoch)])
        if made:
            await self.run([("PUBLISH", self.keys.epoch, value)])
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
        known = self._fence
        commands: list[tuple[Any, ...]] = [("GET", self.keys.epoch)]
        calls: list[UserCall] = []
        for done, part in enumerate(slices(batch.deltas)):
            if done:
                await asyncio.sleep(0)
            durations = await self.catalogue.durations({video_id for (_, video_id), _ in part})
            for call in user_calls(part, durations, subscribed, wanted):
                calls.append(call)
                keys = list(map(self.keys.progress, call.users))
                commands.append(self._users.call(keys, self._threshold_permille, self.worker, call.packed))
        # Counted behind the records, so that a store that has lost some of them has lost this too.
        stored_epoch, *answers, fence = await self.run([*commands, ("INCR", self.keys.fence)])
        committed = Committed(await self._recognise(known, fence, stored_epoch))
        by_video: States = {}
        for done, (user_call, answer) in enumerate(zip(calls, answers, strict=True), 1):
            _take_results(user_call, answer, committed, by_video)
            if not done % CALLS_AT_ONCE:
                await asyncio.sleep(0)
        commands = await self._video_commands(by_video, now, anew=batch.doubted)
        if commands or self.durability.wait():
            still = [("GET", self.keys.epoch), ("GET", self.keys.fence)]
            epoch, now_at = (await self._commit_videos(still + commands))[:2]
            if epoch is None or epoch.decode() != committed.epoch or int(now_at or 0) < fence:
                batch.doubted = True
                raise StoreUnavailable("the store has lost data in the middle of a commit")
        return committed

    async def _video_commands(self, by_video: States, now: int, *, anew: bool = False) -> list[tuple[Any, ...]]:
        commands: list[tuple[Any, ...]] = []
        for done, call in enumerate(video_calls(by_video), 1):
            keys = video_keys(self.keys, call.videos)
            commands.append(self._videos.call(keys, now, self._live_ms, call.packed, int(anew)))
            if not done % CALLS_AT_ONCE:
                await asyncio.sleep(0)
        return commands

    async def _commit_videos(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """Stage 2, and what makes it durable; the answers."""
        waits = self.durability.wait()
        replies = await self.run(commands + waits) if commands or waits else []
        if waits:
            self.durability.judge(replies[-1])
        return replies

    async def bring(self, by_video: dict[str, list[tuple[str, bytes]]], now: int) -> None:
        """Stage 2 alone: bring stored values, (userId, value) by video, to the audiences; then wait for the disk.

        Raises:
            StoreUnavailable: as `commit`.
            Damaged: a value that can't be read.
        """
        states = {
            video_id: ([user_id for user_id, _ in values], [state_of(unpack_record(value)) for _, value in values])
            for video_id, values in by_video.items()
        }
        await self._commit_videos(await self._video_commands(states, now))

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
        """(epoch, reply of the script) for each (userId, revision known)."""
        commands: list[tuple[Any, ...]] = [("GET", self.keys.epoch)]
        for start in range(0, len(readers), READERS_PER_CALL):
            call = readers[start : start + READERS_PER_CALL]
            keys = [self.keys.progress(user_id) for user_id, _ in call]
            commands.append(self._changes.call(keys, *[since for _, since in call]))
        stored_epoch, *replies = await self.run(commands)
        epoch = stored_epoch.decode() if stored_epoch else await self.epoch()
        return [
            (epoch, answer) if answer else StoreUnavailable("the user's progress can't be read")
            for reply in replies
            for answer in reply
        ]

    def script(self, name: str) -> Script:
        """A file of `lua/` that `run` may be given calls of."""
        script = Script(name)
        self._scripts.append(script)
        return script

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
        replies = await self._ask(commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    async def _ask(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """As `run`, but a command that failed has its StoreUnavailable among the replies."""
        try:
            replies = await self._pipeline(commands)
            if any(isinstance(reply, NoScriptError) for reply in replies):
                await self._pipeline([("SCRIPT", "LOAD", script.text) for script in self._scripts])
                replies = await self._pipeline(commands)
        except (RedisError, OSError, RuntimeError) as error:  # RuntimeError: uvloop's, of a socket that was just reset
            raise StoreUnavailable(f"{type(error).__name__}: {error}") from error
        return [_unavailable(reply) if isinstance(reply, Exception) else reply for reply in replies]

    async def _pipeline(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        with kept_cancellation():
            return await exchange(self.redis, commands)

    async def _recognise(self, known: int, fence: int, epoch: bytes | None) -> str:
        """The epoch of a store that answered `fence` where we knew of `known` commits.

        A store that has gone back in time, to a snapshot or a replica that lagged, still has its old epoch, but
        counts commits again that it has counted before: it gets a new one.
        """
        if epoch is None:
            current = await self.epoch()
        elif fence <= known and epoch.decode() == self._epoch:
            current = uuid4().hex
            await self.run([("SET", self.keys.epoch, current), ("PUBLISH", self.keys.epoch, current)])
        else:
            current = epoch.decode()
        self._fence = max(self._fence, fence) if current == self._epoch else fence
        self._epoch = current
        return current


def _unavailable(reply: Exception) -> StoreUnavailable:
    error = StoreUnavailable(str(reply))
    error.__cause__ = reply
    return error


def _take_results(call: UserCall, answer: bytes, committed: Committed, by_video: States) -> None:
    """Put what a call of stage 1 answered into `committed`; and into `by_video`, for stage 2, userIds and values."""
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
        if video_id in by_video:
            users, of_users = by_video[video_id]
            users.append(user_id)
            of_users.append(state)
        else:
            by_video[video_id] = ([user_id], [state])
    outcomes: dict[int, list[int]] = {}
    for i in range(0, len(codes), 3):
        outcomes.setdefault(codes[i], []).extend(codes[i + 1 : i + 3])
    for i in range(0, len(values), 2):
        committed.results[call.records[values[i]]] = Result(values[i + 1], tuple(outcomes.get(values[i], ())))
