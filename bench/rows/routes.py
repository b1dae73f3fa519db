"""What finding one of many routes costs."""

from __future__ import annotations

from harness.bench import Bench
from harness.process import Server, first_answer
from harness.programs import NGINX, WRK
from harness.report import Line
from harness.wrk import saturate

from .row import Row

FEW = 10
MANY = 10_000


class RouteLookUp(Row):
    """Two processes that differ in the number of routes only; requests go to all of them."""

    key = "routes"
    needs = (NGINX, WRK)

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self.line = Line(f"CPU per request, {MANY:,} routes", "µs", f"{FEW} routes", 1.2, 1.0)
        self.lines = [self.line]
        self.servers: list[tuple[int, Server]] = []
        for routes in (MANY, FEW):
            server = bench.countersign("routes", bench.upstream(), 1, bench.cores.proxy, routes)
            first_answer(server, f"/plant/line-{routes - 1:05}/state")
            self.servers.append((routes, server))
            self.spent(routes, server, 1)

    def measure(self, turn: int) -> None:
        order = self.servers if turn % 2 == 0 else self.servers[::-1]
        spent = {routes: self.spent(routes, server, self.bench.seconds) for routes, server in order}
        self.line.add(spent[MANY], spent[FEW])

    def spent(self, routes: int, server: Server, seconds: int) -> float:
        run = saturate(server, self.bench.cores, seconds, script="routes.lua", arguments=[str(routes)])
        return run.cpu_per_request * 1e6
