"""Repairs values that cannot be read, before a rebuild compares records with entries.

Keys that are derived from records (audience, totals, curve, live viewers, released totals, those of a recount) are
removed if they hold another Redis type: the passes of the rebuild create them again. Learners' keys and catalogue
entries are the source of truth, and nothing else has their contents, so they are kept and reported. The intact fields
of a damaged record are kept (`storage/maintenance/salvage.py`); the salvaged record replaces the damaged value only if
that is still stored.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import msgpack

from playhead.storage.connection.pipeline import Command
from playhead.storage.keys import id_of
from playhead.storage.maintenance.salvage import salvage
from playhead.storage.parts import Parts
from playhead.storage.read.catalogue import read_video
from playhead.storage.values.audience import unpack_entry
from playhead.storage.values.damage import Damaged
from playhead.storage.values.packing import pack_record, unpack_record

DERIVED = ("audience", "summary", "curve", "before", "released")
"""Hashes that are derived from records; so is the sorted set `live`."""
FOREIGN_KEY = "a key of another Redis type"
NO_RECORD = "a record that can't be read"
NO_REV = "a learner's revision that can't be read, or is lower than a record's"


class OnFinding(Protocol):
    """Called with each finding."""

    def __call__(self, kind: str, what: str, *, repairable: bool) -> None:
        """`repairable`: it was repaired, or would have been if `repair`."""
        ...


class Repair:
    """The repairs of one rebuild.

    Args:
        repair: False only reports.
        on_finding: called with each finding.
    """

    def __init__(self, parts: Parts, *, repair: bool, on_finding: OnFinding) -> None:
        self._parts = parts
        self._keys = parts.keys
        self._repairs = repair
        self._on_finding = on_finding
        self._swap, self._raise = parts.script("swap"), parts.script("raise")

    async def keys(self) -> None:
        """Repair the keys of all videos, and the ended sessions."""
        ended = self._keys.ended
        await self._remove(await self._foreign([("ZRANGE", ended, 0, 0)], [ended]))
        async for page in self._parts.scanner.keys(self._keys.all_of("v", "*")):
            kinds = {name: name.split(":", 3)[2] for name in page.names}
            derived = [name for name, kind in kinds.items() if kind in (*DERIVED, "live")]
            reads: list[Command] = [
                ("ZRANGE", name, 0, 0) if kinds[name] == "live" else ("HLEN", name) for name in derived
            ]
            await self._remove(await self._foreign(reads, derived))
            entries = [name for name, kind in kinds.items() if kind == "catalogue"]
            found = await self._run([("HMGET", name, "title", "duration_ms") for name in entries])
            for name, stored in zip(entries, found, strict=True):
                if isinstance(read_video(stored), Damaged):
                    self._on_finding("a catalogue entry that can't be read", f"video {id_of(name)}", repairable=False)

    async def learners(self, highest: dict[str, int]) -> None:
        """Repair revisions of learners.

        Args:
            highest: by userId, the highest revision among the readable records.
        """
        users = list(highest)
        stored = await self._run([("HGET", self._keys.progress(user), "rev") for user in users])
        wrong = [user for user, rev in zip(users, stored, strict=True) if not _covers(rev, highest[user])]
        if self._repairs and wrong:
            calls = [self._raise.call([self._keys.progress(user)], highest[user]) for user in wrong]
            raised = await self._run(calls)
            wrong = [user for user, done in zip(wrong, raised, strict=True) if done]
        for user in wrong:
            self._on_finding(NO_REV, f"user {user}", repairable=True)

    async def records(self, damaged: Sequence[tuple[str, str, bytes]]) -> list[tuple[str, str, bytes]]:
        """Repair damaged records; (userId, videoId, value) of those that can be read now."""
        repaired = []
        for user_id, video_id, value in damaged:
            if new := await self._record(user_id, video_id, value):
                repaired.append((user_id, video_id, new))
        return repaired

    async def _record(self, user_id: str, video_id: str, value: bytes) -> bytes | None:
        """Repair one record; its new value, or None if it is still damaged or has changed since."""
        what = f"user {user_id}, video {video_id}"
        shard = self._keys.shard(video_id, user_id)
        (stored,) = await self._run([("HGET", self._keys.audience(shard), user_id)])
        entry = unpack_entry(stored) if isinstance(stored, bytes) else None
        saved = salvage(value, None if isinstance(entry, Damaged) else entry)
        packed = pack_record(saved.record)[1:] if saved is not None else b""
        if saved is None or isinstance(unpack_record(b"\0" + packed), Damaged):
            self._on_finding(NO_RECORD, f"{what}; DELETE /progress/{user_id}/{video_id} resets it", repairable=False)
            return None
        self._on_finding(NO_RECORD, f"{what}; lost: {', '.join(saved.lost) or 'nothing'}", repairable=True)
        if not self._repairs:
            return None
        swap = msgpack.packb([(video_id, value, packed)], use_bin_type=False)
        key = self._keys.progress(user_id)
        (answer,) = await self._run([self._swap.call([key], self._parts.worker, self._parts.epoch.floor, swap)])
        values = msgpack.unpackb(answer, raw=True)
        return values[0] or None if values else None

    async def _foreign(self, reads: list[Command], names: Sequence[str]) -> list[str]:
        return [name for name, reply in zip(names, await self._run(reads), strict=True) if isinstance(reply, Damaged)]

    async def _remove(self, foreign: list[str]) -> None:
        for name in foreign:
            self._on_finding(FOREIGN_KEY, name, repairable=True)
        if self._repairs and foreign:
            await self._run([("DEL", name) for name in foreign])

    async def _run(self, commands: list[Command]) -> list[Any]:
        return await self._parts.run_each(commands) if commands else []


def _covers(stored: bytes | Damaged | None, highest: int) -> bool:
    if isinstance(stored, Damaged):
        return True  # the whole key is damaged, which is reported elsewhere
    rev = b"0" if stored is None else stored
    return rev.isdigit() and len(rev) <= 15 and int(rev) >= highest
