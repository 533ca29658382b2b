"""How thorough a run of the bench is, by its command line."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    quick: bool = False

    @property
    def turns(self) -> int:
        """Turns of each compared server, interleaved."""
        return 1 if self.quick else 3

    @property
    def side_turns(self) -> int:
        """Turns of measurements that are cheap to repeat."""
        return 1 if self.quick else 2

    @property
    def window_s(self) -> float:
        return 2.0 if self.quick else 3.0
