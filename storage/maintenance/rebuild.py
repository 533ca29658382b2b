"""Recounts audiences, totals and curves from the users' records: says what had drifted, and mends it, while all serve.

The records are the truth; a commit brings each to its audience entry, and the entry's difference to the totals. What
can't be read is mended as far as possible (`repair.py`). The rest is found by three walks, each of which trusts what
the one before has put right:

1. Every record against its entry. A commit may be between its two stages, so an entry that is behind counts as drift
   only if it still lacks, a grace later, the revision that was seen then; one that is ahead, or unlike its record at
   the same revision, is compared anew with a record read after it. A record's revision never goes back, so what is left
   is drift. Mended by stage 2, which skips what is not newer, after taking out an entry that stands in its way.
2. Every entry's record: an entry is written after its record, and records are never removed, so an entry without one,
   or in a shard that is not its user's, is drift. It is taken out, and what it says out of the totals.
3. Every video's totals (on a cluster, every shard's) against the sum of its entries: `storage/maintenance/recount.py`.

What is mended is safe against interruption at any moment: run it again. Memory: one page, MAX_SUSPECTS names, and the
curve of one video. What changes while it runs is neither lost, nor counted twice, nor called drift.
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
from playhead.storage.maintenance.recount import Recount, Spoilt
from playhead.storage.maintenance.repair import FOREIGN_KEY, Mending
from playhead.storage.parts import Parts
from playhead.storage.values.audience import Entry, entry_of, unpack_entry
from playhead.storage.values.damage import Damaged, is_foreign
from playhead.storage.values.packing import MAX_REV, unpack_record

FORGOTTEN = 50
"""Entries that one script takes out."""
PAGE = 500
"""Records that are compared, or mended, at a time."""
MAX_SUSPECTS = 20_000
EXAMPLES = 20
T = TypeVar("T")


@dataclass
class Found:
    """What a rebuild saw."""

    records: int = 0
    audiences: int = 0
    """One a video; on a cluster one a shard."""
    drift: Counter[str] = field(default_factory=Counter)
    """By kind, how many; a kind is a few words."""
    failed: Counter[str] = field(default_factory=Counter)
    """What it could not judge or mend."""
    examples: list[str] = field(default_factory=list)
    """The first EXAMPLES of both."""

    def tell(self, kinds: Counter[str], kind: str, what: str) -> None:
        kinds[kind] += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"{kind}: {what}")


class Suspect(NamedTuple):
    """A record that was not what its entry says, when it was looked at."""

    user_id: str
    video_id: str
    rev: int
    since: float


class Learners(NamedTuple):
    """Those of one page of keys."""

    highest: dict[str, int]
    """By userId, the highest revision of the records that can be read."""
    damaged: list[tuple[str, str, bytes]]
    """(userId, videoId, value) of the others."""


class Rebuild:
    """One run.

    Args:
        mend: False only says.
        grace_s: longer than a commit may take, both stages; what is behind by then has drifted.
        now: ms since 1970.
        progress: told now and then which walk it is ("records", "videos"), and how much of it is done, 0 to 1.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        mend: bool,
        grace_s: float,
        now: Callable[[], int],
        progress: Callable[[str, float, Found], None] = lambda walk, part, found: None,
    ) -> None:
        self._parts = parts
        self._keys = parts.keys
        self._mend = mend
        self._grace_s = grace_s
        self._now = now
        self._progress = progress
        self._found = Found()
        self._suspects: deque[Suspect] = deque()
        self._forget = parts.script("forget")
        self._recount = Recount(parts, mend=mend)
        self._mending = Mending(parts, mend=mend, tell=self._tell)

    async def run(self) -> Found:
        """Raises StoreUnavailable: the store went away; run it again."""
        await self._mending.keys()
        async for page in self._parts.scanning.keys(self._keys.all_of("u", "progress")):
            learners = Learners({id_of(name): 0 for name in page.names}, [])
            async for fields in self._parts.scanning.fields(page.names):
                for key in fields.foreign:
                    self._found.tell(self._found.failed, "a learner's key of another Redis type", key)
                records = list(self._records(fields.fields))
                for some in _cut(records, PAGE):
                    await self._compare(some, learners)
            await self._mending.learners(learners.highest)
            for some in _cut(await self._mending.records(learners.damaged), PAGE):
                await self._compare(some, learners)
            self._progress("records", page.part, self._found)
        await self._judge_all()
        async for page in self._parts.scanning.keys(self._keys.all_of("v", "*")):
            for shard in await self._shards(page.names):
                self._found.audiences += 1
                await self._take_out_orphans(shard)
                await self._count(shard)
            self._progress("videos", page.part, self._found)
        return self._found

    def _tell(self, kind: str, what: str, *, mended: bool) -> None:
        self._found.tell(self._found.drift if mended else self._found.failed, kind, what)

    # 1. Records and their entries

    def _records(self, fields: Sequence[tuple[str, bytes, bytes]]) -> Iterator[tuple[str, str, bytes]]:
        """(userId, videoId, value)"""
        for key, name, value in fields:
            try:
                if name not in NOT_VIDEOS:
                    yield id_of(key), name.decode(), value
            except UnicodeDecodeError:
                self._found.tell(self._found.failed, "a record of no videoId", f"user {id_of(key)}, video {name!r}")

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
        """Look again at some suspects, the oldest first, when their grace is over."""
        some = [self._suspects.popleft() for _ in range(min(PAGE, len(self._suspects)))]
        await asyncio.sleep(some[-1].since + self._grace_s - asyncio.get_running_loop().time())
        entries = await self._entries([(s.user_id, s.video_id) for s in some])
        values = await self._parts.run_each([("HGET", self._keys.progress(s.user_id), s.video_id) for s in some])
        blocking: dict[str, list[tuple[str, bytes]]] = {}
        missing: dict[str, list[tuple[str, bytes]]] = {}
        for suspect, stored, value in zip(some, entries, values, strict=True):
            record = value if isinstance(value, Damaged) else unpack_record(value or b"")
            if isinstance(record, Damaged) or not record.rev:
                continue  # it went, or broke, this moment
            entry = _entry(stored)
            kind = _wrong(entry, record, suspect.rev)
            if kind:
                self._found.tell(self._found.drift, kind, f"user {suspect.user_id}, video {suspect.video_id}")
                missing.setdefault(suspect.video_id, []).append((suspect.user_id, value))
                if stored is not None and (entry is None or entry.rev >= record.rev):
                    shard = self._keys.shard(suspect.video_id, suspect.user_id)
                    blocking.setdefault(shard, []).append((suspect.user_id, stored))
        if self._mend and missing:
            await self._parts.run(
                [self._forgetting(shard, part) for shard, items in blocking.items() for part in _cut(items, FORGOTTEN)]
            )
            await self._parts.commits.update_videos(missing, self._now())

    async def _entries(self, names: list[tuple[str, str]]) -> list[bytes | None]:
        shards = [(self._keys.shard(video_id, user_id), user_id) for user_id, video_id in names]
        found = await self._parts.run_each([("HGET", self._keys.audience(shard), user_id) for shard, user_id in shards])
        return [None if isinstance(stored, Damaged) else stored for stored in found]

    def _forgetting(self, shard: str, items: Sequence[tuple[str | bytes, bytes]]) -> tuple[Any, ...]:
        audience, summary, curve, _ = self._keys.of_shard(shard)
        packed = msgpack.packb(items, use_bin_type=False)
        return self._forget.call([audience, summary, curve, self._keys.before(shard)], packed)

    # 2. Entries and their records

    async def _shards(self, names: list[str]) -> list[str]:
        """Shards of these keys, each by one of its keys alone: its audience where there is one."""
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

    async def _take_out_orphans(self, shard: str) -> None:
        video_id = self._keys.video_of(shard)
        async for fields in self._parts.scanning.fields([self._keys.audience(shard)]):
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
                    self._found.tell(self._found.drift, "an entry without a record", what)
                if self._mend and orphans:
                    await self._parts.run([self._forgetting(shard, part) for part in _cut(orphans, FORGOTTEN)])

    # 3. Totals and the sum of the entries

    async def _count(self, shard: str) -> None:
        try:
            if await self._recount.drifted(shard):
                self._found.tell(self._found.drift, "totals that are not the sum of the audience", f"video {shard}")
        except Spoilt:
            self._found.tell(self._found.failed, "a video that could not be counted while it changed", f"video {shard}")
        except StoreUnavailable as error:
            if not is_foreign(error):
                raise
            # Told already, and removed where it shall be mended; here it is new, or stays.
            if self._mend:
                self._found.tell(self._found.failed, FOREIGN_KEY, f"video {shard}")


def _cut(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[i : i + size] for i in range(0, len(items), size))


def _entry(stored: bytes | None) -> Entry | None:
    entry = unpack_entry(stored) if stored is not None else None
    return None if isinstance(entry, Damaged) else entry


def _wrong(entry: Entry | None, record: Record, rev: int) -> str | None:
    """What is wrong with an entry, read before its `record` and a grace after the record's revision `rev`."""
    if entry is None or entry.rev < rev:
        return "an entry that lacks its record's last change"
    if entry.rev > record.rev:
        return "an entry that is ahead of its record"
    if entry.rev == record.rev and entry != entry_of(record):
        return "an entry that is unlike its record"
    return None
