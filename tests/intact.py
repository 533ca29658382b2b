"""Reads of a store in tests where no value is damaged."""

from typing import TypeVar

from playhead.storage.values.damage import Damaged

T = TypeVar("T")


def intact(value: T | Damaged) -> T:
    """Return the value, which must be readable."""
    assert not isinstance(value, Damaged), value
    return value
