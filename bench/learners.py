"""Records of learners, written into a store by the service's own code, for cases that start with stored data."""

import time
from collections.abc import Iterable
from zlib import crc32

from bench.load.spec import learner, video
from playhead.protocol.record import Report
from playhead.storage.store import Batch, Committed, Delta, Key, Store

DURATION_MS = 10_800_000
AT_ONCE = 10_000
"""Records in one commit."""


class Nobody:
    """A reporter that ignores its notifications."""

    since = 0

    def committing(self) -> None: ...

    def outcome(self, op: Report | int, outcome: object) -> None: ...

    def stored(self, committed: Committed) -> None: ...


NOBODY = Nobody()


def report(session: str, seq: int, start_s: int, end_s: int) -> Report:
    """A report of a play of whole seconds, now."""
    now = _now()
    return Report(
        first_at=now,
        at=now,
        session=session,
        first_seq=seq,
        seq=seq,
        seen=[start_s, end_s],
        played_ms=1_000 * (end_s - start_s),
        position_ms=1_000 * end_s,
        position_at=now,
        duration_ms=DURATION_MS,
    )


def heartbeat(key: Key, seq: int) -> Report:
    """Heartbeat number `seq` of a player that sends one every 5 s, starting at a position of its own."""
    start = _place(key) + 5 * seq
    return report(f"s{_place(key)}", seq, start, start + 5)


async def commit(store: Store, keys: Iterable[Key], sittings: int = 1, length_s: int = 3_000) -> Committed:
    """Add a play of a minute to each record and, for each further sitting, one of a minute two minutes later.

    A second sitting repeats the last 20 s of the first, as people do. Returns the result of the last commit.
    """
    batch = Batch()
    committed = Committed("")
    for key in keys:
        start = _place(key, length_s)
        plays = [report(f"{start:016x}{i}", 1, start + 120 * i, start + 120 * i + 60) for i in range(sittings)]
        if sittings > 1:
            plays.append(report(f"{start:016x}1", 2, start + 40, start + 60))
        batch.deltas[key] = Delta(list(plays), [NOBODY])
        if len(batch.deltas) >= AT_ONCE:
            committed = await store.commit(batch, _now(), _alone)
            batch = Batch()
    return await store.commit(batch, _now(), _alone) if batch.deltas else committed


def keys(seed: int, learners: int, videos: int) -> list[Key]:
    """The key of each learner with each video."""
    ids = [video(seed, i) for i in range(videos)]
    return [(learner(seed, i), video_id) for i in range(learners) for video_id in ids]


def _place(key: Key, length_s: int = 3_000) -> int:
    """The position of a learner in a video, s."""
    return crc32(repr(key).encode()) % length_s


def _now() -> int:
    return time.time_ns() // 1_000_000


def _alone(user_id: str) -> bool:
    return True
