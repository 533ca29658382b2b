"""The check of the SDK's types when npm fails: it retries a few times, then reports npm's output."""

import os
from pathlib import Path

import pytest

from tests.browser import check_types

TSC = "#!/bin/sh\necho 'Version 7'\n"
NPM = """#!/bin/sh
echo attempt >> "{calls}"
[ "$(wc -l < "{calls}")" -gt {failures} ] || {{ {fail}; }}
while [ "$1" != --prefix ]; do shift; done
mkdir -p "$2/node_modules/.bin" && cp "{tsc}" "$2/node_modules/.bin/tsc"
"""
LOUD = "echo 'npm error code E503, the registry is busy' >&2; exit 7"
HALF = "exit 0"
"""It exits with 0 and has installed nothing."""


class Npm:
    """An npm on the PATH that fails a number of times before it works."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._calls = folder / "calls"

    def fails(self, times: int, how: str = LOUD, tsc: str = TSC) -> None:
        (self._folder / "tsc").write_text(tsc)
        (self._folder / "tsc").chmod(0o755)
        names = {"calls": self._calls, "failures": times, "fail": how, "tsc": self._folder / "tsc"}
        (self._folder / "npm").write_text(NPM.format(**names))
        (self._folder / "npm").chmod(0o755)

    @property
    def calls(self) -> int:
        return len(self._calls.read_text().splitlines()) if self._calls.exists() else 0


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Npm:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(check_types, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(check_types, "INSTALL_AGAIN_S", 0)
    return Npm(tmp_path / "bin")


@pytest.mark.parametrize("how", [LOUD, HALF])
def test_a_failed_install_is_retried(npm: Npm, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    npm.fails(1, how)
    assert check_types.compiler().read_text() == TSC
    assert npm.calls == 2
    assert "attempt 1 of 3" in capsys.readouterr().err
    check_types.compiler()
    assert npm.calls == 2, "it is there now"


def test_an_install_that_keeps_failing_reports_the_output_of_npm(npm: Npm, capsys: pytest.CaptureFixture[str]) -> None:
    """The report has the command, its exit code and its stderr, and not the word None."""
    npm.fails(1_000)
    assert check_types.main() == 1
    said = capsys.readouterr().err
    assert npm.calls == check_types.INSTALL_ATTEMPTS
    assert "None" not in said
    for words in ("npm install", "ended with 7", "E503, the registry is busy"):
        assert words in said


def test_a_compiler_that_does_not_run_is_not_kept(npm: Npm) -> None:
    """npm exits with 0 even when it left out an optional package, such as the binary for this platform."""
    npm.fails(0, tsc="#!/bin/sh\necho 'no binary for this platform' >&2; exit 1\n")
    with pytest.raises(check_types.Failed, match="no binary for this platform"):
        check_types.compiler()
    npm.fails(0)
    assert check_types.compiler().read_text() == TSC


def test_a_program_that_hangs_is_killed(npm: Npm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its output until then is reported."""
    monkeypatch.setattr(check_types, "NPM_WITHIN_S", 0.5)
    monkeypatch.setattr(check_types, "INSTALL_ATTEMPTS", 1)
    npm.fails(1_000, "echo 'waiting for the registry' >&2; exec sleep 60")
    with pytest.raises(check_types.Failed, match=r"(?s)has not ended within 0\.5 s.*waiting for the registry"):
        check_types.compiler()
