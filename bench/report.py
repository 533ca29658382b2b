"""Rows of the result tables: a measured value, its spread over the turns, and its target if it has one."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Row:
    """One row. `values` has one value per turn; the row shows the median, the least and the most."""

    what: str
    values: Sequence[float]
    unit: str = ""
    at_most: float | None = None
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def verdict(self) -> str:
        if self.at_most is None or not self.values:
            return ""
        return "met" if self.median <= self.at_most else "**not met**"

    def cells(self) -> list[str]:
        if not self.values:
            return [self.what, "not measured", "", "", "", self.note]
        spread = f"{_number(min(self.values))} – {_number(max(self.values))}" if len(self.values) > 1 else ""
        target = "" if self.at_most is None else f"≤ {_number(self.at_most)}"
        return [self.what, f"{_number(self.median)} {self.unit}".strip(), spread, target, self.verdict, self.note]


@dataclass(slots=True)
class Section:
    """The results of one case."""

    title: str
    rows: list[Row] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    """How it was measured, and what limits the result."""


HEAD = ["what", "median", "least – most", "target", "", "note"]


def markdown(section: Section) -> str:
    table = [HEAD, ["---"] * len(HEAD), *(row.cells() for row in section.rows)]
    lines = [f"## {section.title}", "", *("| " + " | ".join(cells) + " |" for cells in table)]
    return "\n".join([*lines, "", *(f"{remark}\n" for remark in section.remarks)])


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ratios turn by turn, so that whatever slowed the machine in a turn affected both."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True) if other]


def _number(value: float) -> str:
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
