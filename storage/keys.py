"""Names of all keys and channels in the store.

The hash tag {uHH} or {vHH} is one of 256 partitions of users or of videos: on a cluster all keys of a partition share a
slot, so that one script call may touch many of them. Channels are sharded: each belongs to the slot of its name.

On a cluster the viewers of one video are spread over VIDEO_SHARDS shards, each with an audience and totals of its own,
so that the load of a popular video does not fall on one slot. No viewer is in two shards, so the video's totals are the
sums of the shards' totals. On a single server a video has one shard, named like the video.
"""

from zlib import crc32

NOT_VIDEOS = (b"rev", b"trail")
"""The fields of a progress hash that are not records."""
_HEX = tuple(f"{partition:02x}" for partition in range(256))
VIDEO_SHARDS = 16
"""Shards of a video on a cluster. Must never change: the shard of a viewer is computed from it."""
TAGS = tuple(f"{{{kind}{partition}}}" for kind in "uv" for partition in _HEX)
"""The hash tag of each partition."""


class Keys:
    """Key names under one prefix.

    Args:
        video_shards: the number of shards that a video's viewers are spread over.
    """

    def __init__(self, prefix: str = "ph", video_shards: int = 1) -> None:
        self.prefix = prefix
        self._video_shards = video_shards
        self.epoch = f"{prefix}:epoch"
        self.ended = f"{prefix}:ended"
        """Sorted set: userId by the instant (ms) at which the user's sessions were ended; also its channel."""

    def fence(self, worker: str, tag: str = "") -> str:
        """Counter of the commits of one process; on a cluster in the slot of `tag`, one of TAGS."""
        return f"{self.prefix}:{tag}{':' if tag else ''}fence:{worker}"

    def progress(self, user_id: str) -> str:
        """Hash: videoId → record; `rev`; `trail`, the videos of the newest revisions."""
        return f"{self.prefix}:{{u{partition(user_id)}}}:progress:{user_id}"

    def push(self, user_id: str) -> str:
        """Channel of a user's changes; `lua/push_messages.lua` derives the same name from the progress key."""
        return f"{self.prefix}:{{u{partition(user_id)}}}:push:{user_id}"

    def shard(self, video_id: str, user_id: str) -> str:
        """The shard of this viewer of the video."""
        if self._video_shards == 1:
            return video_id
        return f"{video_id}.{crc32(user_id.encode()) % self._video_shards}"

    def shards(self, video_id: str) -> list[str]:
        """All shards of a video."""
        if self._video_shards == 1:
            return [video_id]
        return [f"{video_id}.{number}" for number in range(self._video_shards)]

    def video_of(self, shard: str) -> str:
        """The video of a shard."""
        return shard if self._video_shards == 1 else shard.rpartition(".")[0]

    def audience(self, shard: str) -> str:
        """Hash: userId → entry."""
        return self._video("audience", shard)

    def summary(self, shard: str) -> str:
        """Hash: viewers, completed, watched."""
        return self._video("summary", shard)

    def curve(self, shard: str) -> str:
        """Hash: difference arrays, s<second> and a<second>."""
        return self._video("curve", shard)

    def live(self, shard: str) -> str:
        """Sorted set: userId by the last moment watched, ms."""
        return self._video("live", shard)

    def before(self, shard: str) -> str:
        """Hash: userId → its entry when the current recount began; `lua/videos.lua` derives the same name."""
        return self._video("before", shard)

    def released(self, video_id: str) -> str:
        """Hash: viewers, completed, watched of the whole video, as last released to callers."""
        return self._video("released", video_id)

    def catalogue(self, video_id: str) -> str:
        """Hash: title, duration_ms."""
        return self._video("catalogue", video_id)

    def of_shard(self, shard: str) -> tuple[str, str, str, str]:
        """The names of audience, summary, curve and live."""
        head = f"{self.prefix}:{{v{partition(shard)}}}:"
        return f"{head}audience:{shard}", f"{head}summary:{shard}", f"{head}curve:{shard}", f"{head}live:{shard}"

    def all_of(self, side: str, kind: str) -> str:
        """Pattern of all keys of a kind; `side` is "u" for users and "v" for videos."""
        return f"{self.prefix}:{{{side}??}}:{kind}:*"

    def _video(self, kind: str, name: str) -> str:
        return f"{self.prefix}:{{v{partition(name)}}}:{kind}:{name}"


def partition(name: str) -> str:
    """The partition (HH) of a user, video or shard."""
    return _HEX[crc32(name.encode()) & 0xFF]


def id_of(key: str) -> str:
    """The id at the end of a key: prefix, {partition}, kind, id of a user, video or shard."""
    return key.split(":", 3)[3]
