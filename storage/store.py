"""The facade of storage: the one module of it that server/ imports.

`Store` answers typed records; no bytes, key names or commands of Redis cross this boundary. The types that its methods
take and answer, and the few services that the server builds on (flusher, backoff, embedded store), are exported here
too.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from redis.exceptions import MovedError

from playhead.protocol.record import Record
from playhead.storage.backoff import Backoff
from playhead.storage.connection.lanes import Lane
from playhead.storage.connection.latch import Latch
from playhead.storage.connection.primary import MAX_CONNECTIONS
from playhead.storage.connection.rights import lacked_right
from playhead.storage.embedded.private_files import UMASK, open_file
from playhead.storage.embedded.valkey import DataDirLocked, EmbeddedStoreFailed, EmbeddedValkey, running_url
from playhead.storage.errors import NotDurable, StoreUnavailable, TimeNotAllowed
from playhead.storage.events import (
    EndingsMissed,
    EpochChanged,
    Event,
    EventStream,
    RecordsChanged,
    RecordsMissed,
    SessionsEnded,
    Subscribed,
)
from playhead.storage.guarantees.durability import Level
from playhead.storage.maintenance.rebuild import Found, Rebuild
from playhead.storage.maintenance.store_audit import concerns
from playhead.storage.maintenance.transfer import Export, Import
from playhead.storage.outage import Outage
from playhead.storage.parts import MAX_VIDEOS, Parts
from playhead.storage.read.catalogue import Video
from playhead.storage.read.changes import (
    KEPT_BYTES,
    PAGE_RECORDS,
    RECORD_BYTES,
    Changes,
    RecordPage,
    newest_first,
    oldest_change_first,
)
from playhead.storage.read.curves import Curve
from playhead.storage.read.store_time import store_time
from playhead.storage.read.totals import Totals, VideoAnalytics
from playhead.storage.values.damage import Damaged
from playhead.storage.write.flusher import Flusher
from playhead.storage.write.pending import Batch, Committed, Delta, Full, Key, Origin, Wanted
from playhead.storage.write.script_calls import WEIGHT_PER_CALL

__all__ = [
    "KEPT_BYTES",
    "MAX_CONNECTIONS",
    "PAGE_RECORDS",
    "RECORD_BYTES",
    "UMASK",
    "WEIGHT_PER_CALL",
    "Backoff",
    "Batch",
    "Changes",
    "Committed",
    "Curve",
    "Damaged",
    "DataDirLocked",
    "Delta",
    "EmbeddedStoreFailed",
    "EmbeddedValkey",
    "EndingsMissed",
    "EpochChanged",
    "Event",
    "EventStream",
    "Export",
    "Flusher",
    "Found",
    "Full",
    "Import",
    "Key",
    "Lane",
    "Latch",
    "Level",
    "NotDurable",
    "Origin",
    "Outage",
    "RecordPage",
    "RecordsChanged",
    "RecordsMissed",
    "SessionsEnded",
    "Store",
    "StoreUnavailable",
    "Subscribed",
    "TimeNotAllowed",
    "Totals",
    "Video",
    "VideoAnalytics",
    "lacked_right",
    "newest_first",
    "oldest_change_first",
    "open_file",
    "open_store",
    "running_url",
]


def open_store(
    url: str,
    *,
    worker: str,
    key_prefix: str = "ph",
    threshold_permille: int = 900,
    durability: str = "memory",
    timeout_s: float = 5.0,
    live_ms: int = 15_000,
    max_videos: int = MAX_VIDEOS,
) -> "Store":
    """Redis or Valkey as Playhead uses it; nothing is connected yet.

    Args:
        url: as `storage/connection/address.py` says.
        worker: this process's name, unique among all that share the store.
        key_prefix: of every key and channel.
        threshold_permille: a record is complete at this part of its duration.
        durability: what a commit waits for before it is answered: memory, fsync or replicas:N.
        timeout_s: the longest wait for an answer.
        live_ms: how long after the last moment watched a viewer counts as watching.
        max_videos: records that one learner may have, tombstones too; those beyond it stay, and can be changed.

    Raises:
        ValueError: `url` or `durability` is not one.
    """
    return Store(
        Parts(
            url,
            worker=worker,
            key_prefix=key_prefix,
            threshold_permille=threshold_permille,
            durability=durability,
            timeout_s=timeout_s,
            live_ms=live_ms,
            max_videos=max_videos,
        )
    )


class Store:
    """One store as the rest of the service sees it, made by `open_store`.

    Every method that asks the store raises StoreUnavailable where it does not answer.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.timeout_s = parts.timeout_s

    async def close(self) -> None:
        """Close all connections."""
        await self._parts.link.aclose()

    # What the store is, and how it is doing

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
        level = self._parts.durability.level
        if level.disk and not level.replicas:
            await self._parts.commits.finish([], {primary.name for primary in await self._parts.link.primaries()})

    async def settle(self) -> None:
        """Find out by which means the durability is kept. Raises StoreUnavailable: by none, or no answer."""
        await self._parts.durability.settle(await self._parts.runs())

    async def missing(self) -> str | None:
        """Why replicas could not confirm a commit now; None where they could."""
        for run in await self._parts.runs():
            if missing := await self._parts.durability.missing(run):
                return missing
        return None

    async def notes(self) -> list[str]:
        """What an operator should know of how the store keeps its data; the sentences name no address."""
        return [note for note in (self._parts.durability.note, await self._parts.replay.note()) if note]

    async def audit(self) -> list[str]:
        """What an operator should know about the security of a store of their own, one sentence each."""
        return await concerns(self._parts.link)

    async def time(self) -> int:
        """ms since 1970 by the store's clock. Raises TimeNotAllowed: the store's user may not ask for it."""
        return await store_time(self._parts.link, self._parts.keys)

    async def epoch(self) -> str:
        """The store's identity: made when it is first used, gone when it loses its data."""
        return await self._parts.epoch.current()

    @property
    def known_epoch(self) -> str:
        """The store's identity as this process knows it."""
        return self._parts.epoch.known

    def learn_epoch(self, epoch: str) -> None:
        """Note the store's epoch, which a read found."""
        self._parts.epoch.learn(epoch)

    @property
    def connection_retries(self) -> int:
        """How often a connection, or a pipeline, was tried again."""
        return self._parts.retrying.retries

    @property
    def command_retries(self) -> int:
        """How often commands were sent again because they were at the wrong primary of a cluster, or too early."""
        return self._parts.link.retries

    @property
    def damaged_values(self) -> Mapping[str, int]:
        """How often a stored value could not be read, by kind."""
        return self._parts.damage.counts

    # Records

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
        return await self._parts.commits.commit(batch, now, subscribed, wanted)

    async def record(self, user_id: str, video_id: str) -> Record | Damaged:
        """One record; the empty one where there is none."""
        return await self._parts.reading.record(user_id, video_id)

    async def records(self, user_ids: Sequence[str], video_id: str) -> list[Record | Damaged]:
        """The records of some users of one video, in their order."""
        return await self._parts.reading.records(user_ids, video_id)

    async def record_count(self, user_id: str) -> int:
        """About how many records the learner has, tombstones too."""
        return await self._parts.reading.count(user_id)

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
        return await self._parts.reading.changes(user_id, since, epoch, admit)

    async def next_piece(self) -> None:
        """Wait until it is this piece's turn, of all long work in this process on what the store holds."""
        await self._parts.pieces.next()

    # Videos

    async def video(self, video_id: str) -> Video | Damaged | None:
        """The catalogue entry, read from the store."""
        return await self._parts.catalogue.get(video_id)

    async def put_video(self, video_id: str, video: Video) -> Damaged | None:
        """Create or replace the catalogue entry, and tell every worker.

        Damaged: its key holds another type, and nothing was written.
        """
        return await self._parts.catalogue.put(video_id, video)

    async def totals(self, video_id: str) -> Totals | Damaged:
        """The totals of the video now."""
        return await self._parts.totals.read(video_id)

    async def released_totals(self, video_id: str, batch: int) -> Totals | Damaged:
        """The totals as callers see them who may not see single viewers: released for `batch` viewers at a time."""
        return await self._parts.released.read(video_id, batch)

    async def analytics(self, video_id: str, now: int) -> VideoAnalytics | Damaged:
        """Totals, curve, and how many are watching at `now` (ms since 1970)."""
        return await self._parts.totals.read_all(video_id, now)

    def viewers(self, video_id: str) -> AsyncIterator[list[str]]:
        """The userIds of all who have watched the video, some at a time; those who come or go meanwhile may be missing
        or appear twice."""
        return self._parts.totals.audience(video_id)

    # What other processes do

    def events(self, on_event: Callable[[Event], None]) -> EventStream:
        """What other processes publish, as events for `on_event`, once the stream runs."""
        return self._parts.events(on_event)

    async def end_sessions(self, user_id: str, at: int) -> Damaged | None:
        """End every session of the user that began at `at`, ms since 1970, or before.

        Damaged: its key holds another type. All processes that listen were told, but none will be that did not.

        Raises:
            StoreUnavailable: not every process was told; do it again.
        """
        return await self._parts.endings.add(user_id, at)

    async def ended_sessions(self, now: int) -> list[tuple[str, int]]:
        """(userId, at) of all that were ended lately, none later than `now`, ms since 1970."""
        return await self._parts.endings.until(now)

    # Maintenance

    async def rebuild(
        self,
        *,
        mend: bool,
        grace_s: float,
        now: Callable[[], int],
        progress: Callable[[str, float, Found], None] = lambda walk, part, found: None,
    ) -> Found:
        """Recount audiences, totals and curves from the records; the arguments are those of `Rebuild`."""
        return await Rebuild(self._parts, mend=mend, grace_s=grace_s, now=now, progress=progress).run()

    def exporting(self, counts: Counter[str] | None = None) -> Export:
        """An export of all that is stored; the arguments are those of `Export`."""
        return Export(self._parts, counts)

    def importing(
        self, *, threshold_permille: int, now: Callable[[], int], exported_at: int = 0, strict: bool = False
    ) -> Import:
        """An import into what is stored; the arguments are those of `Import`."""
        return Import(
            self._parts, threshold_permille=threshold_permille, now=now, exported_at=exported_at, strict=strict
        )
