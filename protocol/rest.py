"""Request and response bodies of the REST contract, with exactly the documented fields, and the envelope of players."""

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
    """The body of `POST /progress/update`, and of `POST /progress/realtime` in its documented form."""

    user_id: Id


class SyncBody(Message):
    """The body of `POST /progress/sync`."""

    user_id: Id
    progress_data: list[Item] = Field(max_length=MAX_ITEMS)


class Envelope(Message):
    """WebSocket heartbeats in a POST request, which players send when no socket is available and when they unload."""

    user_id: Id
    session: SessionId
    heartbeats: list[Any] = Field(min_length=1, max_length=MAX_ENVELOPE)
    """Validated one by one: an invalid one is rejected by its seq, and the others are accepted."""


def _zero_or_a_second(value: float) -> float:
    if 0 < value < 1:
        raise ValueError("should be 0, or 1 or more")
    return value


class VideoBody(Message):
    """A catalogue entry. A duration of 0 means unknown. No video is shorter than a second, the unit of records."""

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
    """The documented fields of a record."""

    user_id: str
    video_id: str
    watched_duration: int
    last_watched: InstantOut


class ItemOutcome(Message):
    """The result of one item of a sync.

    - stored: the item is part of the record.
    - capped: the item is stored, but its watchedDuration exceeded the duration in the catalogue and was cut to it.
    - deleted: the item was dropped, because its lastWatched is not later than the deletion of this progress.
    - failed: the item was dropped, because the stored record cannot be read.
    """

    index: int
    video_id: str
    outcome: Literal["stored", "capped", "deleted", "failed"]


class ProgressList(Message):
    """A learner's records. With detail=full it has `rev` and `epoch`, which the next request may send as `since` and
    `epoch`, and after a sync the outcome of each item, in the order of the request."""

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
    """The answer to an envelope: an ack for each session in it."""

    acks: list[Ack]


class Analytics(Summary):
    """A video's totals. `retention[i]` counts the viewers of second i, `replays[i]` those who played it again."""

    viewers: int
    completed: int
    watching_now: int
    retention: list[int]
    replays: list[int]


def item_view(video_id: str, record: Record, now: int) -> ItemView:
    """Return the documented fields of a record; `now` as for `record_view`."""
    return ItemView(video_id=video_id, watched_duration=record.watched, last_watched=min(record.last_watched, now))


def record_view(video_id: str, record: Record, now: int, user_id: str | None = None) -> RecordView:
    """Return all fields of a record that readers may see.

    Args:
        now: ms since 1970; a later instant was produced by a wrong clock, and `now` is shown instead.
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
