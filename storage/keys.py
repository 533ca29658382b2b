"""Names of everything in the store.

The hash tag {uHH} or {vHH} is one of 256 partitions of users or of videos: on a cluster all keys of a partition
share a slot, so that one script call may touch many of them. Channels are sharded: each is of the slot of its name.
"""

from zlib import crc32

NOT_VIDEOS = (b"rev", b"trail")
"""The fields of a progress hash that are no records."""
_HEX = tuple(f"{partition:02x}" for partition in range(256))
TAGS = tuple(f"{{{kind}{partition}}}" for kind in "uv" for partition in _HEX)
"""The hash tag of each partition."""


class Keys:
    """Key names under one prefix."""

    def __init__(self, prefix: str = "ph") -> None:
        self.prefix = prefix
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
        """Channel of a user's changes; users.lua derives the same name from the progress key."""
        return f"{self.prefix}:{{u{partition(user_id)}}}:push:{user_id}"

    def audience(self, video_id: str) -> str:
        """Hash: userId → entry."""
        return self._video("audience", video_id)

    def summary(self, video_id: str) -> str:
        """Hash: viewers, completed, watched."""
        return self._video("summary", video_id)

    def curve(self, video_id: str) -> str:
        """Hash: difference arrays, s<second> and a<second>."""
        return self._video("curve", video_id)

    def live(self, video_id: str) -> str:
        """Sorted set: userId by the last moment watched, ms."""
        return self._video("live", video_id)

    def before(self, video_id: str) -> str:
        """Hash: userId → its entry when the recount that is under way began; lua/videos.lua derives the same name."""
        return self._video("before", video_id)

    def catalogue(self, video_id: str) -> str:
        """Hash: title, duration_ms."""
        return self._video("catalogue", video_id)

    def of_video(self, video_id: str) -> tuple[str, str, str, str]:
        """audience, summary, curve, live."""
        head = f"{self.prefix}:{{v{partition(video_id)}}}:"
        return (
            f"{head}audience:{video_id}",
            f"{head}summary:{video_id}",
            f"{head}curve:{video_id}",
            f"{head}live:{video_id}",
        )

    def all_of(self, side: str, kind: str) -> str:
        """Pattern of the keys of a kind, "u" for users' or "v" for videos'."""
        return f"{self.prefix}:{{{side}??}}:{kind}:*"

    def _video(self, kind: str, video_id: str) -> str:
        return f"{self.prefix}:{{v{partition(video_id)}}}:{kind}:{video_id}"


def partition(name: str) -> str:
    """HH of the user or video of this id."""
    return _HEX[crc32(name.encode()) & 0xFF]
