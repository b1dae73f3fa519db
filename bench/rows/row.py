"""What every row has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Optional, Sequence

from harness.bench import Bench
from harness.programs import Program
from harness.report import Line


class Row(ABC):
    """A measurement that is taken once per round. Making one starts what it needs for the whole run."""

    key: ClassVar[str]
    needs: ClassVar[Sequence[Program]] = ()
    # Some take long and hardly vary.
    most_rounds: ClassVar[Optional[int]] = None

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.lines: list[Line] = []

    @abstractmethod
    def measure(self, turn: int) -> None:
        """Takes one sample for each line. `turn` counts the rounds from 0."""
