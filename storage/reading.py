"""Reads records back. Those who ask at the same time share a round trip."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from protocol.record import Record
from storage.calls import reader_calls
from storage.durability import StoreUnavailable
from storage.epoch import Epoch
from storage.keys import Keys, partition
from storage.link import Link, unavailable
from storage.packing import Damaged, unpack_record
from storage.scripts import Script
from storage.sharing import Shared
from storage.wire import Command

logger = logging.getLogger(__name__)


class Changes(NamedTuple):
    """A snapshot of one user's records after a revision."""

    epoch: str
    rev: int
    records: list[tuple[str, Record]]
    """(videoId, record), in no order; tombstones too."""


class Reading:
    """Raises StoreUnavailable."""

    def __init__(self, link: Link, keys: Keys, script: Callable[[str], Script], epoch: Epoch) -> None:
        self._link = link
        self._keys = keys
        self._partition = partition if link.tags else None
        self._changes = script("changes")
        self._epoch = epoch
        self._records: Shared[tuple[str, str], bytes | None] = Shared(self._read_records)
        self._readers: Shared[tuple[str, int], tuple[str, list[Any]]] = Shared(self._read_changes)

    async def record(self, user_id: str, video_id: str) -> Record:
        """As `Store.record`."""
        value = await self._records.ask((user_id, video_id))
        try:
            return unpack_record(value or b"")
        except Damaged as error:
            logger.error("The record of user %s and video %s can't be read", user_id, video_id)
            raise StoreUnavailable("the stored record can't be read") from error

    async def changes(self, user_id: str, since: int | None, epoch: str | None) -> Changes:
        """As `Store.changes`."""
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

    async def _read_records(self, keys: Sequence[tuple[str, str]]) -> list[Any]:
        return await self._ask([("HGET", self._keys.progress(user_id), video_id) for user_id, video_id in keys])

    async def _read_changes(self, readers: Sequence[tuple[str, int]]) -> list[Any]:
        """(epoch, reply of the script), or its error, for each (userId, revision known)."""
        calls = list(reader_calls([user_id for user_id, _ in readers], self._partition))
        commands: list[Command] = [("GET", self._keys.epoch)]
        for places in calls:
            keys = [self._keys.progress(readers[place][0]) for place in places]
            commands.append(self._changes.call(keys, *[readers[place][1] for place in places]))
        stored_epoch, *replies = await self._ask(commands)
        if isinstance(stored_epoch, StoreUnavailable):
            raise stored_epoch
        epoch = stored_epoch.decode() if stored_epoch else await self._epoch.current()
        found: dict[int, Any] = {}
        for places, reply in zip(calls, replies, strict=True):
            if isinstance(reply, StoreUnavailable):
                found |= dict.fromkeys(places, reply)
                continue
            for place, answer in zip(places, reply, strict=True):
                found[place] = (epoch, answer) if answer else StoreUnavailable("the user's progress can't be read")
        return [found[place] for place in range(len(readers))]

    async def _ask(self, commands: list[Command]) -> list[Any]:
        """Replies; a command that failed has its StoreUnavailable among them."""
        replies = await self._link.ask(commands)
        return [unavailable(reply) if isinstance(reply, Exception) else reply for reply in replies]
