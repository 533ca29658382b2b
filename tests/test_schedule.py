"""The tables of test files name only files that exist."""

from tests.measured import OTHER_STORES, UNMEASURED
from tests.schedule import LONGEST, TESTS


def test_each_named_file_exists() -> None:
    named = (*LONGEST, *UNMEASURED, *OTHER_STORES)
    assert [name for name in named if not (TESTS / name).exists()] == []
