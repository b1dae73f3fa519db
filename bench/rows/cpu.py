"""Processor time per request, adding a token, against every peer."""

from __future__ import annotations

from harness.bench import Bench
from harness.process import Server
from harness.programs import NGINX, PEERS, WRK
from harness.report import Line
from harness.wrk import saturate

from .row import Row

# Bar and goal for each.
LIMITS = {
    "nginx": (1.20, 1.00),
    "HAProxy": (1.15, 0.95),
    "Envoy": (0.40, 0.30),
    "Envoy tuned": (0.40, 0.30),
    "Caddy": (0.20, 0.15),
    "Caddy tuned": (0.20, 0.15),
}


class TokenCpu(Row):
    """Every proxy in turn, one worker each, in every round: what disturbs one disturbs all."""

    key = "cpu"
    needs = (NGINX, WRK)

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self.ours = bench.token_proxy()
        self.theirs: list[tuple[Server, Line]] = []
        for peer in PEERS:
            if peer.path() is None:
                continue
            bar, goal = LIMITS[peer.name]
            line = Line("CPU per request, token injection", "µs", peer.name, bar, goal)
            self.lines.append(line)
            self.theirs.append((bench.peer(peer), line))
        for server in [self.ours, *(server for server, _ in self.theirs)]:
            saturate(server, bench.cores, 1)

    def measure(self, turn: int) -> None:
        servers = [self.ours, *(server for server, _ in self.theirs)]
        # Nobody is always first.
        first = turn % len(servers)
        spent = {
            server.pid: saturate(server, self.bench.cores, self.bench.seconds).cpu_per_request * 1e6
            for server in servers[first:] + servers[:first]
        }
        for server, line in self.theirs:
            line.add(spent[self.ours.pid], spent[server.pid])
