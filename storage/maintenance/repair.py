"""What a rebuild does about values that can't be read, before it compares records with entries.

Keys that are made of records alone (audience, totals, curve, who watches now, what was released, a recount's own), and
hold another Redis type, are removed: the walks after this make them anew. Learners' keys and catalogue entries are the
truth, and nothing else has what they held, so they stay, and it is told. Of a damaged record, what is sound is kept
(`storage/maintenance/salvage.py`); it is put in its place only while that still holds the damaged value.
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
"""Hashes that are made of records; `live` is, too."""
FOREIGN_KEY = "a key of another Redis type"
NO_RECORD = "a record that can't be read"
NO_REV = "a learner's revision that can't be read, or is behind a record"


class Tell(Protocol):
    def __call__(self, kind: str, what: str, *, mended: bool) -> None:
        """Something was found; whether it is, or with `mend` would be, mended."""
        ...


class Mending:
    """One rebuild's.

    Args:
        mend: False only says.
        tell: told what was found.
    """

    def __init__(self, parts: Parts, *, mend: bool, tell: Tell) -> None:
        self._parts = parts
        self._keys = parts.keys
        self._mend = mend
        self._tell = tell
        self._swap, self._raise = parts.script("swap"), parts.script("raise")

    async def keys(self) -> None:
        """Every key of a video, and the ended sessions."""
        ended = self._keys.ended
        await self._remove(await self._foreign([("ZRANGE", ended, 0, 0)], [ended]))
        async for page in self._parts.scanning.keys(self._keys.all_of("v", "*")):
            kinds = {name: name.split(":", 3)[2] for name in page.names}
            derived = [name for name, kind in kinds.items() if kind in (*DERIVED, "live")]
            looks: list[Command] = [
                ("ZRANGE", name, 0, 0) if kinds[name] == "live" else ("HLEN", name) for name in derived
            ]
            await self._remove(await self._foreign(looks, derived))
            entries = [name for name, kind in kinds.items() if kind == "catalogue"]
            found = await self._run([("HMGET", name, "title", "duration_ms") for name in entries])
            for name, stored in zip(entries, found, strict=True):
                if isinstance(read_video(stored), Damaged):
                    self._tell("a catalogue entry that can't be read", f"video {id_of(name)}", mended=False)

    async def learners(self, highest: dict[str, int]) -> None:
        """Args: highest: by userId, the highest revision of the records that can be read."""
        users = list(highest)
        stored = await self._run([("HGET", self._keys.progress(user), "rev") for user in users])
        wrong = [user for user, rev in zip(users, stored, strict=True) if not _covers(rev, highest[user])]
        if self._mend and wrong:
            calls = [self._raise.call([self._keys.progress(user)], highest[user]) for user in wrong]
            mended = await self._run(calls)
            wrong = [user for user, done in zip(wrong, mended, strict=True) if done]
        for user in wrong:
            self._tell(NO_REV, f"user {user}", mended=True)

    async def records(self, damaged: Sequence[tuple[str, str, bytes]]) -> list[tuple[str, str, bytes]]:
        """(userId, videoId, value) of those that have one now that can be read."""
        mended = []
        for user_id, video_id, value in damaged:
            if new := await self._record(user_id, video_id, value):
                mended.append((user_id, video_id, new))
        return mended

    async def _record(self, user_id: str, video_id: str, value: bytes) -> bytes | None:
        """Its new value; None where it is still damaged, or has changed since."""
        what = f"user {user_id}, video {video_id}"
        shard = self._keys.shard(video_id, user_id)
        (stored,) = await self._run([("HGET", self._keys.audience(shard), user_id)])
        entry = unpack_entry(stored) if isinstance(stored, bytes) else None
        saved = salvage(value, None if isinstance(entry, Damaged) else entry)
        packed = pack_record(saved.record)[1:] if saved is not None else b""
        if saved is None or isinstance(unpack_record(b"\0" + packed), Damaged):
            self._tell(NO_RECORD, f"{what}; DELETE /progress/{user_id}/{video_id} starts it afresh", mended=False)
            return None
        self._tell(NO_RECORD, f"{what}; lost: {', '.join(saved.lost) or 'nothing'}", mended=True)
        if not self._mend:
            return None
        swap = msgpack.packb([(video_id, value, packed)], use_bin_type=False)
        key = self._keys.progress(user_id)
        (answer,) = await self._run([self._swap.call([key], self._parts.worker, self._parts.epoch.floor, swap)])
        values = msgpack.unpackb(answer, raw=True)
        return values[0] or None if values else None

    async def _foreign(self, looks: list[Command], names: Sequence[str]) -> list[str]:
        return [name for name, reply in zip(names, await self._run(looks), strict=True) if isinstance(reply, Damaged)]

    async def _remove(self, foreign: list[str]) -> None:
        for name in foreign:
            self._tell(FOREIGN_KEY, name, mended=True)
        if self._mend and foreign:
            await self._run([("DEL", name) for name in foreign])

    async def _run(self, commands: list[Command]) -> list[Any]:
        return await self._parts.run_each(commands) if commands else []


def _covers(stored: bytes | Damaged | None, highest: int) -> bool:
    if isinstance(stored, Damaged):
        return True  # the whole key is, as is told elsewhere
    rev = b"0" if stored is None else stored
    return rev.isdigit() and len(rev) <= 15 and int(rev) >= highest
