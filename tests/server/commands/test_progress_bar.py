"""The progress of a long command: redrawn in place on a terminal, and occasional lines in a file or a log."""

import os
import pty
from collections.abc import Iterator
from io import StringIO
from typing import TextIO

import pytest

from playhead.server.commands import progress_bar
from playhead.server.commands.progress_bar import BAR, ProgressBar

Terminal = tuple[TextIO, int]
"""A real terminal: the stream that is written to, and the descriptor that shows it."""


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    seen, own = pty.openpty()
    with os.fdopen(own, "w") as out:
        yield out, seen
    os.close(seen)


def drawn(terminal: Terminal) -> list[str]:
    """The texts after each clearing of the line."""
    out, seen = terminal
    out.write("\n")
    out.close()
    shown = b""
    while not shown.endswith(b"\n"):
        shown += os.read(seen, 65_536)
    return shown.decode().removesuffix("\r\n").split("\r\033[K")[1:]


def test_a_terminal_shows_one_growing_line(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next output begins on a clean line."""
    monkeypatch.setattr(progress_bar, "BAR_EVERY_S", 0.0)
    bar = ProgressBar(terminal[0])
    for part in (0.0, 0.5, 1.0):
        bar.show(part, f"{part * 40:.0f} records")
    bar.close()
    assert drawn(terminal) == [
        f"{'░' * BAR}   0% 0 records",
        f"{'█' * (BAR // 2)}{'░' * (BAR // 2)}  50% 20 records",
        f"{'█' * BAR} 100% 40 records",
        "",
    ]


def test_it_is_not_drawn_more_often_than_it_can_be_read(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_bar, "BAR_EVERY_S", 3_600.0)
    bar = ProgressBar(terminal[0])
    for n in range(10):
        bar.show(n / 10, "records")
    bar.close()
    assert drawn(terminal) == [f"{'░' * BAR}   0% records", ""]


def test_a_file_gets_whole_lines_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short command prints none."""
    out = StringIO()
    bar = ProgressBar(out)
    bar.show(0.5, "20 records")
    assert out.getvalue() == ""
    monkeypatch.setattr(progress_bar, "LINE_EVERY_S", 0.0)
    bar = ProgressBar(out)
    bar.show(0.5, "20 records")
    bar.close()
    assert out.getvalue() == "50% 20 records\n"
