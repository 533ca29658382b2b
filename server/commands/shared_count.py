"""A count that the parent process keeps and its workers report in `/metrics`."""

from ctypes import c_uint64
from multiprocessing.sharedctypes import RawValue


class SharedCount:
    """A counter in shared memory: the parent process adds, and the processes that it spawns read."""

    def __init__(self) -> None:
        self._value = RawValue(c_uint64, 0)

    def add(self, more: int = 1) -> None:
        self._value.value += more

    def __call__(self) -> int:
        return self._value.value
