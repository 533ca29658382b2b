"""A test that needs what the machine lacks skips and says so; where CI is set it fails."""

import shutil

import pytest

from tests.missing import program

NO_SUCH = "no-such-program"


def test_what_is_there_is_found_by_the_first_of_its_names_that_is() -> None:
    assert program(NO_SUCH, "sh", "cat") == shutil.which("sh")


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_what_is_missing_skips_a_test_and_fails_it_with_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    """With the command that installs it."""
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match=rf"{NO_SUCH} or other is not installed \(apt-get install {NO_SUCH}\)"):
        program(NO_SUCH, "other")
