"""The progress of a long command: a line that is redrawn on a terminal, and occasional lines elsewhere."""

import time
from typing import TextIO

LINE_EVERY_S = 5.0
BAR_EVERY_S = 0.1
BAR = 24


class ProgressBar:
    """A progress bar.

    Args:
        out: usually stderr, because stdout is for results.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._terminal = out.isatty()
        self._next = time.monotonic() + (0 if self._terminal else LINE_EVERY_S)

    def show(self, part: float, sentence: str) -> None:
        """Draw the bar at `part` of 1, unless it was drawn a moment ago."""
        if (now := time.monotonic()) < self._next:
            return
        self._next = now + (BAR_EVERY_S if self._terminal else LINE_EVERY_S)
        if self._terminal:
            done = round(part * BAR)
            self._out.write(f"\r\033[K{'█' * done}{'░' * (BAR - done)} {part:4.0%} {sentence}")
            self._out.flush()
        else:
            print(f"{part:.0%} {sentence}", file=self._out, flush=True)

    def close(self) -> None:
        """Remove the bar."""
        if self._terminal:
            self._out.write("\r\033[K")
            self._out.flush()
