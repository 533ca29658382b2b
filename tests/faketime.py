"""A wall clock that a test can set, for processes that are started with it: Debian's libfaketime.

Only the wall clock is replaced. The monotonic clock stays real, as on a machine whose clock is set.
"""

from pathlib import Path

LIBRARY = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
WITHOUT = "libfaketime is not installed (apt-get install faketime)"


class WallClock:
    """The wall clock of one machine.

    Args:
        file: holds the offset; the processes read it at each reading of the clock.
    """

    def __init__(self, file: Path, offset_s: int = 0) -> None:
        self._file = file
        self.set(offset_s)

    def set(self, offset_s: int) -> None:
        """Set how far it is ahead of the real time. The file is replaced, because processes read it at any moment."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{offset_s:+d}s\n")
        new.replace(self._file)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a process that uses this clock, and of its children.

        The C library is preloaded too, ahead of jemalloc, which Debian's redis-server links: jemalloc reads the clock
        before libfaketime is ready.
        """
        return {
            "LD_PRELOAD": f"{LIBRARY} libc.so.6",
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "PYTHONPATH": str(Path(__file__).with_name("faked_sleep")),
        }
