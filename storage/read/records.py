"""Reads records back. Those who ask at the same time share a round trip."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, cast

from playhead.protocol.record import Record
from playhead.storage.connection.link import Link, unavailable
from playhead.storage.connection.pipeline import Command
from playhead.storage.errors import StoreUnavailable
from playhead.storage.guarantees.epoch import Epoch
from playhead.storage.keys import Keys, partition
from playhead.storage.read.changes import Changes
from playhead.storage.read.coalesced import Shared
from playhead.storage.read.pieces import Pieces
from playhead.storage.scripts import Script
from playhead.storage.values.damage import FOREIGN, Damaged, DamageLog, named, or_damaged
from playhead.storage.values.packing import unpack_record

SLICE = 250
"""Records that one call looks at for one reader: a ms or so, during which the store serves nobody else."""
SLICES = 1_000
"""And for all its readers together."""
ATTEMPTS = 5
"""Reads of several slices that are begun anew, before it is given up: the first slice may be of another store."""
END = b"0"
"""The cursor before the first slice, and after the last."""
HEADERS = 4
"""What the script answers of a slice before its records."""
READERS_PER_CALL = 10
"""Users whose changes are read in one script call: a few ms of the store, where each has hundreds of records."""


class Reading:
    """Raises StoreUnavailable."""

    def __init__(
        self,
        link: Link,
        keys: Keys,
        script: Callable[[str], Script],
        epoch: Epoch,
        pieces: Pieces,
        damage: DamageLog,
    ) -> None:
        self._link = link
        self._keys = keys
        self._partition = partition if link.tags else None
        self._changes = script("changes")
        self._epoch = epoch
        self._pieces = pieces
        self._damage = damage
        self._records: Shared[tuple[str, str], bytes | Damaged | None] = Shared(self._read_records)
        self._readers: Shared[tuple[str, int], tuple[str, list[Any]]] = Shared(self._read_changes)

    async def record(self, user_id: str, video_id: str) -> Record | Damaged:
        """As `Store.record`."""
        return self._record(user_id, video_id, await self._records.ask((user_id, video_id)))

    async def records(self, user_ids: Sequence[str], video_id: str) -> list[Record | Damaged]:
        """As `Store.records`."""
        values = await self._read_records([(user_id, video_id) for user_id in user_ids])
        for value in values:
            if isinstance(value, Exception):
                raise value
        return [self._record(user_id, video_id, value) for user_id, value in zip(user_ids, values, strict=True)]

    def _record(self, user_id: str, video_id: str, value: bytes | Damaged | None) -> Record | Damaged:
        record = value if isinstance(value, Damaged) else unpack_record(value or b"")
        if isinstance(record, Damaged):
            self._damage.found("record", named(user_id, video_id), record)
        return record

    async def changes(
        self, user_id: str, since: int | None, epoch: str | None, admit: Callable[[int], None]
    ) -> Changes | Damaged:
        """As `Store.changes`."""
        known = -1 if since is None else since
        for _ in range(ATTEMPTS):
            current, first = await self._readers.ask((user_id, known))
            if not first:
                return self._unreadable(user_id)
            if known >= 0 and (known > first[0] or epoch not in (None, current)):
                known = -1
                continue
            fetch = partial(self._values, user_id)
            changes = Changes(user_id, current, first[0], fetch, self._pieces, self._damage)
            changes.take(first[HEADERS:])
            if first[1] == END:
                return changes
            admit(first[2])
            admit = _admitted
            if await self._rest(user_id, known, changes, first):
                return changes
        raise StoreUnavailable("another server took over each time that all records of a user were read")

    async def count(self, user_id: str) -> int:
        """As `Store.record_count`."""
        (fields,) = await self._ask([("HLEN", self._keys.progress(user_id))])
        if isinstance(fields, StoreUnavailable):
            raise fields
        return 0 if isinstance(fields, Damaged) else int(fields)

    def _unreadable(self, user_id: str) -> Damaged:
        damaged = Damaged("its key holds another Redis type, or a revision that is none")
        self._damage.found("learner", f"user {user_id!r}", damaged)
        return damaged

    async def _rest(self, user_id: str, known: int, changes: Changes, last: list[Any]) -> bool:
        """Add the slices after the first; False where they can't be joined to it."""
        server = last[3]
        while last[1] != END:
            call = self._changes.call([self._keys.progress(user_id)], known, last[1], SLICE)
            epoch, reply = await self._ask([("GET", self._keys.epoch), call])
            if isinstance(reply, StoreUnavailable):
                raise reply
            (last,) = reply
            if not last or last[3] != server or epoch != changes.epoch.encode():
                return False
            await self._pieces.next()
            changes.take(last[HEADERS:])
        return True

    async def _values(self, user_id: str, videos: Sequence[str]) -> Sequence[bytes | None]:
        """Stored values, for `Changes`."""
        (values,) = await self._ask([("HMGET", self._keys.progress(user_id), *videos)])
        if isinstance(values, StoreUnavailable):
            raise values
        return [None] * len(videos) if values == FOREIGN else cast("Sequence[bytes | None]", values)

    async def _read_records(self, keys: Sequence[tuple[str, str]]) -> list[Any]:
        if not keys:
            return []
        return await self._ask([("HGET", self._keys.progress(user_id), video_id) for user_id, video_id in keys])

    async def _read_changes(self, readers: Sequence[tuple[str, int]]) -> list[Any]:
        """(epoch, reply of the script), or its error, for each (userId, revision known)."""
        calls = list(reader_calls([user_id for user_id, _ in readers], self._partition))
        commands: list[Command] = [("GET", self._keys.epoch)]
        for places in calls:
            keys = [self._keys.progress(readers[place][0]) for place in places]
            count = min(SLICE, SLICES // len(places))
            commands.append(
                self._changes.call(keys, *(word for place in places for word in (readers[place][1], END, count)))
            )
        stored_epoch, *replies = await self._ask(commands)
        if isinstance(stored_epoch, StoreUnavailable):
            raise stored_epoch
        epoch = await self._epoch.found(stored_epoch)
        found: dict[int, Any] = {}
        for places, reply in zip(calls, replies, strict=True):
            if isinstance(reply, StoreUnavailable):
                found |= dict.fromkeys(places, reply)
                continue
            for place, answer in zip(places, reply, strict=True):
                found[place] = (epoch, answer)
        return [found[place] for place in range(len(readers))]

    async def _ask(self, commands: list[Command]) -> list[Any]:
        """Replies; a command that failed has its StoreUnavailable among them, or Damaged."""
        replies = or_damaged(await self._link.ask(commands))
        return [unavailable(reply) if isinstance(reply, Exception) else reply for reply in replies]


def _admitted(records: int) -> None:
    """They are paid for."""


def reader_calls(user_ids: Sequence[str], partition: Callable[[str], str] | None) -> Iterator[list[int]]:
    """Places of users, whose changes are read together in one call."""
    groups: dict[str, list[int]] = {}
    for place, user_id in enumerate(user_ids):
        groups.setdefault(partition(user_id) if partition else "", []).append(place)
    for places in groups.values():
        for start in range(0, len(places), READERS_PER_CALL):
            yield places[start : start + READERS_PER_CALL]
