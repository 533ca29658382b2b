"""A count of the process that runs the workers, for the worker that is asked."""

from ctypes import c_uint64
from multiprocessing.sharedctypes import RawValue


class SharedCount:
    """One process adds; it and those that it spawns read. To others it can't be handed."""

    def __init__(self) -> None:
        self._value = RawValue(c_uint64, 0)

    def add(self, more: int = 1) -> None:
        self._value.value += more

    def __call__(self) -> int:
        return self._value.value
