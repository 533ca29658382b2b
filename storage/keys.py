"""Names of everything in the store.

The hash tag {uHH} or {vHH} is one of 256 partitions of users or of videos: on a cluster all keys of a partition
share a slot, so that one script call may touch many of them. Channels are sharded: each is of the slot of its name.

On a cluster the viewers of one video are spread over VIDEO_SHARDS shards, each with an audience and totals of its own,
so that a video that everybody watches is no slot's burden alone. Shards have no viewer in common, so the video's totals
are the sums of theirs. On one server a video has one shard, of its own name.
"""

from zlib import crc32

NOT_VIDEOS = (b"rev", b"trail")
"""The fields of a progress hash that are no records."""
_HEX = tuple(f"{partition:02x}" for partition in range(256))
VIDEO_SHARDS = 16
"""Of a cluster. Never to be changed: where a viewer is found follows from it."""
TAGS = tuple(f"{{{kind}{partition}}}" for kind in "uv" for partition in _HEX)
"""The hash tag of each partition."""


class Keys:
    """Key names under one prefix.

    Args:
        video_shards: how many shards a video's viewers are spread over.
    """

    def __init__(self, prefix: str = "ph", video_shards: int = 1) -> None:
        self.prefix = prefix
        self._video_shards = video_shards
        self.epoch = f"{prefix}:epoch"
        self.ended = f"{prefix}:ended"
        """Sorted set: userId by when the user's sessions were ended, ms; and the channel that tells it."""

    def fence(self, worker: str, tag: str = "") -> str:
        """Counts the commits of one process; on a cluster in the slot of `tag`, one of TAGS."""
        return f"{self.prefix}:{tag}{':' if tag else ''}fence:{worker}"

    def progress(self, user_id: str) -> str:
        """Hash: videoId → record, `rev`, and `trail`: of which videos the newest revisions were."""
        return f"{self.prefix}:{{u{partition(user_id)}}}:progress:{user_id}"

    def push(self, user_id: str) -> str:
        """Channel of a user's changes; lua/push_messages.lua derives the same name from the progress key."""
        return f"{self.prefix}:{{u{partition(user_id)}}}:push:{user_id}"

    def shard(self, video_id: str, user_id: str) -> str:
        """Where this viewer of the video is."""
        if self._video_shards == 1:
            return video_id
        return f"{video_id}.{crc32(user_id.encode()) % self._video_shards}"

    def shards(self, video_id: str) -> list[str]:
        """All of a video."""
        if self._video_shards == 1:
            return [video_id]
        return [f"{video_id}.{number}" for number in range(self._video_shards)]

    def video_of(self, shard: str) -> str:
        """The video that a shard is of."""
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
        """Hash: userId → its entry when the recount that is under way began; lua/videos.lua derives the same name."""
        return self._video("before", shard)

    def released(self, video_id: str) -> str:
        """Hash: viewers, completed, watched of the whole video, as they were last shown to everybody."""
        return self._video("released", video_id)

    def catalogue(self, video_id: str) -> str:
        """Hash: title, duration_ms."""
        return self._video("catalogue", video_id)

    def of_shard(self, shard: str) -> tuple[str, str, str, str]:
        """audience, summary, curve, live."""
        head = f"{self.prefix}:{{v{partition(shard)}}}:"
        return f"{head}audience:{shard}", f"{head}summary:{shard}", f"{head}curve:{shard}", f"{head}live:{shard}"

    def all_of(self, side: str, kind: str) -> str:
        """Pattern of the keys of a kind, "u" for users' or "v" for videos'."""
        return f"{self.prefix}:{{{side}??}}:{kind}:*"

    def _video(self, kind: str, name: str) -> str:
        return f"{self.prefix}:{{v{partition(name)}}}:{kind}:{name}"


def partition(name: str) -> str:
    """HH of the user, the video or the shard of this name."""
    return _HEX[crc32(name.encode()) & 0xFF]


def id_of(key: str) -> str:
    """The user's, video's or shard's at the end of a key: prefix, {partition}, kind, id."""
    return key.split(":", 3)[3]
