"""Latency at half of what nginx can do, against nginx."""

from __future__ import annotations

from statistics import median

from harness.bench import Bench
from harness.programs import H2LOAD, NGINX, WRK
from harness.report import Line
from harness.steady import steady
from harness.wrk import saturate

from .row import Row

# Share of the wanted load that has to be answered.
ENOUGH = 0.95


class Latency(Row):
    """Both at one rate, which is found once, at the start."""

    key = "latency"
    needs = (NGINX, WRK, H2LOAD)

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self.p50 = Line("p50 latency at half of nginx's saturation", "µs", "nginx")
        self.p99 = Line("p99 latency at half of nginx's saturation", "µs", "nginx", 1.2, 1.0)
        self.lines = [self.p50, self.p99]
        self.servers = [bench.token_proxy(), bench.peer(NGINX)]
        saturate(self.servers[1], bench.cores, 1)
        tops = [saturate(self.servers[1], bench.cores, bench.seconds).per_second for _ in range(3)]
        self.rate = median(tops) / 2
        bench.note(f"Latency was measured at {self.rate:.0f} requests per second.")

    def measure(self, turn: int) -> None:
        order = self.servers if turn % 2 == 0 else self.servers[::-1]
        taken = {
            server.pid: steady(server, self.bench.cores, self.rate, self.bench.seconds) for server in order
        }
        ours, theirs = (taken[server.pid] for server in self.servers)
        if theirs.load < ENOUGH:
            # nginx can do twice as much: it was the machine that could not.
            self.bench.note("Latency: rounds in which the machine was too busy for the load do not count.")
            return
        if ours.load < ENOUGH:
            self.bench.note("Latency: in some rounds countersign did not answer all of the load.")
        self.p50.add(ours.p50 * 1e6, theirs.p50 * 1e6)
        self.p99.add(ours.p99 * 1e6, theirs.p99 * 1e6)
