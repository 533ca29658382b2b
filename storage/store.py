"""Redis or Valkey as the rest of the service sees it: one object, of parts that each do one thing.

`commits.py` writes the users' records and their videos' totals, `reading.py` reads records, `epoch.py` knows whether it
is still the same store. Here is what they and the others share: the way to the servers, and the round trip.
"""

from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import MovedError, NoPermissionError, RedisError

from playhead.protocol.record import Record
from playhead.storage.backoff import Backoff
from playhead.storage.connection.address import parse_address
from playhead.storage.connection.cluster import Cluster
from playhead.storage.connection.cluster_subscriptions import ClusterChannels
from playhead.storage.connection.link import Link, Single, checked
from playhead.storage.connection.pipeline import Command, Run
from playhead.storage.connection.primary import RETRY_S, Primary, pool_of, sentinel_pool
from playhead.storage.connection.subscriptions import Channels, Listening
from playhead.storage.connection.url_options import check_tls
from playhead.storage.errors import StoreUnavailable as StoreUnavailable
from playhead.storage.errors import TimeNotAllowed as TimeNotAllowed
from playhead.storage.guarantees.aof_replay import Replay
from playhead.storage.guarantees.durability import Durability
from playhead.storage.guarantees.epoch import Epoch
from playhead.storage.keys import VIDEO_SHARDS, Keys
from playhead.storage.read.catalogue import Catalogue
from playhead.storage.read.changes import Changes
from playhead.storage.read.pieces import Pieces
from playhead.storage.read.records import Reading
from playhead.storage.read.released_totals import ReleasedTotals
from playhead.storage.read.scanning import Scanning
from playhead.storage.read.totals import VideoTotals
from playhead.storage.scripts import Script as Script
from playhead.storage.values.damage import Damaged as Damaged
from playhead.storage.values.damage import DamageLog, is_foreign, or_damaged
from playhead.storage.values.push_messages import pack_announcement
from playhead.storage.write.commits import Commits
from playhead.storage.write.ended_sessions import Endings
from playhead.storage.write.pending import Batch, Committed, Wanted

MAX_VIDEOS = 10_000


class Store:
    """Redis or Valkey as Playhead uses it.

    Args:
        url: as `storage/connection/address.py` says.
        worker: this process's name, unique among all that share the store.
        threshold_permille: a record is complete at this part of its duration.
        durability: what a commit waits for before it is answered: memory, fsync or replicas:N.
        timeout_s: the longest wait for an answer.
        live_ms: how long after the last moment watched a viewer counts as watching.
        max_videos: records that one learner may have, tombstones too; those beyond it stay, and can be changed.

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
        max_videos: int = MAX_VIDEOS,
    ) -> None:
        self.keys = keys or Keys()
        self.worker = worker
        self._texts: list[str] = []
        """Of the scripts, which every primary must know."""
        self.retrying = Backoff(*RETRY_S)
        """How often a connection or a pipeline was tried again, whichever server it was for."""
        self.link = _link(url, timeout_s, self._texts, self.retrying)
        if self.link.tags:
            self.keys = Keys(self.keys.prefix, VIDEO_SHARDS)
        self.timeout_s = timeout_s
        self.durability = Durability(durability, timeout_s)
        self.damage = DamageLog()
        self.catalogue = Catalogue(self.run, self.run_each, self.keys, self.damage)
        self.endings = Endings(self.run_each, self.keys, self.damage)
        self.pieces = Pieces()
        """Of long work in this process, on whatever the store holds."""
        self.totals = VideoTotals(self.run_each, self.keys, live_ms, self.damage, self.pieces)
        self.released = ReleasedTotals(self.run, self.keys, self.script, self.totals)
        self.scanning = Scanning(self.run_each, self._runs, self.damage)
        self.replay = Replay(self.link, self.keys)
        self._epoch = Epoch(self.run, self.run_each, self.keys, self.damage)
        self._reading = Reading(self.link, self.keys, self.script, self._epoch, self.pieces, self.damage)
        self.commits = Commits(
            self.link,
            self.keys,
            self.script,
            self.catalogue,
            self.durability,
            self._epoch,
            self.damage,
            worker=worker,
            threshold_permille=threshold_permille,
            live_ms=live_ms,
            max_videos=max_videos,
        )

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
            await self.commits.finish([], {primary.name for primary in await self.link.primaries()})

    async def settle(self) -> None:
        """Find out by which means the durability is kept. Raises StoreUnavailable: by none, or no answer."""
        await self.durability.settle(await self._runs())

    async def missing(self) -> str | None:
        """Why replicas could not confirm a commit now; None where they could. Raises StoreUnavailable."""
        for run in await self._runs():
            if missing := await self.durability.missing(run):
                return missing
        return None

    async def notes(self) -> list[str]:
        """What an operator should know of how the store keeps what it has; sentences that everybody may read."""
        return [note for note in (self.durability.note, await self.replay.note()) if note]

    async def _runs(self) -> list[Run]:
        """A round trip to each primary, in an order that stays."""
        if isinstance(self.link, Single):
            return [self.run]
        return [_run_at(primary) for primary in await self.link.primaries()]

    def listen(
        self,
        on_message: Callable[[str, bytes], None],
        on_confirmed: Callable[[str], None],
        on_new_epoch: Callable[[], None] = lambda: None,
    ) -> Listening:
        """Subscriptions to channels of this store; `on_new_epoch` is called whenever `known_epoch` has changed."""
        self._epoch.on_change = on_new_epoch
        if isinstance(self.link, Cluster):
            return ClusterChannels(self.link, on_message, on_confirmed)
        if isinstance(self.link, Single):
            pool = self.link.primary.pool
            return Channels(pool, on_message, on_confirmed, clustered=False, timeout_s=self.timeout_s)
        raise TypeError(f"{type(self.link).__name__} has no channels")

    async def time(self) -> int:
        """ms since 1970 by the store's clock; on a cluster, by that of the primary which has the epoch.

        Raises:
            TimeNotAllowed: the user may not ask.
            StoreUnavailable: no answer.
        """
        primary = await self.link.home(self.keys.epoch)
        try:
            seconds, us = map(int, checked(await primary.ask([("TIME",)]))[0])
        except (RedisError, OSError, TypeError, ValueError) as error:
            raise StoreUnavailable(f"{type(error).__name__}: {error}") from error
        except StoreUnavailable as error:
            if isinstance(error.__cause__, NoPermissionError):
                raise TimeNotAllowed(str(error)) from error
            raise
        return seconds * 1_000 + us // 1_000

    async def epoch(self) -> str:
        """The store's identity: made when it is first used, gone when it loses its data."""
        return await self._epoch.current()

    @property
    def known_epoch(self) -> str:
        """The store's identity as this process knows it."""
        return self._epoch.known

    def learn_epoch(self, epoch: str) -> None:
        """Note the store's epoch, which another process published or a read found."""
        self._epoch.learn(epoch)

    @property
    def lowest_rev(self) -> int:
        """Each revision that is counted from now on is higher."""
        return self._epoch.floor

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
        return await self.commits.commit(batch, now, subscribed, wanted)

    async def record(self, user_id: str, video_id: str) -> Record | Damaged:
        """One record; the empty one where there is none. Raises StoreUnavailable."""
        return await self._reading.record(user_id, video_id)

    async def records(self, user_ids: Sequence[str], video_id: str) -> list[Record | Damaged]:
        """The same of some users of one video, in their order."""
        return await self._reading.records(user_ids, video_id)

    async def changes(
        self,
        user_id: str,
        since: int | None = None,
        epoch: str | None = None,
        admit: Callable[[int], None] = lambda records: None,
    ) -> Changes | Damaged:
        """A user's records that changed after `since`; all of them if it is None, or of another epoch.

        Damaged: none of them can be read, as where the key holds another type.

        Args:
            admit: asked before many are read, with about how many records there are to look at; what it raises is
                raised here.
        """
        return await self._reading.changes(user_id, since, epoch, admit)

    async def videos_of(self, user_id: str) -> int:
        """About how many records the learner has, tombstones too. Raises StoreUnavailable."""
        (fields,) = await self.run_each([("HLEN", self.keys.progress(user_id))])
        return 0 if isinstance(fields, Damaged) else int(fields)

    def script(self, name: str) -> Script:
        """A file of `lua/` that `run` may be given calls of."""
        script = Script(name)
        self._texts.append(script.text)
        return script

    async def announce(self, user_id: str) -> None:
        """Publish which revision the user is at, and no records: a process that lacks some reads them."""
        (stored,) = await self.run_each([("HGET", self.keys.progress(user_id), "rev")])
        rev = int(stored) if isinstance(stored, bytes) and stored.isdigit() and len(stored) <= 15 else 0
        await self.run([("SPUBLISH", self.keys.push(user_id), pack_announcement(self.worker, rev))])

    async def run(self, commands: list[Command]) -> list[Any]:
        """Commands in one round trip; scripts that a server has forgotten are loaded again.

        Raises:
            StoreUnavailable: one of them failed, or the store did not answer in time.
        """
        return checked(await self.link.ask(commands))

    async def run_each(self, commands: list[Command]) -> list[Any]:
        """As `run`, but the reply of a command whose key holds another Redis type is Damaged. All may be sent twice."""
        try:
            return await self.run(commands)
        except StoreUnavailable as error:
            if not is_foreign(error):
                raise
        return checked(or_damaged(await self.link.ask(commands)))


def _link(url: str, timeout_s: float, scripts: list[str], retrying: Backoff) -> Link:
    """Nothing is connected yet. Raises ValueError: `url` is not one."""
    address = parse_address(url)
    check_tls(address.options)
    if address.kind == "cluster":
        return Cluster(address, timeout_s, scripts, retrying)
    if address.kind == "sentinel":
        return Single(Primary("", sentinel_pool(address, timeout_s, retrying), scripts))
    return Single(Primary("", pool_of(address.options, timeout_s, retrying), scripts))


def _run_at(primary: Primary) -> Run:
    """A round trip to this primary; raises StoreUnavailable where a command fails."""

    async def run(commands: list[Command]) -> list[Any]:
        try:
            return checked(await primary.ask(commands))
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"{type(error).__name__}: {error}") from error

    return run
