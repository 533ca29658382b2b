"""What is known of the videos themselves: title and duration, cached because every flush asks for durations.

A change is told to the other workers on a channel; MAX_AGE_S bounds how long a lost message can matter.
"""

import time
from dataclasses import dataclass

from storage.keys import Keys
from storage.wire import Run

MAX_CACHED = 50_000
MAX_AGE_S = 60.0


@dataclass(frozen=True, slots=True)
class Video:
    """A catalogue entry; duration in ms, 0 where it is not known."""

    title: str
    duration_ms: int


class Catalogue:
    """Titles and durations by videoId.

    Args:
        run: the store's round trip; its StoreUnavailable comes out of every method here.
    """

    def __init__(self, run: Run, keys: Keys) -> None:
        self._run = run
        self._keys = keys
        self._cache: dict[str, tuple[float, int]] = {}
        self._forgotten = 0
        self.channel = f"{keys.prefix}:catalogue"

    async def get(self, video_id: str) -> Video | None:
        """The entry, straight from the store."""
        (reply,) = await self._run([("HMGET", self._keys.catalogue(video_id), "title", "duration_ms")])
        if reply[1] is None:
            return None
        return Video((reply[0] or b"").decode(), int(reply[1]))

    async def put(self, video_id: str, video: Video) -> None:
        """Create or replace the entry, and then tell every worker: the channel may be at another server."""
        key = self._keys.catalogue(video_id)
        await self._run([("HSET", key, "title", video.title, "duration_ms", video.duration_ms)])
        await self._run([("SPUBLISH", self.channel, video_id)])
        self.forget(video_id)

    async def add(self, video_id: str, video: Video) -> None:
        """Create the entry where there is none, and then tell every worker; one that is there stays."""
        key = self._keys.catalogue(video_id)
        await self._run([("HSETNX", key, "title", video.title), ("HSETNX", key, "duration_ms", video.duration_ms)])
        await self._run([("SPUBLISH", self.channel, video_id)])
        self.forget(video_id)

    def forget(self, video_id: str) -> None:
        """The entry has changed: ask again, and don't cache an answer that is under way."""
        self._forgotten += 1
        self._cache.pop(video_id, None)

    def forget_all(self) -> None:
        """Another store may hold other entries."""
        self._forgotten += 1
        self._cache.clear()

    async def durations(self, video_ids: set[str]) -> dict[str, int]:
        """Durations in ms, 0 where the catalogue has none; one round trip for all that aren't cached."""
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
            replies = await self._run([("HGET", self._keys.catalogue(video_id), "duration_ms") for video_id in missing])
            for video_id, reply in zip(missing, replies, strict=True):
                found[video_id] = int(reply or 0)
            if generation == self._forgotten:
                if len(self._cache) + len(missing) > MAX_CACHED:
                    self._cache.clear()
                self._cache.update({v: (now + MAX_AGE_S, found[v]) for v in missing})
        return found
