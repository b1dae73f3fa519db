"""Figures, what they have to reach, and the table of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Optional

COLUMNS = ["phase", "what", "figure", "bar", "goal", "result"]


@dataclass(frozen=True)
class Figure:
    """One figure. It may be at most `bar`, and should be at most `goal`."""

    phase: str
    what: str
    value: float
    unit: str = ""
    bar: Optional[float] = None
    goal: Optional[float] = None
    # A slow or busy machine is no fault of the program.
    by_speed: bool = False

    @property
    def result(self) -> str:
        if self.bar is None:
            return ""
        if self.value > self.bar:
            return "missed (machine?)" if self.by_speed else "MISSED"
        if self.goal is None:
            return "met"
        return "goal met" if self.value <= self.goal else "bar met"

    @property
    def failed(self) -> bool:
        return self.result == "MISSED"

    def cells(self) -> list[str]:
        limits = ["" if limit is None else f"<= {number(limit)}" for limit in (self.bar, self.goal)]
        figure = f"{number(self.value)} {self.unit}".rstrip()
        return [self.phase, self.what, figure, *limits, self.result]

    def json(self) -> dict[str, object]:
        return {**asdict(self), "result": self.result}


def number(value: float) -> str:
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.3f}" if abs(value) < 10 else f"{value:,.1f}"


def table(figures: list[Figure]) -> str:
    rows = [COLUMNS, *(figure.cells() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)
