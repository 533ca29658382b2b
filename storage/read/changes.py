"""The changes of a learner's records after a revision, in pages, with little of them in memory at a time.

The stored values are kept in memory while they are small together. Beyond that, only the beginning of a value is kept,
which is enough to sort it, and the value is read again for its page. So a record may be newer than `rev` says, but
never older: a reader that later asks for the changes after `rev` misses nothing.
"""

import heapq
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple

import msgpack

from playhead.protocol.record import Record
from playhead.storage.read.time_slices import TimeSlices
from playhead.storage.values.damage import Damaged, DamageLog, named
from playhead.storage.values.packing import MAX_VALUE, NOT_MSGPACK, VALUE_HEAD, unpack_record

PAGE_RECORDS = 100
"""Records that are decoded and shown without yielding to the event loop: a few ms."""
PAGE_BYTES = 65_536
"""Most bytes of stored values in a page, plus one record."""
RUN = 300
"""Records that are sorted without yielding to the event loop."""
KEPT_BYTES = 1_048_576
"""Most bytes of stored values that are kept in memory."""
RECORD_BYTES = 250
"""The approximate memory of a record besides its value."""

Order = Callable[[int, int], int]
"""Maps a record's rev and lastWatched to its sort key."""
Large = tuple[bytes, int]
"""The first bytes of a value that is not kept in memory, and its length."""


def oldest_change_first(rev: int, last_watched: int) -> int:
    """Sort by revision."""
    return rev


def newest_first(now: int) -> Order:
    """Sort by lastWatched, newest first; an instant later than `now` (ms since 1970) counts as now."""
    return lambda rev, last_watched: -min(last_watched, now)


class RecordPage(NamedTuple):
    """A page of changes, sorted."""

    records: list[tuple[str, Record]]
    """(videoId, record)"""
    last: int
    """The sort key of the last record. The record may be newer, if it has changed since."""


class Changes:
    """The records of a user that changed after a revision.

    Args:
        rev: the revision up to which the changes are complete.
        fetch: reads stored values by videoId, in order; None for those that do not exist.
    """

    def __init__(
        self,
        user_id: str,
        epoch: str,
        rev: int,
        fetch: Callable[[Sequence[str]], Awaitable[Sequence[bytes | None]]],
        time_slices: TimeSlices,
        damage: DamageLog,
    ) -> None:
        self.epoch = epoch
        self.rev = rev
        self._user_id = user_id
        self._fetch = fetch
        self._time_slices = time_slices
        self._values: dict[str, bytes | Large] = {}
        self._kept = 0
        self.stored_bytes = 0
        """The size of all stored values."""
        self._damage = damage
        self.damaged: list[str] = []
        """videoIds of the records that cannot be read and are left out; complete after the last page."""

    def __len__(self) -> int:
        """The number of changed records, including tombstones."""
        return len(self._values)

    def add(self, found: Sequence[Any]) -> None:
        """Add the records that a call of `lua/changes.lua` returned: videoId, value, …"""
        for i in range(0, len(found), 2):
            video, value = self._video(found[i]), found[i + 1]
            if not video:
                continue
            if isinstance(value, list):
                value = value[0], value[1]
            elif self._kept + len(value) > KEPT_BYTES:
                value = value[:VALUE_HEAD], len(value)
            else:
                self._kept += len(value)
            if _size(value) > MAX_VALUE:
                self._leave_out(video, Damaged("too long"))
                continue
            self.stored_bytes += _size(value)
            self._values[video] = value

    async def pages(self, order: Order = oldest_change_first) -> AsyncIterator[RecordPage]:
        """Iterate over all changes, including tombstones, sorted by `order` and videoId.

        Other tasks run between two pages.

        Raises:
            StoreUnavailable: values that are not in memory cannot be read again.
        """
        runs = []
        videos = list(self._values)
        for start in range(0, len(videos), RUN):
            if len(videos) > PAGE_RECORDS:
                await self._time_slices.next()
            runs.append(sorted((self._key(video, order), video) for video in videos[start : start + RUN]))
        page: list[str] = []
        size = 0
        for key, video in heapq.merge(*runs):
            page.append(video)
            size += _size(self._values[video])
            if len(page) >= PAGE_RECORDS or size >= PAGE_BYTES:
                yield RecordPage(await self._decode(page), key)
                page, size = [], 0
        if page:
            yield RecordPage(await self._decode(page), key)

    def _key(self, video: str, order: Order) -> int:
        value = self._values[video]
        try:
            return order(*_instants(value if isinstance(value, bytes) else value[0]))
        except NOT_MSGPACK:
            return 0  # its page will report it as damaged

    async def _decode(self, videos: Sequence[str]) -> list[tuple[str, Record]]:
        values = {video: value for video in videos if isinstance(value := self._values[video], bytes)}
        not_kept = [video for video in videos if video not in values]
        if not_kept:
            fetched = await self._fetch(not_kept)
            values |= {video: value for video, value in zip(not_kept, fetched, strict=True) if value is not None}
        if len(self._values) > PAGE_RECORDS:
            await self._time_slices.next()
        return self._decoded((video, values[video]) for video in videos if video in values)

    def _decoded(self, values: Iterable[tuple[str, Any]]) -> list[tuple[str, Record]]:
        found = []
        for video, value in values:
            record = unpack_record(value)
            if isinstance(record, Damaged):
                self._leave_out(video, record)
            else:
                found.append((video, record))
        return found

    def _leave_out(self, video: str, damaged: Damaged) -> None:
        self._damage.found("record", named(self._user_id, video), damaged)
        if video not in self.damaged:
            self.damaged.append(video)

    def _video(self, name: bytes) -> str:
        """Decode a videoId; "" if it is not UTF-8."""
        try:
            return name.decode()
        except UnicodeDecodeError:
            self._leave_out(name.decode(errors="replace"), Damaged("its videoId is not UTF-8"))
            return ""


def _size(value: bytes | Large) -> int:
    return len(value) if isinstance(value, bytes) else value[1]


def _instants(value: bytes) -> tuple[int, int]:
    """Decode the rev and lastWatched of a stored value from its first bytes."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(value[:VALUE_HEAD])
    rev = unpacker.unpack()
    unpacker.read_array_header()
    unpacker.skip()
    last_watched = unpacker.unpack()
    if type(rev) is not int or type(last_watched) is not int:
        raise ValueError("rev or lastWatched is not an integer")
    return rev, last_watched
