"""Tests whose tools are missing are skipped, and the run says so; with CI set they fail."""

import shutil

import pytest

from tests.missing import program

NO_SUCH = "no-such-program"


def test_the_first_installed_program_is_chosen() -> None:
    assert program(NO_SUCH, "sh", "cat") == shutil.which("sh")


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_a_missing_program_skips_a_test_and_fails_it_with_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    """The message has the command that installs it."""
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match=rf"{NO_SUCH} or other is not installed \(apt-get install {NO_SUCH}\)"):
        program(NO_SUCH, "other")
