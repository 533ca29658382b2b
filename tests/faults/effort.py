"""How thorough a run is: in full for `make faults`, or as short as `make test` can bear."""

from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Effort:
    short: bool

    def times(self, full: int, short: int) -> int:
        return short if self.short else full

    def either(self, full: T, short: T) -> T:
        return short if self.short else full
