"""How long a run of the bench may take, as its command line says."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    quick: bool = False

    @property
    def turns(self) -> int:
        """Of each that is compared, interleaved."""
        return 1 if self.quick else 3

    @property
    def side_turns(self) -> int:
        """Of what is cheap to run twice."""
        return 1 if self.quick else 2

    @property
    def window_s(self) -> float:
        return 2.0 if self.quick else 3.0
