"""Export and import of records, catalogue entries and ended sessions as lines, while the store serves.

An export scans the store. It has each record as it was when it was read, and some perhaps twice. That is not a snapshot
across records, and need not be, because an import merges. It may be run twice, in parts, and into a store with other
records:

- A record is merged by `protocol/merge.py`. The result is computed here, and stored only if the record that it was
  computed from is still stored (`lua/swap.lua`); otherwise it is computed again. The store counts the revisions. Then
  stage 2 of a commit follows, even if nothing changed: so the next import completes one that was killed.
- An existing catalogue entry is kept: entries have no timestamp, and an older export must change nothing. Records that
  existed before a new entry take its duration over with their next report, or when another entry is put.
- Of two instants at which a user's sessions were ended, the later one is kept, while it matters.

An instant later than now comes from a wrong clock, or was written by hand, and is not believed (`clamp_instants` in
`protocol/record.py`). In a file it is replaced by the instant of the export, at most by now, so that a second import
changes nothing.

The epoch belongs to the store and is not transferred.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import msgpack

from playhead.protocol.export import (
    EndedLine,
    EndLine,
    HeaderLine,
    RecordLine,
    VideoLine,
    read_line,
    record_line,
    write_line,
)
from playhead.protocol.merge import merge
from playhead.protocol.record import Record, clamp_instants
from playhead.protocol.scalars import format_instant
from playhead.storage.backoff import Backoff
from playhead.storage.errors import StoreUnavailable
from playhead.storage.keys import NOT_VIDEOS, id_of
from playhead.storage.parts import Parts
from playhead.storage.read.catalogue import Video, read_video
from playhead.storage.read.scanning import START
from playhead.storage.values.damage import Damaged
from playhead.storage.values.instants import CLOCKS_APART_MS, RECEIPT_MS
from playhead.storage.values.packing import pack_record, unpack_record
from playhead.storage.write.ended_sessions import KEEP_MS
from playhead.storage.write.pending import Key

MAX_ROUNDS = 20
"""Attempts for a record that changes between each read and write."""
RETRY_S = 0.005, 0.1
"""The first and the longest delay between two attempts."""
VIDEOS, USERS = "v", "u"


class ExportPage(NamedTuple):
    """A page of an export."""

    lines: list[bytes]
    """Each with its line end."""
    place: str
    """The place from which an export can be continued after this page; "" if it cannot."""
    part: float
    """The approximate part of the store that has been exported, 0 to 1."""


class Export:
    """One export.

    Args:
        counts: the lines written so far, by type, when an export is continued.
    """

    def __init__(self, parts: Parts, counts: Counter[str] | None = None) -> None:
        self._parts = parts
        self.counts = counts or Counter()
        self.failed: list[str] = []
        """Values that cannot be read and are left out, of this run; `counts` includes earlier runs."""

    async def pages(self, now: int, after: str = "") -> AsyncIterator[ExportPage]:
        """Iterate over all pages.

        Args:
            now: ms since 1970.
            after: the place of the last page that was written; "" starts from the beginning.

        Raises:
            StoreUnavailable: continue after the place of the last page.
        """
        side, _, place = after.partition(":")
        if not after:
            header = HeaderLine.model_construct(exported_at=now, epoch=await self._parts.epoch.current())
            yield ExportPage([_line(write_line(header))], "", 0)
        if side != USERS:
            async for page in self._videos(place):
                yield page
            yield ExportPage(await self._ended(now), f"{USERS}:", 0)
            place = START
        async for page in self._records(place):
            yield page
        c = self.counts
        yield ExportPage(
            [_line(write_line(EndLine(videos=c["videos"], ended=c["ended"], records=c["records"])))], "", 1
        )

    async def _videos(self, after: str) -> AsyncIterator[ExportPage]:
        async for page in self._parts.scanner.keys(self._parts.keys.all_of("v", "catalogue"), after):
            found = await self._parts.run_each([("HMGET", name, "title", "duration_ms") for name in page.names])
            lines = []
            for name, stored in zip(page.names, found, strict=True):
                video = read_video(stored)
                if isinstance(video, Damaged):
                    self._failed(f"the catalogue entry of video {id_of(name)}")
                elif video is not None:
                    line = VideoLine.model_construct(
                        video_id=id_of(name), title=video.title, duration=video.duration_ms
                    )
                    lines.append(_line(write_line(line)))
            self.counts["videos"] += len(lines)
            yield ExportPage(lines, f"{VIDEOS}:{page.place}" if page.place else "", 0)

    async def _ended(self, now: int) -> list[bytes]:
        ended = [(user, at) for user, at in await self._parts.ended_sessions.recent() if at > now - KEEP_MS]
        self.counts["ended"] += len(ended)
        return [_line(write_line(EndedLine.model_construct(user_id=user, at=at))) for user, at in ended]

    async def _records(self, after: str) -> AsyncIterator[ExportPage]:
        async for page in self._parts.scanner.keys(self._parts.keys.all_of("u", "progress"), after):
            async for fields in self._parts.scanner.fields(page.names):
                for key in fields.foreign:
                    self._failed(f"user {id_of(key)}, all videos: {key} is not a hash")
                lines = []
                for key, name, value in fields.fields:
                    if name in NOT_VIDEOS:
                        continue
                    video_id, record = name.decode(errors="replace"), unpack_record(value)
                    if isinstance(record, Damaged):
                        self._failed(f"user {id_of(key)}, video {video_id}")
                    else:
                        lines.append(_line(record_line(id_of(key), video_id, record)))
                self.counts["records"] += len(lines)
                yield ExportPage(lines, "", page.part)
            yield ExportPage([], f"{USERS}:{page.place}" if page.place else "", page.part)

    def _failed(self, what: str) -> None:
        self.failed.append(what)
        self.counts["failed"] += 1


class Import:
    """One import. It takes lines in batches; when `take` returns, the batch is stored.

    Args:
        now: ms since 1970.
        exported_at: when the export began, by its header; 0 if unknown.
        strict: refuse lines with instants later than now.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        threshold_permille: int,
        now: Callable[[], int],
        exported_at: int = 0,
        strict: bool = False,
    ) -> None:
        self._parts = parts
        self._threshold_permille = threshold_permille
        self._now = now
        self._swap = parts.script("swap")
        self._exported_at = exported_at
        self._strict = strict
        self.imported: Counter[str] = Counter()
        """The number of lines by type."""
        self.corrected = 0
        """The number of lines with instants later than now."""
        self.corrections: list[str] = []
        """The corrections of the last call of `take`: a sentence for each line."""
        self.changed = 0
        """The number of records that the import has changed."""
        self.retrying = Backoff(*RETRY_S)
        """Counts how often records had to be read again because they had changed meanwhile."""
        self.end: EndLine | None = None

    async def take(self, lines: Sequence[tuple[int, bytes]]) -> list[str]:
        """Merge lines, (number, text), into the store; returns a sentence for each line that was refused.

        Raises:
            StoreUnavailable: possibly not all of them are stored; take the same lines again.
        """
        refused = []
        self.corrections = []
        records: dict[Key, tuple[int, Record]] = {}
        now = self._now()
        latest, before = now + CLOCKS_APART_MS, max(2, min(now, self._exported_at or now))
        for number, text in lines:
            try:
                line = read_line(text)
            except ValueError as error:
                refused.append(f"line {number}: {error}")
                continue
            if isinstance(line, RecordLine | EndedLine) and (late := line.later_than(latest)):
                if self._strict:
                    refused.append(f"line {number}: {', '.join(late)}: should not be later than now")
                    continue
                self.corrected += 1
                as_of = format_instant(before)
                self.corrections.append(f"line {number}: {', '.join(late)}: later than now, replaced by {as_of}")
            if isinstance(line, RecordLine):
                key = line.user_id, line.video_id
                if key in records:
                    refused += await self._take_records(records)
                    records = {}
                records[key] = number, clamp_instants(line.record(), latest, before)
            elif isinstance(line, VideoLine):
                damaged = await self._take_video(line)
                refused += [f"line {number}: the catalogue entry that is stored can't be read"] if damaged else []
            elif isinstance(line, EndedLine):
                damaged = await self._take_ended(line.user_id, line.at if line.at <= latest else before)
                refused += [f"line {number}: the ended sessions that are stored can't be read"] if damaged else []
            elif isinstance(line, EndLine):
                self.end = line
            self.imported[line.type] += 1
        refused += await self._take_records(records)
        return refused

    async def _take_video(self, line: VideoLine) -> Damaged | None:
        return await self._parts.catalogue.add(line.video_id, Video(line.title, int(line.duration)))

    async def _take_ended(self, user_id: str, at: int) -> Damaged | None:
        now = self._now()
        if at > now - KEEP_MS and at > dict(await self._parts.ended_sessions.until(now)).get(user_id, 0):
            return await self._parts.ended_sessions.add(user_id, at)
        return None

    async def _take_records(self, records: dict[Key, tuple[int, Record]]) -> list[str]:
        durations = await self._parts.catalogue.durations({video_id for _, video_id in records})
        refused: list[str] = []
        by_video: dict[str, list[tuple[str, bytes]]] = {}
        rounds = 0
        now = self._now()
        self.retrying.reset()
        while records:
            if rounds == MAX_ROUNDS:
                raise StoreUnavailable("a record changes too often")
            if rounds:
                await self.retrying.wait()
            rounds += 1
            keys = list(records)
            values = await self._parts.run_each(
                [("HGET", self._parts.keys.progress(user), video) for user, video in keys]
            )
            swaps: dict[str, list[tuple[str, bytes, bytes]]] = {}
            for (user, video), value in zip(keys, values, strict=True):
                number, record = records[user, video]
                stored = value if isinstance(value, Damaged) else unpack_record(value or b"")
                if isinstance(stored, Damaged):
                    refused.append(f"line {number}: the record that is stored can't be read")
                    del records[user, video]
                    continue
                known = clamp_instants(stored, now + CLOCKS_APART_MS, now - RECEIPT_MS)
                merged = _body(merge(known, record, durations[video], self._threshold_permille))
                if merged != _body(stored):
                    swaps.setdefault(user, []).append((video, value or b"", merged))
                else:
                    by_video.setdefault(video, []).append((user, value))
                    del records[user, video]
            refused += await self._put(swaps, records, by_video)
        await self._parts.commits.update_videos(by_video, self._now())
        return refused

    async def _put(
        self,
        swaps: dict[str, list[tuple[str, bytes, bytes]]],
        records: dict[Key, tuple[int, Record]],
        by_video: dict[str, list[tuple[str, bytes]]],
    ) -> list[str]:
        """Store merged records, and remove from `records` those that were stored or can never be; return why not."""
        refused: list[str] = []
        if not swaps:
            return refused
        answers = await self._parts.run(
            [
                self._swap.call(
                    [self._parts.keys.progress(user)], self._parts.worker, self._parts.epoch.floor, _packed(items)
                )
                for user, items in swaps.items()
            ]
        )
        for (user, items), answer in zip(swaps.items(), answers, strict=True):
            values = msgpack.unpackb(answer, raw=True) or [None] * len(items)
            for (video, _, _), value in zip(items, values, strict=True):
                if value:
                    self.changed += 1
                    by_video.setdefault(video, []).append((user, value))
                if value is None:
                    number, _ = records[user, video]
                    refused.append(f"line {number}: the learner's revision that is stored can't be read")
                if value is not False:
                    del records[user, video]
        return refused


def _packed(items: list[tuple[str, bytes, bytes]]) -> bytes:
    packed: bytes = msgpack.packb(items, use_bin_type=False)
    return packed


def _body(record: Record) -> bytes:
    """Encode a record without its rev."""
    return pack_record(replace(record, rev=0))[1:]


def _line(text: bytes) -> bytes:
    return text + b"\n"
