"""What tests read of a store that has no damaged values."""

from typing import TypeVar

from playhead.storage.values.damage import Damaged

T = TypeVar("T")


def intact(value: T | Damaged) -> T:
    """The value, which must be readable."""
    assert not isinstance(value, Damaged), value
    return value
