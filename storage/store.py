"""The facade of storage: the only module of it that server/ imports.

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
from playhead.storage.write.pending import Batch, Committed, Delta, Full, Key, NeedsValue, Reporter
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
    "Outage",
    "RecordPage",
    "RecordsChanged",
    "RecordsMissed",
    "Reporter",
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
    """Create the store of one process; nothing is connected yet.

    Args:
        url: see `storage/connection/address.py`.
        worker: the name of this process, unique among all that share the store.
        key_prefix: the first part of every key and channel name.
        threshold_permille: the part of its duration from which a record counts as complete.
        durability: what a commit waits for before it counts as stored: memory, fsync or replicas:N.
        timeout_s: the longest wait for a reply.
        live_ms: how long after the last moment watched a viewer counts as watching.
        max_videos: the most records of one learner, including tombstones. Existing records are kept and can change.

    Raises:
        ValueError: `url` or `durability` is invalid.
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
    """One store, as the server uses it; made by `open_store`.

    Every method that sends commands raises StoreUnavailable if the store does not answer.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.timeout_s = parts.timeout_s

    async def close(self) -> None:
        """End the reads that are under way, and close all connections."""
        await self._parts.reader.aclose()
        await self._parts.link.aclose()

    # The store itself

    async def check(self) -> None:
        """Check that the store can be used.

        Raises:
            StoreUnavailable: it does not answer, or cannot keep the durability.
        """
        try:
            await self.epoch()
        except StoreUnavailable as error:
            if isinstance(error.__cause__, MovedError):
                raise StoreUnavailable("it is a node of a cluster: use redis+cluster:// in its URL") from error
            raise
        await self.settle()
        # Replicas may be away at startup; acks wait for them.
        level = self._parts.durability.level
        if level.disk and not level.replicas:
            await self._parts.commits.finish([], {primary.name for primary in await self._parts.link.primaries()})

    async def settle(self) -> None:
        """Determine the means by which this store keeps the durability. Raises StoreUnavailable if there are none."""
        await self._parts.durability.settle(await self._parts.runs())

    async def missing(self) -> str | None:
        """Why replicas could not confirm a commit now; None if they could."""
        for run in await self._parts.runs():
            if missing := await self._parts.durability.missing(run):
                return missing
        return None

    async def notes(self) -> list[str]:
        """Sentences for operators about how the store keeps its data; they contain no address."""
        return [note for note in (self._parts.durability.note, await self._parts.replay.note()) if note]

    async def audit(self) -> list[str]:
        """Audit the operator's own store; one sentence for each concern."""
        return await concerns(self._parts.link)

    async def time(self) -> int:
        """ms since 1970 by the store's clock. Raises TimeNotAllowed: the store's user may not ask for it."""
        return await store_time(self._parts.link, self._parts.keys)

    async def epoch(self) -> str:
        """The store's identity: created when it is first used, and again when it has lost its data."""
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
        """How often a connection or a pipeline was retried."""
        return self._parts.retrying.retries

    @property
    def command_retries(self) -> int:
        """How often commands to a cluster were sent again, because another primary had the key or it was not ready."""
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
        needs_value: NeedsValue = lambda user_id, reporters: True,
    ) -> Committed:
        """Store a batch.

        Args:
            now: ms since 1970.
            subscribed: whether this worker is subscribed to a user's channel.
            needs_value: whether a record's value is needed in the reply.

        Raises:
            StoreUnavailable: the batch is not stored, or that is uncertain. Commit the same batch again.
        """
        return await self._parts.commits.commit(batch, now, subscribed, needs_value)

    async def record(self, user_id: str, video_id: str) -> Record | Damaged:
        """Read one record; the empty record if there is none."""
        return await self._parts.reader.record(user_id, video_id)

    async def records(self, user_ids: Sequence[str], video_id: str) -> list[Record | Damaged]:
        """Read the records of some users for one video, in their order."""
        return await self._parts.reader.records(user_ids, video_id)

    async def record_count(self, user_id: str) -> int:
        """The approximate number of records of a learner, including tombstones."""
        return await self._parts.reader.count(user_id)

    async def changes(
        self,
        user_id: str,
        since: int | None = None,
        epoch: str | None = None,
        admit: Callable[[int], None] = lambda records: None,
    ) -> Changes | Damaged:
        """Read the records of a user that changed after `since`; all of them if it is None, or of another epoch.

        Args:
            admit: called with the approximate number of records before many are read; its exceptions are raised here.

        Returns:
            Damaged if none of them can be read, because the key holds another type, for example.
        """
        return await self._parts.reader.changes(user_id, since, epoch, admit)

    async def next_time_slice(self) -> None:
        """Wait for the next time slice: in each iteration of the event loop one part of all long work runs."""
        await self._parts.time_slices.next()

    # Videos

    async def video(self, video_id: str) -> Video | Damaged | None:
        """Read the catalogue entry from the store; None if there is none."""
        return await self._parts.catalogue.get(video_id)

    async def put_video(self, video_id: str, video: Video) -> Damaged | None:
        """Create or replace the catalogue entry, and publish the change to all workers.

        Returns:
            Damaged if the key holds another Redis type; nothing was written then.
        """
        return await self._parts.catalogue.put(video_id, video)

    async def totals(self, video_id: str) -> Totals | Damaged:
        """Read the current totals of a video."""
        return await self._parts.totals.read(video_id)

    async def released_totals(self, video_id: str, batch: int) -> Totals | Damaged:
        """Read the totals for callers who may not see single viewers: they change by whole batches of viewers."""
        return await self._parts.released_totals.read(video_id, batch)

    async def analytics(self, video_id: str, now: int) -> VideoAnalytics | Damaged:
        """Read totals, curve, and the number of viewers who are watching at `now` (ms since 1970)."""
        return await self._parts.totals.analytics(video_id, now)

    def viewers(self, video_id: str) -> AsyncIterator[list[str]]:
        """Iterate over the userIds of all viewers of a video, in pages.

        Viewers who come or go meanwhile may be missing or appear twice.
        """
        return self._parts.totals.viewers(video_id)

    # Other processes

    def events(self, on_event: Callable[[Event], None]) -> EventStream:
        """Create the stream of events that other processes publish; `on_event` is called while it runs."""
        return self._parts.events(on_event)

    async def end_sessions(self, user_id: str, at: int) -> Damaged | None:
        """End every session of a user that began at `at` (ms since 1970) or before.

        Returns:
            Damaged if the key of ended sessions holds another Redis type: all subscribed processes received the event,
            but a process that was not subscribed cannot read it later.

        Raises:
            StoreUnavailable: possibly not every process received the event; call it again.
        """
        return await self._parts.ended_sessions.add(user_id, at)

    async def ended_sessions(self, now: int) -> list[tuple[str, int]]:
        """Read (userId, at) of the sessions ended lately; no instant is later than `now` (ms since 1970)."""
        return await self._parts.ended_sessions.until(now)

    # Maintenance

    async def rebuild(
        self,
        *,
        repair: bool,
        grace_s: float,
        now: Callable[[], int],
        progress: Callable[[str, float, Found], None] = lambda stage, part, found: None,
    ) -> Found:
        """Check audiences, totals and curves against the records; the arguments are those of `Rebuild`."""
        return await Rebuild(self._parts, repair=repair, grace_s=grace_s, now=now, progress=progress).run()

    def exporting(self, counts: Counter[str] | None = None) -> Export:
        """Create an export; the arguments are those of `Export`."""
        return Export(self._parts, counts)

    def importing(
        self, *, threshold_permille: int, now: Callable[[], int], exported_at: int = 0, strict: bool = False
    ) -> Import:
        """Create an import; the arguments are those of `Import`."""
        return Import(
            self._parts, threshold_permille=threshold_permille, now=now, exported_at=exported_at, strict=strict
        )
