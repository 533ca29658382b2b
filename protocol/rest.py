"""Bodies of the REST contract: the documented fields, exactly, and the players' fallback envelope."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from playhead.protocol.intervals import pairs
from playhead.protocol.messages import Ack, Message, RecordView
from playhead.protocol.record import Record
from playhead.protocol.scalars import Id, InstantIn, InstantOut, Seconds, SessionId, Title, WholeSeconds

MAX_ITEMS = 1_000
"""Most records in one sync."""
MAX_ENVELOPE = 500
"""Most heartbeats in one envelope."""


class Item(Message):
    """One record in a sync."""

    video_id: Id
    watched_duration: WholeSeconds
    last_watched: InstantIn


class Update(Item):
    """Body of update, and of realtime in its documented form."""

    user_id: Id


class SyncBody(Message):
    user_id: Id
    progress_data: list[Item] = Field(max_length=MAX_ITEMS)


class Envelope(Message):
    """The WebSocket's heartbeats by POST: what players send where no socket can be had, and as they unload."""

    user_id: Id
    session: SessionId
    heartbeats: list[Any] = Field(min_length=1, max_length=MAX_ENVELOPE)
    """Validated one by one: a bad one is rejected by its seq, the rest stands."""


def _zero_or_a_second(value: float) -> float:
    if 0 < value < 1:
        raise ValueError("should be 0, or 1 or more")
    return value


class VideoBody(Message):
    """A catalogue entry. A duration of 0 means not known; no video is shorter than the second that records count by."""

    title: Title
    duration: Annotated[Seconds, AfterValidator(_zero_or_a_second)]


class VideoView(Message):
    video_id: str
    title: str
    duration: float


class ItemView(Message):
    video_id: str
    watched_duration: int
    last_watched: InstantOut


class ProgressView(Message):
    """A record as documented."""

    user_id: str
    video_id: str
    watched_duration: int
    last_watched: InstantOut


class ItemOutcome(Message):
    """What became of one item of a sync.

    - stored: it is part of the record;
    - capped: so too, but its watchedDuration is beyond the video's duration in the catalogue and was cut;
    - deleted: dropped, for its lastWatched is not after the deletion of this progress;
    - failed: dropped, for the stored record can't be read.
    """

    index: int
    video_id: str
    outcome: Literal["stored", "capped", "deleted", "failed"]


class ProgressList(Message):
    """With detail=full, `rev` and `epoch`: what `since` and `epoch` of the next request may be; and of a sync, what
    became of each item, in the order of the request."""

    user_id: str
    progress_data: list[ItemView] | list[RecordView]
    outcomes: list[ItemOutcome] | None = None
    rev: int | None = None
    epoch: str | None = None


class Deleted(Message):
    message: Literal["Progress deleted successfully"] = "Progress deleted successfully"


class SessionsEnded(Message):
    message: Literal["Sessions ended successfully"] = "Sessions ended successfully"


class Summary(Message):
    video_id: str
    average_watched_duration: int
    completion_rate: float


class WatchedVideo(Message):
    video_id: str
    watched_duration: int


class Engagement(Message):
    user_id: str
    total_watched_duration: int
    most_watched_videos: list[WatchedVideo]


class Acks(Message):
    """Answer to an envelope: an ack for each session in it."""

    acks: list[Ack]


class Analytics(Summary):
    """A video's totals. `retention[i]`: viewers of second i; `replays[i]`: those who played it again."""

    viewers: int
    completed: int
    watching_now: int
    retention: list[int]
    replays: list[int]


def item_view(video_id: str, record: Record, now: int) -> ItemView:
    """The documented part of a record; `now` as for `record_view`."""
    return ItemView(video_id=video_id, watched_duration=record.watched, last_watched=min(record.last_watched, now))


def record_view(video_id: str, record: Record, now: int, user_id: str | None = None) -> RecordView:
    """All that readers may know of a record.

    Args:
        now: ms since 1970; a later instant was made by a clock that was wrong, and nobody is shown one.
    """
    if not record.exists:
        deleted_at = min(record.deleted_at, now)
        return RecordView(user_id=user_id, video_id=video_id, deleted_at=deleted_at, rev=record.rev)
    position = record.position
    return RecordView(
        user_id=user_id,
        video_id=video_id,
        watched_duration=record.watched,
        last_watched=min(record.last_watched, now),
        played_duration=record.played_ms / 1_000,
        position=None if position is None else position / 1_000,
        resume=record.resume_ms / 1_000,
        duration=record.duration_ms / 1_000 or None,
        completed=record.completed_at > 0,
        completed_at=min(record.completed_at, now) or None,
        seen=pairs(record.seen),
        again=pairs(record.again),
        rev=record.rev,
    )
