"""Checks audiences, totals and curves against the users' records, and repairs them, while the service runs.

The records are the source of truth: a commit applies each to its audience entry, and the change of the entry to the
totals. Values that cannot be read are repaired as far as possible (`repair.py`). Then three passes look for drift; each
relies on what the previous ones have repaired:

1. Every record against its entry. A commit may be between its two stages, so an entry that is behind counts as drift
   only if it still lacks the revision of the first look after a grace period. An entry that is ahead of its record, or
   differs from it at the same revision, is compared again with a record that is read after the entry. A record's
   revision never decreases, so a difference that is left is drift. It is repaired by stage 2, which skips states that
   are not newer, after an entry that would block it has been removed.
2. Every entry against its record. An entry is written after its record, and records are never removed, so an entry
   without a record, or in a shard that is not its user's, is drift. It is removed, and subtracted from the totals.
3. Every video's totals (on a cluster, every shard's) against the sum of its entries: `storage/maintenance/recount.py`.

A rebuild may be interrupted at any moment and run again. It keeps one page, MAX_SUSPECTS names and the curve of one
video in memory. Changes made while it runs are neither lost, nor counted twice, nor reported as drift.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import msgpack

from playhead.protocol.record import Record
from playhead.storage.errors import StoreUnavailable
from playhead.storage.keys import NOT_VIDEOS, id_of
from playhead.storage.maintenance.recount import Disturbed, Recount
from playhead.storage.maintenance.repair import FOREIGN_KEY, Repair
from playhead.storage.parts import Parts
from playhead.storage.values.audience import Entry, entry_of, unpack_entry
from playhead.storage.values.damage import Damaged, is_foreign
from playhead.storage.values.packing import MAX_REV, unpack_record

FORGOTTEN = 50
"""Entries that one script call removes."""
PAGE = 500
"""Records that are compared, or repaired, at a time."""
MAX_SUSPECTS = 20_000
"""Suspects that wait for their second look."""
EXAMPLES = 20
"""Findings that are listed one by one."""
T = TypeVar("T")


@dataclass
class Found:
    """The findings of a rebuild."""

    records: int = 0
    audiences: int = 0
    """One for each video; on a cluster one for each shard."""
    drift: Counter[str] = field(default_factory=Counter)
    """The number of findings by kind, which is a few words."""
    failed: Counter[str] = field(default_factory=Counter)
    """The same for what could not be checked or repaired."""
    examples: list[str] = field(default_factory=list)
    """The first EXAMPLES findings of both."""

    def add(self, kinds: Counter[str], kind: str, what: str) -> None:
        """Count a finding in `drift` or `failed`."""
        kinds[kind] += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"{kind}: {what}")


class Suspect(NamedTuple):
    """A record that differed from its entry at the first look."""

    user_id: str
    video_id: str
    rev: int
    since: float


class Learners(NamedTuple):
    """The learners of one page of keys."""

    highest: dict[str, int]
    """By userId, the highest revision among the readable records."""
    damaged: list[tuple[str, str, bytes]]
    """(userId, videoId, value) of the records that cannot be read."""


class Rebuild:
    """One run.

    Args:
        repair: False only reports.
        grace_s: longer than both stages of a commit may take; an entry that is still behind by then has drifted.
        now: ms since 1970.
        progress: called now and then with the current pass ("records" or "videos"), how much of it is done (0 to 1),
            and the findings so far.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        repair: bool,
        grace_s: float,
        now: Callable[[], int],
        progress: Callable[[str, float, Found], None] = lambda stage, part, found: None,
    ) -> None:
        self._parts = parts
        self._keys = parts.keys
        self._repairs = repair
        self._grace_s = grace_s
        self._now = now
        self._progress = progress
        self._found = Found()
        self._suspects: deque[Suspect] = deque()
        self._forget = parts.script("forget")
        self._recount = Recount(parts, repair=repair)
        self._repair = Repair(parts, repair=repair, on_finding=self._add)

    async def run(self) -> Found:
        """Run all passes. Raises StoreUnavailable: the store stopped answering; run the rebuild again."""
        await self._repair.keys()
        async for page in self._parts.scanner.keys(self._keys.all_of("u", "progress")):
            learners = Learners({id_of(name): 0 for name in page.names}, [])
            async for fields in self._parts.scanner.fields(page.names):
                for key in fields.foreign:
                    self._found.add(self._found.failed, "a learner's key of another Redis type", key)
                records = list(self._records(fields.fields))
                for some in _cut(records, PAGE):
                    await self._compare(some, learners)
            await self._repair.learners(learners.highest)
            for some in _cut(await self._repair.records(learners.damaged), PAGE):
                await self._compare(some, learners)
            self._progress("records", page.part, self._found)
        await self._judge_all()
        async for page in self._parts.scanner.keys(self._keys.all_of("v", "*")):
            for shard in await self._shards(page.names):
                self._found.audiences += 1
                await self._remove_orphans(shard)
                await self._count(shard)
            self._progress("videos", page.part, self._found)
        return self._found

    def _add(self, kind: str, what: str, *, repairable: bool) -> None:
        self._found.add(self._found.drift if repairable else self._found.failed, kind, what)

    # 1. Records and their entries

    def _records(self, fields: Sequence[tuple[str, bytes, bytes]]) -> Iterator[tuple[str, str, bytes]]:
        """Iterate over (userId, videoId, value) of the records among the fields."""
        for key, name, value in fields:
            try:
                if name not in NOT_VIDEOS:
                    yield id_of(key), name.decode(), value
            except UnicodeDecodeError:
                self._found.add(
                    self._found.failed, "a record whose videoId is not UTF-8", f"user {id_of(key)}, video {name!r}"
                )

    async def _compare(self, items: Sequence[tuple[str, str, bytes]], learners: Learners) -> None:
        entries = await self._entries([(user_id, video_id) for user_id, video_id, _ in items])
        since = asyncio.get_running_loop().time()
        for (user_id, video_id, value), stored in zip(items, entries, strict=True):
            record = unpack_record(value)
            if isinstance(record, Damaged) or record.rev > MAX_REV:
                learners.damaged.append((user_id, video_id, value))
                continue
            self._found.records += 1
            learners.highest[user_id] = max(record.rev, learners.highest[user_id])
            if _entry(stored) != entry_of(record):
                self._suspects.append(Suspect(user_id, video_id, record.rev, since))
        while len(self._suspects) >= MAX_SUSPECTS:
            await self._judge()

    async def _judge_all(self) -> None:
        while self._suspects:
            await self._judge()

    async def _judge(self) -> None:
        """Check some suspects again, the oldest first, when their grace period is over."""
        some = [self._suspects.popleft() for _ in range(min(PAGE, len(self._suspects)))]
        await asyncio.sleep(some[-1].since + self._grace_s - asyncio.get_running_loop().time())
        entries = await self._entries([(s.user_id, s.video_id) for s in some])
        values = await self._parts.run_each([("HGET", self._keys.progress(s.user_id), s.video_id) for s in some])
        blocking: dict[str, list[tuple[str, bytes]]] = {}
        missing: dict[str, list[tuple[str, bytes]]] = {}
        for suspect, stored, value in zip(some, entries, values, strict=True):
            record = value if isinstance(value, Damaged) else unpack_record(value or b"")
            if isinstance(record, Damaged) or not record.rev:
                continue  # it was deleted or damaged meanwhile
            entry = _entry(stored)
            kind = _drift(entry, record, suspect.rev)
            if kind:
                self._found.add(self._found.drift, kind, f"user {suspect.user_id}, video {suspect.video_id}")
                missing.setdefault(suspect.video_id, []).append((suspect.user_id, value))
                if stored is not None and (entry is None or entry.rev >= record.rev):
                    shard = self._keys.shard(suspect.video_id, suspect.user_id)
                    blocking.setdefault(shard, []).append((suspect.user_id, stored))
        if self._repairs and missing:
            await self._parts.run(
                [self._removal(shard, part) for shard, items in blocking.items() for part in _cut(items, FORGOTTEN)]
            )
            await self._parts.commits.update_videos(missing, self._now())

    async def _entries(self, names: list[tuple[str, str]]) -> list[bytes | None]:
        shards = [(self._keys.shard(video_id, user_id), user_id) for user_id, video_id in names]
        found = await self._parts.run_each([("HGET", self._keys.audience(shard), user_id) for shard, user_id in shards])
        return [None if isinstance(stored, Damaged) else stored for stored in found]

    def _removal(self, shard: str, items: Sequence[tuple[str | bytes, bytes]]) -> tuple[Any, ...]:
        audience, summary, curve, _ = self._keys.of_shard(shard)
        packed = msgpack.packb(items, use_bin_type=False)
        return self._forget.call([audience, summary, curve, self._keys.before(shard)], packed)

    # 2. Entries and their records

    async def _shards(self, names: list[str]) -> list[str]:
        """The shards that these keys belong to, each for only one of its keys: the audience if there is one."""
        kinds = {name: name.split(":", 3)[2] for name in names}
        left = [name for name, kind in kinds.items() if kind in ("summary", "curve")]
        of_shard = [self._keys.of_shard(id_of(name)) for name in left]
        others = await self._parts.run([("EXISTS", audience) for audience, *_ in of_shard]) if left else []
        summaries = await self._parts.run([("EXISTS", summary) for _, summary, *_ in of_shard]) if left else []
        found = [id_of(name) for name, kind in kinds.items() if kind == "audience"]
        for name, audience, summary in zip(left, others, summaries, strict=True):
            if not audience and (kinds[name] == "summary" or not summary):
                found.append(id_of(name))
        return found

    async def _remove_orphans(self, shard: str) -> None:
        video_id = self._keys.video_of(shard)
        async for fields in self._parts.scanner.fields([self._keys.audience(shard)]):
            for some in _cut(fields.fields, PAGE):
                users = [user.decode(errors="replace") for _, user, _ in some]
                there = await self._parts.run_each([("HEXISTS", self._keys.progress(u), video_id) for u in users])
                at_home = [
                    is_there and self._keys.shard(video_id, u) == shard
                    for u, is_there in zip(users, there, strict=True)
                ]
                orphans = [
                    (user, entry) for (_, user, entry), is_there in zip(some, at_home, strict=True) if not is_there
                ]
                for user, _ in orphans:
                    what = f"user {user.decode(errors='replace')}, video {video_id}"
                    self._found.add(self._found.drift, "an entry without a record", what)
                if self._repairs and orphans:
                    await self._parts.run([self._removal(shard, part) for part in _cut(orphans, FORGOTTEN)])

    # 3. Totals and the sum of the entries

    async def _count(self, shard: str) -> None:
        try:
            if await self._recount.drifted(shard):
                self._found.add(self._found.drift, "totals that differ from the sum of the audience", f"video {shard}")
        except Disturbed:
            self._found.add(self._found.failed, "a video that changed too often to be counted", f"video {shard}")
        except StoreUnavailable as error:
            if not is_foreign(error):
                raise
            # Reported already, and removed if `repair`; so here it is new, or could not be removed.
            if self._repairs:
                self._found.add(self._found.failed, FOREIGN_KEY, f"video {shard}")


def _cut(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[i : i + size] for i in range(0, len(items), size))


def _entry(stored: bytes | None) -> Entry | None:
    entry = unpack_entry(stored) if stored is not None else None
    return None if isinstance(entry, Damaged) else entry


def _drift(entry: Entry | None, record: Record, rev: int) -> str | None:
    """Describe the drift of an entry that was read before its `record`, a grace period after the revision `rev`."""
    if entry is None or entry.rev < rev:
        return "an entry that lacks its record's last change"
    if entry.rev > record.rev:
        return "an entry that is ahead of its record"
    if entry.rev == record.rev and entry != entry_of(record):
        return "an entry that differs from its record"
    return None
