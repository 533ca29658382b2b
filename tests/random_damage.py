"""Random stored values that Playhead never writes, for one learner and one video."""

import random
from collections.abc import Sequence

import msgpack

from playhead.protocol.record import Record
from playhead.storage.connection.pipeline import Command
from playhead.storage.keys import Keys
from playhead.storage.values.packing import pack_record

SOUND = pack_record(Record(3, 0, 400, 2, 9_000, 0, 0, -1, 0, -1, 0, [0, 5, 8, 12], [1, 2], []))


class RandomDamage:
    """Random damage to everything that is stored about one learner and about one video.

    Args:
        users: the learner, and others who watch the video. Only the video's entries of the others are damaged.
        videos: the video, and another one that only the learner watches.
        kinds: which of KINDS; by default all.
    """

    def __init__(
        self, keys: Keys, seed: int | str, users: Sequence[str], videos: Sequence[str], kinds: Sequence[str] = ()
    ) -> None:
        self._keys = keys
        self._random = random.Random(seed)
        self._users, self._learner = users, users[0]
        self._video, self._own = videos
        self._kinds = kinds or KINDS

    def __call__(self, round_: int) -> list[list[Command]]:
        """Return damage of three random kinds, each as the commands that cause it."""
        return [getattr(self, self._random.choice(self._kinds))() for _ in range(3)]

    def record(self) -> list[Command]:
        return [
            (
                "HSET",
                self._keys.progress(self._learner),
                self._random.choice([self._video, self._own]),
                self._mangled(SOUND),
            )
        ]

    def record_of_another_shape(self) -> list[Command]:
        numbers = [self._random.choice([0, 5, -3, 2**60, 0.5, float("nan"), "x", None]) for _ in range(10)]
        sets = [self._random.choice([[], [5, 1], [0, 5], "ab", {"a": 1}, [0.5, 2], 7]) for _ in range(3)]
        value = b"\x05" + msgpack.packb([*numbers, *sets][: self._random.choice([12, 13, 13, 13])])
        return [("HSET", self._keys.progress(self._learner), self._video, value)]

    def huge_record(self) -> list[Command]:
        return [("HSET", self._keys.progress(self._learner), self._own, SOUND + b"\x00" * 300_000)]

    def revision(self) -> list[Command]:
        value = self._random.choice(["x", "-1", "nan", "1e300", "3.5", "", "0"])
        return [("HSET", self._keys.progress(self._learner), "rev", value)]

    def trail(self) -> list[Command]:
        return [("HSET", self._keys.progress(self._learner), "trail", self._random.randbytes(50))]

    def field(self) -> list[Command]:
        return [("HSET", self._keys.progress(self._learner), self._random.randbytes(6), self._random.randbytes(30))]

    def learner(self) -> list[Command]:
        return self._another_type(self._keys.progress(self._learner))

    def entry(self) -> list[Command]:
        user = self._random.choice(self._users)
        entry = self._mangled(b"\x01\x94\x05\x00\x92\x00\x05\x90")
        return [("HSET", self._keys.audience(self._keys.shard(self._video, user)), user, entry)]

    def video(self) -> list[Command]:
        kind = self._random.choice(["audience", "summary", "curve", "live", "before", "released"])
        shard = self._random.choice(self._keys.shards(self._video))
        return self._another_type(getattr(self._keys, kind)(self._video if kind == "released" else shard))

    def total(self) -> list[Command]:
        shard = self._random.choice(self._keys.shards(self._video))
        name, value = (
            self._random.choice([b"viewers", b"watched", b"x"]),
            self._random.choice(["x", "nan", "2.5", "inf"]),
        )
        return [("HSET", self._keys.summary(shard), name, value), ("HSET", self._keys.curve(shard), b"s1e9", value)]

    def catalogue(self) -> list[Command]:
        key = self._keys.catalogue(self._video)
        if self._random.random() < 0.5:
            return self._another_type(key)
        return [("DEL", key), ("HSET", key, "title", b"\xff", "duration_ms", self._random.choice(["90.5", "", "x"]))]

    def message(self) -> list[Command]:
        channel = self._random.choice(
            [self._keys.push(self._learner), self._keys.epoch, self._keys.ended, f"{self._keys.prefix}:catalogue"]
        )
        data = [self._random.randbytes(20), b"", b"\xff", msgpack.packb([b"w", 1, 2**60, []]), b"x y z"]
        return [("SPUBLISH", channel, self._random.choice(data))]

    def ended(self) -> list[Command]:
        return self._another_type(self._keys.ended)

    def _mangled(self, sound: bytes) -> bytes:
        value = bytearray(sound)
        for _ in range(self._random.randint(1, 3)):
            at, cut = self._random.randrange(len(value) + 1), self._random.randrange(3)
            value[at : at + cut] = self._random.randbytes(self._random.randrange(3))
        return bytes(value)

    def _another_type(self, key: str) -> list[Command]:
        return [("DEL", key), self._random.choice([("SET", key, "text"), ("RPUSH", key, "a"), ("SADD", key, "a")])]


KINDS = [name for name in vars(RandomDamage) if not name.startswith("_")]
