"""The wire's scalar types: what is taken, and within which bounds.

Strict by design: an integer is a JSON integer (no string, no bool, no 12.0), and nothing is repaired silently.
Bounds: 48 h of media, JavaScript's safe integers, instants to 9999; those before 1970 count as the earliest.
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
"""Characters of a token; a longer one is refused unread."""
MAX_AGE_MS = 366 * 86_400_000
"""How long a player may hold a heartbeat back: a year."""
MAX_PLAYED = 512
"""Most intervals in one heartbeat."""
EARLIEST = 1
"""1970-01-01T00:00:00.001Z, ms: in a record, 0 means never."""
MAX_INSTANT = 253_402_300_799_999
"""9999-12-31T23:59:59.999Z, ms."""
_ISO = re.compile(r"\d{4}-\d\d-\d\d([Tt ]\d\d:\d\d(:\d\d([.,]\d{1,9})?)?([Zz]|[+-]\d\d(:?\d\d)?)?)?", re.ASCII)


def parse_instant(value: Any) -> int:
    """ISO 8601 text → ms since 1970. No offset means UTC; a date alone is its midnight, UTC.

    Raises:
        ValueError: not ISO 8601, no such date, before 1970, or in UTC after 9999.
    """
    ms = _since_1970(value)
    if ms < EARLIEST:
        raise ValueError("should not be before 1970")
    return ms


def parse_reported_instant(value: Any) -> int:
    """As `parse_instant`, but an instant before 1970 is the earliest: clients send the first of their calendar for
    "never", such as 1970-01-01, 0001-01-01 (.NET, Go) or the year 0."""
    return max(EARLIEST, _since_1970(value))


def _since_1970(value: Any) -> int:
    """ms, below zero before 1970."""
    if not isinstance(value, str) or len(value) > 40 or not _ISO.fullmatch(value):
        raise ValueError("should be an ISO 8601 date and time such as 2026-11-23T10:00:00.000Z")
    try:
        # Python's calendar begins with year 1; year 0 has the days of year 4, and lies before 1970 just so.
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
    """ms since 1970 → 2026-11-23T10:00:00.000Z."""
    return datetime.fromtimestamp(ms // 1_000, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{ms % 1_000:03d}Z"


def is_session(name: str) -> bool:
    """Whether it is a SessionId."""
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
"""What each pattern asks for, in words."""

Id = Annotated[str, StringConstraints(pattern=_UUID, to_lower=True), Field(json_schema_extra={"format": "uuid"})]
"""A UUID, any case in, lower case out."""
SessionId = Annotated[str, StringConstraints(pattern=_SESSION)]
"""One player page load, chosen by the player."""
DeviceId = Annotated[str, StringConstraints(pattern=_DEVICE)]
Token = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TOKEN)]
"""A JSON Web Token."""
Seq = Annotated[int, Field(ge=1, le=MAX_SEQ)]
Rev = Annotated[int, Field(ge=0, le=MAX_SEQ)]
WholeSeconds = Annotated[int, Field(ge=0, le=MAX_MEDIA_S)]
Seconds = Annotated[float, Field(ge=0, le=MAX_MEDIA_S, allow_inf_nan=False)]
"""Media time or a duration; an integer will do."""
AgeMs = Annotated[float, Field(ge=0, le=MAX_AGE_MS, allow_inf_nan=False)]
SpanMs = Annotated[float, Field(ge=0, le=MAX_MEDIA_S * 1_000, allow_inf_nan=False)]
Interval = Annotated[tuple[Seconds, Seconds], Field(strict=False)]
"""[from, to) of media time; not strict only so that a list passes for the tuple."""
InstantIn = Annotated[int, BeforeValidator(parse_reported_instant), _DATE_TIME]
"""ISO 8601 text in; ms since 1970 in the model, EARLIEST for what is before it."""
InstantOut = Annotated[int, PlainSerializer(format_instant, return_type=str), _DATE_TIME]
"""ms since 1970 in the model; ISO 8601 text, UTC, on the wire."""
Title = Annotated[str, StringConstraints(min_length=1, max_length=300), AfterValidator(_not_blank)]
