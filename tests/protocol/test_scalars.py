"""Instants in messages: any ISO 8601 time up to the year 9999, and what clients send for "never"."""

from typing import Any

import pytest
from pydantic import TypeAdapter

from playhead.protocol.scalars import EARLIEST, MAX_INSTANT, InstantIn, Title, format_instant, is_session, parse_instant

INSTANT: TypeAdapter[int] = TypeAdapter(InstantIn)
NEVER = [
    "1970-01-01T00:00:00Z",
    "1970-01-01",
    "1970-01-01T00:00:00",
    "1970-01-01T00:00:00.000+00:00",
    "1970-01-01T05:30:00+05:30",
    "1970-01-01T00:00:00+14:00",
    "1969-12-31T16:00:00-08:00",
    "1969-12-31T23:59:59.999Z",
    "1904-01-01T00:00:00Z",
    "1899-12-30T00:00:00",
    "1601-01-01T00:00:00Z",
    "0001-01-01T00:00:00",
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00+14:00",
    "0001-01-01T00:00:00-14:00",
    "0000-12-30T00:00:00Z",
    "0000-01-01T00:00:00Z",
    "0000-01-01T00:00:00+23:59",
    "0000-02-29",
]


@pytest.mark.parametrize("text", NEVER)
def test_an_instant_before_1970_is_reported_as_the_earliest(text: str) -> None:
    """It is later than "never" in a record, and earlier than any time of a clock."""
    assert INSTANT.validate_python(text, strict=True) == EARLIEST
    with pytest.raises(ValueError, match="before 1970"):
        parse_instant(text)  # which lines of an export use


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-01T00:00:00.001Z", 1),
        ("1970-01-01T00:00:00-00:01", 60_000),
        ("1969-12-31T23:59:59-01:00", 3_599_000),
        ("2024-02-29T10:00:00.5+02:00", 1_709_193_600_500),
        ("9999-12-31T23:59:59.999Z", MAX_INSTANT),
    ],
)
def test_any_other_instant_is_converted_exactly(text: str, ms: int) -> None:
    assert INSTANT.validate_python(text) == parse_instant(text) == parse_instant(format_instant(ms)) == ms


@pytest.mark.parametrize(
    "value", ["0000-00-00T00:00:00Z", "0000-02-30", "1969-02-29", "-0001-11-30T00:00:00Z", 0, None]
)
def test_text_that_is_no_instant_is_an_error_before_1970_too(value: Any) -> None:
    with pytest.raises(ValueError, match=r"ISO 8601|no such"):
        INSTANT.validate_python(value)


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59.9999Z", "9999-12-31T23:59:59-00:01"])
def test_instant_after_9999_in_utc_is_refused(text: str) -> None:
    """The first would round to the year 10000, the second lies in it."""
    with pytest.raises(ValueError, match=r"after 9999|no such date"):
        INSTANT.validate_python(text)


@pytest.mark.parametrize(
    ("name", "valid"),
    [("page-1_A", True), ("a" * 64, True), ("a" * 65, False), ("", False), ("a b", False), ("ä", False)],
)
def test_session_names_are_short_and_plain(name: str, valid: bool) -> None:
    assert is_session(name) is valid


def test_session_name_ends_where_the_text_ends() -> None:
    """`$` alone would accept a line break after the name."""
    assert not is_session("page\n")


@pytest.mark.parametrize("title", ["", " ", "\t\n", "\u3000", "x" * 301, None, 7])
def test_blank_or_long_title_is_refused(title: Any) -> None:
    with pytest.raises(ValueError, match=r"blank|at least 1|at most 300|valid string"):
        TypeAdapter(Title).validate_python(title, strict=True)


def test_title_stays_as_it_was_written() -> None:
    assert TypeAdapter(Title).validate_python("  Über die Zeit\x00 ") == "  Über die Zeit\x00 "
