"""From starting the program to its first answer, with many routes."""

from __future__ import annotations

from harness.bench import Bench
from harness.process import first_answer
from harness.programs import NGINX
from harness.report import Line

from .row import Row

ROUTES = 1000


class Start(Row):
    """Counted from before the process is made, to the answer of the upstream through the last route."""

    key = "start"
    needs = (NGINX,)

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self.line = Line("start to first answer, 1,000 routes", "ms", bar=100, goal=20)
        self.lines = [self.line]
        bench.upstream()

    def measure(self, turn: int) -> None:
        bench = self.bench
        server = bench.countersign("routes", bench.upstream(), len(bench.cores.all), bench.cores.all, ROUTES)
        try:
            self.line.add(first_answer(server, f"/plant/line-{ROUTES - 1:05}/state") * 1e3)
        finally:
            bench.processes.stop(server)
