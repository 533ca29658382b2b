"""Reads records; concurrent reads share a round trip."""

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
from playhead.storage.read.coalesced import Coalesced
from playhead.storage.read.time_slices import TimeSlices
from playhead.storage.scripts import Script
from playhead.storage.values.damage import FOREIGN, Damaged, DamageLog, named, or_damaged
from playhead.storage.values.packing import unpack_record

SLICE = 250
"""Records that one script call looks at for one reader: about 1 ms, during which the store serves nobody else."""
SLICES = 1_000
"""Records that one script call looks at for all its readers together."""
ATTEMPTS = 5
"""How often a read of several slices is started again: its first slice may be from another server."""
END = b"0"
"""The cursor before the first slice, and after the last."""
HEADERS = 4
"""The number of values that the script returns for a slice before its records."""
READERS_PER_CALL = 10
"""Users whose changes are read in one script call: a few ms of the store if each has hundreds of records."""


class RecordReader:
    """Reads the records of one store. Every method raises StoreUnavailable if the store does not answer."""

    def __init__(
        self,
        link: Link,
        keys: Keys,
        script: Callable[[str], Script],
        epoch: Epoch,
        time_slices: TimeSlices,
        damage: DamageLog,
    ) -> None:
        self._link = link
        self._keys = keys
        self._partition = partition if link.tags else None
        self._changes = script("changes")
        self._epoch = epoch
        self._time_slices = time_slices
        self._damage = damage
        self._records: Coalesced[tuple[str, str], bytes | Damaged | None] = Coalesced(self._read_records)
        self._readers: Coalesced[tuple[str, int], tuple[str, list[Any]]] = Coalesced(self._read_changes)

    async def aclose(self) -> None:
        """End reads that are under way: one goes on after its caller was cancelled, for it may have others."""
        await self._records.aclose()
        await self._readers.aclose()

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
            changes = Changes(user_id, current, first[0], fetch, self._time_slices, self._damage)
            changes.add(first[HEADERS:])
            if first[1] == END:
                return changes
            admit(first[2])
            admit = _admitted
            if await self._rest(user_id, known, changes, first):
                return changes
        raise StoreUnavailable("another server took over during each attempt to read all records of a user")

    async def count(self, user_id: str) -> int:
        """As `Store.record_count`."""
        (fields,) = await self._ask([("HLEN", self._keys.progress(user_id))])
        if isinstance(fields, StoreUnavailable):
            raise fields
        return 0 if isinstance(fields, Damaged) else int(fields)

    def _unreadable(self, user_id: str) -> Damaged:
        damaged = Damaged("its key holds another Redis type or an invalid revision")
        self._damage.found("learner", f"user {user_id!r}", damaged)
        return damaged

    async def _rest(self, user_id: str, known: int, changes: Changes, last: list[Any]) -> bool:
        """Add the slices after the first; False if they are from another server or epoch."""
        server = last[3]
        while last[1] != END:
            call = self._changes.call([self._keys.progress(user_id)], known, last[1], SLICE)
            epoch, reply = await self._ask([("GET", self._keys.epoch), call])
            if isinstance(reply, StoreUnavailable):
                raise reply
            (last,) = reply
            if not last or last[3] != server or epoch != changes.epoch.encode():
                return False
            await self._time_slices.next()
            changes.add(last[HEADERS:])
        return True

    async def _values(self, user_id: str, videos: Sequence[str]) -> Sequence[bytes | None]:
        """Read stored values, for `Changes`."""
        (values,) = await self._ask([("HMGET", self._keys.progress(user_id), *videos)])
        if isinstance(values, StoreUnavailable):
            raise values
        return [None] * len(videos) if values == FOREIGN else cast("Sequence[bytes | None]", values)

    async def _read_records(self, keys: Sequence[tuple[str, str]]) -> list[Any]:
        if not keys:
            return []
        return await self._ask([("HGET", self._keys.progress(user_id), video_id) for user_id, video_id in keys])

    async def _read_changes(self, readers: Sequence[tuple[str, int]]) -> list[Any]:
        """Read (epoch, reply of the script), or an error, for each (userId, known revision)."""
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
        """Send commands; the reply of a failed command is its StoreUnavailable, or Damaged."""
        replies = or_damaged(await self._link.ask(commands))
        return [unavailable(reply) if isinstance(reply, Exception) else reply for reply in replies]


def _admitted(records: int) -> None:
    """Admit the records: their read was charged already."""


def reader_calls(user_ids: Sequence[str], partition: Callable[[str], str] | None) -> Iterator[list[int]]:
    """Group users whose changes are read in one script call; a group is a list of indexes."""
    groups: dict[str, list[int]] = {}
    for place, user_id in enumerate(user_ids):
        groups.setdefault(partition(user_id) if partition else "", []).append(place)
    for places in groups.values():
        for start in range(0, len(places), READERS_PER_CALL):
            yield places[start : start + READERS_PER_CALL]
