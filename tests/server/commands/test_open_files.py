"""The limit of open files: raised as far as possible, with a warning at startup if that is not enough."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from playhead.server.commands.open_files import needed
from playhead.server.settings import Settings
from tests.ports import free_port
from tests.rest import ok, rest
from tests.server.program import descendants, serve

SMALL = {"PLAYHEAD_MAX_CONNECTIONS": "100", "PLAYHEAD_MAX_NEWCOMERS": "50"}
NEEDED = needed(Settings(max_connections=100, max_newcomers=50))


def limited(soft: int, hard: int) -> Sequence[str]:
    """A command prefix that sets limits as a shell, a systemd unit or a container does."""
    return ("sh", "-c", f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$@"', "sh")


def limit(pid: int) -> tuple[str, str]:
    (line,) = (
        line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if line.startswith("Max open files")
    )
    soft, hard = line.split()[3:5]
    return soft, hard


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_limit_that_can_be_raised_is_raised_silently(tmp_path: Path, workers: int) -> None:
    """It is raised for the program and so for its workers."""
    options = ("--workers", str(workers), "--data-dir", str(tmp_path))
    async with serve(free_port(), *options, through=limited(256, NEEDED), **SMALL) as running:
        assert limit(running.process.pid) == (str(NEEDED), str(NEEDED))
        for pid in descendants(running.process.pid):
            assert limit(pid)[0] == str(NEEDED)
        assert running.log is not None
        assert "open files" not in running.log.text


@pytest.mark.parametrize(
    ("hard", "remedy"),
    [(NEEDED - 1, "set max_connections to 99 or less"), (300, "lower max_connections and max_newcomers")],
)
async def test_a_limit_that_stays_too_low_is_logged_with_numbers_and_a_remedy(
    tmp_path: Path, hard: int, remedy: str
) -> None:
    """It is one line, and the service runs nevertheless."""
    async with serve(free_port(), "--data-dir", str(tmp_path), through=limited(256, hard), **SMALL) as running:
        assert limit(running.process.pid) == (str(hard), str(hard))
        assert running.log is not None
        (line,) = (line for line in running.log.text.splitlines() if "open files" in line)
        said = (
            f"is {hard} ",
            "max_connections 100",
            "max_newcomers 50",
            f"need {NEEDED}",
            f"LimitNOFILE={NEEDED}",
            remedy,
        )
        assert [words for words in said if words not in line] == []
        async with rest(running.running) as api:
            ok(await api.get("/readyz"))
