"""Scalar types of messages and request bodies, with their bounds.

Validation is strict: an integer has to be a JSON integer (no string, bool or 12.0), and no value is repaired silently.
Bounds: 48 h of media, JavaScript's safe integers, instants up to the year 9999. An instant before 1970 counts as the
earliest one.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
)

MAX_MEDIA_S = 172_800
MAX_SEQ = 2**53 - 1
MAX_TOKEN = 8_192
"""Characters; a longer token is rejected without being parsed."""
MAX_AGE_MS = 366 * 86_400_000
"""How old a heartbeat may be when it is sent: a year."""
MAX_PLAYED = 512
"""Most intervals in one heartbeat."""
EARLIEST = 1
"""1970-01-01T00:00:00.001Z in ms; 0 means "never" in a record."""
MAX_INSTANT = 253_402_300_799_999
"""9999-12-31T23:59:59.999Z in ms."""
_ISO = re.compile(r"\d{4}-\d\d-\d\d([Tt ]\d\d:\d\d(:\d\d([.,]\d{1,9})?)?([Zz]|[+-]\d\d(:?\d\d)?)?)?", re.ASCII)


def parse_instant(value: Any) -> int:
    """Convert ISO 8601 text to ms since 1970. Text without an offset is UTC, a date alone means midnight.

    Raises:
        ValueError: not ISO 8601, no such date, before 1970, or after 9999 in UTC.
    """
    ms = _since_1970(value)
    if ms < EARLIEST:
        raise ValueError("should not be before 1970")
    return ms


def parse_reported_instant(value: Any) -> int:
    """Convert text like `parse_instant`, but an instant before 1970 to EARLIEST.

    Clients send the first instant of their calendar for "never", such as 1970-01-01, 0001-01-01 (.NET, Go) or year 0.
    """
    return max(EARLIEST, _since_1970(value))


def _since_1970(value: Any) -> int:
    """Convert text to ms since 1970; negative before 1970."""
    if not isinstance(value, str) or len(value) > 40 or not _ISO.fullmatch(value):
        raise ValueError("should be an ISO 8601 date and time such as 2026-11-23T10:00:00.000Z")
    try:
        # Python's calendar begins with year 1. Year 4 has the same days as year 0 and is before 1970 as well.
        moment = datetime.fromisoformat(re.sub("^0000", "0004", value.upper()))
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        ms = (moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1_000
    except (ValueError, OverflowError):
        raise ValueError("there is no such date and time") from None
    if round(ms) > MAX_INSTANT:
        raise ValueError("should not be after 9999")
    return round(ms)


def format_instant(ms: int) -> str:
    """Convert ms since 1970 to text such as 2026-11-23T10:00:00.000Z."""
    return datetime.fromtimestamp(ms // 1_000, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{ms % 1_000:03d}Z"


def is_session(name: str) -> bool:
    """Whether `name` is a valid SessionId."""
    return re.fullmatch(_SESSION, name) is not None


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("should not be blank")
    return value


_DATE_TIME = WithJsonSchema({"type": "string", "format": "date-time"})
_UUID = r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"
_SESSION = r"^[A-Za-z0-9_-]{1,64}$"
_DEVICE = r"^[A-Za-z0-9 ._:-]{1,64}$"
PATTERNS = {
    _UUID: "should be a UUID",
    _SESSION: "should be 1 to 64 letters, digits, _ or -",
    _DEVICE: "should be 1 to 64 letters, digits, spaces or . _ : -",
}
"""Error messages by pattern."""

Id = Annotated[str, StringConstraints(pattern=_UUID, to_lower=True), Field(json_schema_extra={"format": "uuid"})]
"""A UUID, accepted in any case and converted to lower case."""
SessionId = Annotated[str, StringConstraints(pattern=_SESSION)]
"""Identifies one page load of a player, which chooses it."""
DeviceId = Annotated[str, StringConstraints(pattern=_DEVICE)]
Token = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TOKEN)]
"""A JSON Web Token."""
Seq = Annotated[int, Field(ge=1, le=MAX_SEQ)]
Rev = Annotated[int, Field(ge=0, le=MAX_SEQ)]
WholeSeconds = Annotated[int, Field(ge=0, le=MAX_MEDIA_S)]
Seconds = Annotated[float, Field(ge=0, le=MAX_MEDIA_S, allow_inf_nan=False)]
"""Media time or a duration; integers are accepted too."""
AgeMs = Annotated[float, Field(ge=0, le=MAX_AGE_MS, allow_inf_nan=False)]
SpanMs = Annotated[float, Field(ge=0, le=MAX_MEDIA_S * 1_000, allow_inf_nan=False)]
Interval = Annotated[tuple[Seconds, Seconds], Field(strict=False)]
"""[from, to) in media time; not strict, so that a list is accepted as a tuple."""
InstantIn = Annotated[int, BeforeValidator(parse_reported_instant), _DATE_TIME]
"""ISO 8601 text on the wire, ms since 1970 in the model; at least EARLIEST."""
InstantOut = Annotated[int, PlainSerializer(format_instant, return_type=str), _DATE_TIME]
"""ms since 1970 in the model, ISO 8601 text in UTC on the wire."""
Title = Annotated[str, StringConstraints(min_length=1, max_length=300), AfterValidator(_not_blank)]
