"""The order of test files names only files that exist."""

from tests.schedule import LONGEST, TESTS


def test_each_file_of_the_schedule_exists() -> None:
    assert [name for name in LONGEST if not (TESTS / name).is_file()] == []
