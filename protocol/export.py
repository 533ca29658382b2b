"""The lines of an export. Each is a JSON object with everything stored about a record, a video or an ended session.

The first line is the header, the last one the end. An unknown field is an error, because ignoring it would lose data
silently. Media times are seconds with ms precision, instants are ISO 8601 in UTC. Revisions are not exported: the store
that imports a record assigns its own.
"""

from operator import lt
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from playhead.protocol.codecs import read_json
from playhead.protocol.errors import FrameError
from playhead.protocol.intervals import MAX_INTERVALS, pairs
from playhead.protocol.messages import Message, field_errors
from playhead.protocol.record import ABSENT, MAX_SESSIONS, SETTLE_MS, Guard, Record
from playhead.protocol.scalars import (
    MAX_MEDIA_S,
    MAX_SEQ,
    Id,
    Seconds,
    Seq,
    SessionId,
    Title,
    WholeSeconds,
    format_instant,
    is_session,
    parse_instant,
)

MAX_LINE = 1_048_576
"""Bytes; the largest record needs a tenth of it."""


def _sorted(value: list[tuple[int, int]]) -> list[tuple[int, int]]:
    flat = [edge for pair in value for edge in pair]
    if not all(map(lt, flat, flat[1:])):
        raise ValueError("should be sorted intervals that don't touch")
    return value


Instant = Annotated[int, BeforeValidator(parse_instant), PlainSerializer(format_instant, return_type=str)]
Ms = Annotated[Seconds, AfterValidator(lambda seconds: round(seconds * 1_000)), PlainSerializer(lambda ms: ms / 1_000)]
"""Seconds in the line, whole ms in the model."""
Played = Annotated[float, Field(ge=0, le=MAX_SEQ // 1_000, allow_inf_nan=False)]
PlayedMs = Annotated[Played, AfterValidator(lambda s: round(s * 1_000)), PlainSerializer(lambda ms: ms / 1_000)]
Second = Annotated[int, Field(ge=0, le=MAX_MEDIA_S)]
Intervals = Annotated[
    list[Annotated[tuple[Second, Second], Field(strict=False)]],
    Field(max_length=MAX_INTERVALS),
    AfterValidator(_sorted),
]


class Line(Message):
    model_config = ConfigDict(extra="forbid")


class HeaderLine(Line):
    type: Literal["playhead export"] = "playhead export"
    version: Literal[1] = 1
    exported_at: Instant
    epoch: str = Field(max_length=64)
    """The epoch of the exported store."""


class VideoLine(Line):
    """A catalogue entry; a duration of 0 means unknown."""

    type: Literal["video"] = "video"
    video_id: Id
    title: Title
    duration: Ms


class EndedLine(Line):
    """A user whose sessions were ended."""

    type: Literal["ended"] = "ended"
    user_id: Id
    at: Instant

    def later_than(self, now: int) -> list[str]:
        """The fields whose instant is later than `now`, ms since 1970."""
        return ["at"] if self.at > now else []


class PositionLine(Line):
    at: Instant
    seconds: Ms


class SessionLine(Line):
    """What the record remembers about a session, so that a repeated play is not counted twice."""

    session: SessionId
    seq: Seq
    at: Instant
    settled: Ms
    """Played so far, at most SETTLE_MS."""
    buried: Annotated[int, Field(ge=0, le=MAX_SEQ)] = 0
    """Reports up to this seq were deleted."""


class RecordLine(Line):
    """The record of one learner and one video. Without `lastWatched` it is a tombstone."""

    type: Literal["record"] = "record"
    user_id: Id
    video_id: Id
    deleted_at: Instant | None = None
    last_watched: Instant | None = None
    completed_at: Instant | None = None
    claimed: WholeSeconds = 0
    played_duration: PlayedMs = 0
    duration: Ms = 0
    position: PositionLine | None = None
    stray_position: PositionLine | None = None
    """The position of sessions that have not settled (`Record.unsettled_ms`)."""
    seen: Intervals = Field(default_factory=list)
    again: Intervals = Field(default_factory=list)
    sessions: Annotated[list[SessionLine], Field(max_length=MAX_SESSIONS)] = Field(default_factory=list)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.last_watched is None:
            if self.deleted_at is None:
                raise ValueError("lastWatched should be given, or deletedAt")
            given = self.model_fields_set - {"type", "user_id", "video_id", "deleted_at", "sessions", "last_watched"}
            if any(getattr(self, name) for name in given):
                raise ValueError("lastWatched should be given: only a deleted record has none")
        elif self.deleted_at is not None and self.last_watched <= self.deleted_at:
            raise ValueError("lastWatched should be after deletedAt")
        if len({guard.session for guard in self.sessions}) < len(self.sessions):
            raise ValueError("sessions should name each session once")
        return self

    def record(self) -> Record:
        position, stray = self.position, self.stray_position
        guards = [Guard(g.session, g.seq, g.at, min(int(g.settled), SETTLE_MS), g.buried) for g in self.sessions]
        return Record(
            deleted_at=self.deleted_at or 0,
            last_watched=self.last_watched or 0,
            claimed=self.claimed,
            played_ms=int(self.played_duration),
            duration_ms=int(self.duration),
            completed_at=self.completed_at or 0,
            position_ms=int(position.seconds) if position else ABSENT,
            position_at=position.at if position else 0,
            unsettled_ms=int(stray.seconds) if stray else ABSENT,
            unsettled_at=stray.at if stray else 0,
            seen=[edge for pair in self.seen for edge in pair],
            again=[edge for pair in self.again for edge in pair],
            guards=sorted(guards, key=lambda guard: (guard.at, guard.session)),
        )

    def later_than(self, now: int) -> list[str]:
        """The fields whose instant is later than `now`, ms since 1970."""
        fields = {
            "deletedAt": self.deleted_at,
            "lastWatched": self.last_watched,
            "completedAt": self.completed_at,
            "position/at": self.position.at if self.position else None,
            "strayPosition/at": self.stray_position.at if self.stray_position else None,
        }
        fields |= {f"sessions/{place}/at": session.at for place, session in enumerate(self.sessions)}
        return [name for name, at in fields.items() if at is not None and at > now]


class EndLine(Line):
    """How many lines of each kind the export has."""

    type: Literal["end"] = "end"
    videos: int
    ended: int
    records: int


AnyLine = HeaderLine | VideoLine | EndedLine | RecordLine | EndLine
TYPES: tuple[str, ...] = tuple(model.model_fields["type"].default for model in get_args(AnyLine))
_lines: TypeAdapter[AnyLine] = TypeAdapter(Annotated[AnyLine, Field(discriminator="type")])


def record_line(user_id: str, video_id: str, record: Record) -> bytes:
    """Format the line of a record without fields that it does not have; shorter than MAX_LINE, without a line break."""

    def position(at: int, ms: int) -> PositionLine | None:
        return PositionLine.model_construct(at=at, seconds=ms) if ms != ABSENT else None

    line = RecordLine.model_construct(
        user_id=user_id,
        video_id=video_id,
        deleted_at=record.deleted_at or None,
        last_watched=record.last_watched or None,
        completed_at=record.completed_at or None,
        claimed=record.claimed,
        played_duration=record.played_ms,
        duration=record.duration_ms,
        position=position(record.position_at, record.position_ms),
        stray_position=position(record.unsettled_at, record.unsettled_ms),
        seen=pairs(record.seen),
        again=pairs(record.again),
        sessions=[
            SessionLine.model_construct(session=g.session, seq=g.seq, at=g.at, settled=g.settle_ms, buried=g.buried)
            for g in record.guards
            if is_session(g.session)  # no player uses another name, so no repeat can be counted twice
        ],
    )
    return write_line(line)


def write_line(line: AnyLine) -> bytes:
    written = line.model_dump_json(by_alias=True, exclude_none=True)
    return written.encode()


def read_line(text: bytes) -> AnyLine:
    """Parse a line.

    Raises:
        ValueError: what is wrong, by the name of the field; the message contains no value of the line.
    """
    if len(text) > MAX_LINE:
        raise ValueError(f"should have at most {MAX_LINE} bytes")
    try:
        tree: Any = read_json(text)
    except FrameError as error:
        raise ValueError(str(error)) from None
    if not isinstance(tree, dict):
        raise ValueError("should be a JSON object")
    if tree.get("type") not in TYPES:
        raise ValueError(f"type: should be one of {', '.join(TYPES)}")
    try:
        return _lines.validate_python(tree, by_alias=True, by_name=False)
    except ValidationError as error:
        found = (f"{e.pointer.strip('/')}: {e.detail}".removeprefix(": ") for e in field_errors(error, skip=1))
        raise ValueError("; ".join(found)) from None
