"""Titles and durations of videos, cached because every flush needs durations.

A change is published to the other workers on a channel; MAX_AGE_S bounds how long a lost message can matter.
"""

import re
import time
from dataclasses import dataclass

from playhead.protocol.scalars import MAX_MEDIA_S
from playhead.storage.connection.pipeline import Command, Run
from playhead.storage.keys import Keys
from playhead.storage.values.damage import FOREIGN, Damaged, DamageLog

MAX_CACHED = 50_000
MAX_AGE_S = 60.0
_WHOLE = re.compile(rb"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Video:
    """A catalogue entry; the duration is in ms, 0 if unknown."""

    title: str
    duration_ms: int


def read_duration(stored: bytes | Damaged | None) -> int | Damaged:
    """Decode a stored duration, ms; 0 if there is none."""
    if stored is None or isinstance(stored, Damaged):
        return stored or 0
    if not _WHOLE.fullmatch(stored) or int(stored) > MAX_MEDIA_S * 1_000:
        return Damaged("its duration is not a whole number of ms up to 48 h")
    return int(stored)


def read_video(stored: list[bytes | None] | Damaged) -> Video | Damaged | None:
    """Decode a stored entry, (title, duration_ms); None if there is none."""
    if isinstance(stored, Damaged):
        return stored
    if stored[1] is None:
        return None
    duration_ms = read_duration(stored[1])
    if isinstance(duration_ms, Damaged):
        return duration_ms
    try:
        return Video((stored[0] or b"").decode(), duration_ms)
    except UnicodeDecodeError:
        return Damaged("its title is not UTF-8")


class Catalogue:
    """Titles and durations by videoId.

    Args:
        run, run_each: the round trips of `Parts`; every method here raises their StoreUnavailable.
    """

    def __init__(self, run: Run, run_each: Run, keys: Keys, damage: DamageLog) -> None:
        self._run = run
        self._run_each = run_each
        self._keys = keys
        self._damage = damage
        self._cache: dict[str, tuple[float, int]] = {}
        self._forgotten = 0
        self.channel = f"{keys.prefix}:catalogue"

    async def get(self, video_id: str) -> Video | Damaged | None:
        """Read the entry from the store."""
        (reply,) = await self._run_each([("HMGET", self._keys.catalogue(video_id), "title", "duration_ms")])
        video = read_video(reply)
        if isinstance(video, Damaged):
            self._damage.found("catalogue", f"video {video_id!r}", video)
        return video

    async def put(self, video_id: str, video: Video) -> Damaged | None:
        """Create or replace the entry, then publish the change to all workers: the channel may be on another server.

        Returns:
            Damaged if the key holds another Redis type; nothing was written then.
        """
        return await self._write(
            video_id, [("HSET", self._keys.catalogue(video_id), "title", video.title, "duration_ms", video.duration_ms)]
        )

    async def add(self, video_id: str, video: Video) -> Damaged | None:
        """Create the entry unless there is one, and publish the change to all workers. Otherwise like `put`."""
        key = self._keys.catalogue(video_id)
        return await self._write(
            video_id, [("HSETNX", key, "title", video.title), ("HSETNX", key, "duration_ms", video.duration_ms)]
        )

    async def _write(self, video_id: str, commands: list[Command]) -> Damaged | None:
        if FOREIGN in await self._run_each(commands):
            self._damage.found("catalogue", f"video {video_id!r}", FOREIGN)
            return FOREIGN
        await self._run([("SPUBLISH", self.channel, video_id)])
        self.forget(video_id)
        return None

    def forget(self, video_id: str) -> None:
        """Drop a cached entry that has changed, and do not cache the reply of a read that is in progress."""
        self._forgotten += 1
        self._cache.pop(video_id, None)

    def forget_all(self) -> None:
        """Drop all cached entries, as another store may hold other ones."""
        self._forgotten += 1
        self._cache.clear()

    def receive(self, data: bytes) -> None:
        """Handle a message on the channel: the id of a video whose entry has changed, or foreign bytes."""
        self.forget(data.decode(errors="replace"))

    async def durations(self, video_ids: set[str]) -> dict[str, int]:
        """Durations in ms, 0 if there is none or it cannot be read; one round trip for all that are not cached."""
        now = time.monotonic()
        found: dict[str, int] = {}
        missing = []
        for video_id in video_ids:
            cached = self._cache.get(video_id)
            if cached is not None and now < cached[0]:
                found[video_id] = cached[1]
            else:
                missing.append(video_id)
        if missing:
            generation = self._forgotten
            replies = await self._run_each(
                [("HGET", self._keys.catalogue(video_id), "duration_ms") for video_id in missing]
            )
            for video_id, reply in zip(missing, replies, strict=True):
                duration_ms = read_duration(reply)
                if isinstance(duration_ms, Damaged):
                    self._damage.found("catalogue", f"video {video_id!r}", duration_ms)
                    duration_ms = 0
                found[video_id] = duration_ms
            if generation == self._forgotten:
                if len(self._cache) + len(missing) > MAX_CACHED:
                    self._cache.clear()
                self._cache.update({v: (now + MAX_AGE_S, found[v]) for v in missing})
        return found
