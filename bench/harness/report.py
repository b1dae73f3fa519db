"""From samples to the table and the JSON file."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Optional


@dataclass
class Line:
    """One line of the table: samples, and what they have to reach.

    With `against` the figure is the ratio of each pair of samples, else the sample itself in `unit`. The
    median counts.
    """

    what: str
    unit: str
    against: str = ""
    bar: Optional[float] = None
    goal: Optional[float] = None
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)

    def add(self, ours: float, theirs: Optional[float] = None) -> None:
        self.ours.append(ours)
        if theirs is not None:
            self.theirs.append(theirs)

    def figures(self) -> list[float]:
        if not self.against:
            return self.ours
        return [ours / theirs for ours, theirs in zip(self.ours, self.theirs)]

    def verdict(self) -> str:
        if self.bar is None or self.goal is None:
            return ""
        # What is printed is what is judged: 1.004 is 1.00.
        figure = round(median(self.figures()), 2)
        if figure <= self.goal:
            return "goal met"
        return "bar met" if figure <= self.bar else "missed"

    def cells(self) -> list[str]:
        figures = self.figures()
        unit = "" if self.against else f" {self.unit}"
        limits = ["" if limit is None else f"<= {limit:g}{unit}" for limit in (self.bar, self.goal)]
        if self.against:
            counted = f"{median(figures):.2f}"
            theirs = f"{median(self.theirs):.2f} {self.unit}"
        else:
            counted = theirs = ""
        spread = f"{min(figures):.2f} to {max(figures):.2f}" if len(figures) > 1 else ""
        ours = f"{median(self.ours):.2f} {self.unit}"
        return [self.what, ours, self.against, theirs, counted, spread, *limits, self.verdict()]

    def json(self) -> dict[str, object]:
        return {
            "what": self.what,
            "unit": self.unit,
            "against": self.against or None,
            "countersign": self.ours,
            "other": self.theirs,
            "figure": median(self.figures()),
            "bar": self.bar,
            "goal": self.goal,
            "verdict": self.verdict() or None,
        }


HEAD = ["what", "countersign", "against", "which has", "ratio", "least to most", "bar", "goal", "result"]


def table(lines: list[Line]) -> str:
    rows = [HEAD, *(line.cells() for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows
    )
