"""What one reader lacks of a user's records: however much that is, it comes in pages, and little of it is in memory.

Of each record the store's value is kept while all of them together are small, else only its beginning, which tells of
its place in an order; the value is then read again when its page comes. So a record may be newer than `rev` says, and
never older: whoever later asks for what changed after `rev` misses nothing.
"""

import heapq
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple

import msgpack

from playhead.protocol.record import Record
from playhead.storage.read.pieces import Pieces
from playhead.storage.values.damage import Damaged, DamageLog, named
from playhead.storage.values.packing import MAX_VALUE, NOT_MSGPACK, VALUE_HEAD, unpack_record

PAGE_RECORDS = 100
"""Records that are decoded, and shown, without a break: a few ms of this process."""
PAGE_BYTES = 65_536
"""Of stored values in a page, plus one record."""
RUN = 300
"""Records that are put in order without a break."""
KEPT_BYTES = 1_048_576
"""Of stored values that are kept for their page."""
RECORD_BYTES = 250
"""What a record takes in memory besides, about."""

Order = Callable[[int, int], int]
"""From a record's rev and lastWatched to what it is ordered by."""
Large = tuple[bytes, int]
"""The first bytes of a value that is not kept, and its length."""


def oldest_change_first(rev: int, last_watched: int) -> int:
    return rev


def newest_first(now: int) -> Order:
    """By lastWatched, where what is later than `now` (ms since 1970) counts as now."""
    return lambda rev, last_watched: -min(last_watched, now)


class RecordPage(NamedTuple):
    """Some of the changes, in order."""

    records: list[tuple[str, Record]]
    """(videoId, record)"""
    last: int
    """What the last of them is ordered by. It may have changed since: the record may be newer."""


class Changes:
    """A user's records after a revision.

    Args:
        rev: everything up to here is among them.
        fetch: stored values by videoId, in order; None where there is none.
    """

    def __init__(
        self,
        user_id: str,
        epoch: str,
        rev: int,
        fetch: Callable[[Sequence[str]], Awaitable[Sequence[bytes | None]]],
        pieces: Pieces,
        damage: DamageLog,
    ) -> None:
        self.epoch = epoch
        self.rev = rev
        self._user_id = user_id
        self._fetch = fetch
        self._pieces = pieces
        self._values: dict[str, bytes | Large] = {}
        self._kept = 0
        self.stored_bytes = 0
        """Of all of them, as the store has them."""
        self._damage = damage
        self.damaged: list[str] = []
        """videoIds of the records that can't be read and are left out, once their page has come."""

    def __len__(self) -> int:
        """How many; tombstones too."""
        return len(self._values)

    def take(self, found: Sequence[Any]) -> None:
        """Add what a call of `lua/changes.lua` found: videoId, value, …"""
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
        """All of them, tombstones too, ordered, then by videoId; others run between two pages.

        Raises:
            StoreUnavailable: what is not in memory can't be read again.
        """
        runs = []
        videos = list(self._values)
        for start in range(0, len(videos), RUN):
            if len(videos) > PAGE_RECORDS:
                await self._pieces.next()
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
            return 0  # it can't be read, as its page will find

    async def _decode(self, videos: Sequence[str]) -> list[tuple[str, Record]]:
        values = {video: value for video in videos if isinstance(value := self._values[video], bytes)}
        absent = [video for video in videos if video not in values]
        if absent:
            fetched = await self._fetch(absent)
            values |= {video: value for video, value in zip(absent, fetched, strict=True) if value is not None}
        if len(self._values) > PAGE_RECORDS:
            await self._pieces.next()
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
        """ "" for bytes that are no videoId."""
        try:
            return name.decode()
        except UnicodeDecodeError:
            self._leave_out(name.decode(errors="replace"), Damaged("its videoId is not UTF-8"))
            return ""


def _size(value: bytes | Large) -> int:
    return len(value) if isinstance(value, bytes) else value[1]


def _instants(value: bytes) -> tuple[int, int]:
    """The rev and lastWatched of a stored value, from its first bytes."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(value[:VALUE_HEAD])
    rev = unpacker.unpack()
    unpacker.read_array_header()
    unpacker.skip()
    last_watched = unpacker.unpack()
    if type(rev) is not int or type(last_watched) is not int:
        raise ValueError("no instants")
    return rev, last_watched
