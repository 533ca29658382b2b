"""A machine's wall clock as a test wants it, for processes that are started with it: Debian's libfaketime.

It stands in for the wall clock alone. The monotonic clock stays the real one, as on a machine whose clock is set.
"""

from pathlib import Path

LIBRARY = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
WITHOUT = "libfaketime is not installed (apt-get install faketime)"


class WallClock:
    """One machine's.

    Args:
        file: where the processes look, at each reading, how far they are off.
    """

    def __init__(self, file: Path, offset_s: int = 0) -> None:
        self._file = file
        self.set(offset_s)

    def set(self, offset_s: int) -> None:
        """So far ahead of the real time from now on; whole at each moment, for somebody is always reading."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{offset_s:+d}s\n")
        new.replace(self._file)

    @property
    def environment(self) -> dict[str, str]:
        """Of a process that goes by it, and of its children.

        The C library stands before jemalloc, which Debian's redis-server brings along: that reads the clock before
        libfaketime can have it read.
        """
        return {
            "LD_PRELOAD": f"{LIBRARY} libc.so.6",
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "PYTHONPATH": str(Path(__file__).with_name("faked_sleep")),
        }
