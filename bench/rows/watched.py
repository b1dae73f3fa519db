"""Processor time per request with lines per request and with traces, against the same without."""

from __future__ import annotations

from harness.bench import Bench
from harness.process import Server, first_answer
from harness.programs import NGINX, WRK
from harness.report import Line
from harness.wrk import saturate

from .row import Row

LOG = 'access = "json"\naccess_file = "@DIRECTORY@/access.log"'
TRACE = '[trace]\nendpoint = "http://127.0.0.1:{port}"\nsample = {sample}'


class Watched(Row):
    """Processes that differ in what they tell of requests only. Nobody looks at any of them."""

    key = "watched"
    needs = (NGINX, WRK)

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        collector = bench.sink().port
        traces = {sample: TRACE.format(port=collector, sample=sample) for sample in ("0.0", "0.01", "1.0")}
        self.plain = self.start({"LOG": "", "TRACE": ""})
        self.watched: list[tuple[Server, Line]] = []
        for what, settings in [
            ("lines per request in a file (JSON)", {"LOG": LOG, "TRACE": ""}),
            ("traces, of no request", {"LOG": "", "TRACE": traces["0.0"]}),
            ("traces, of every hundredth request", {"LOG": "", "TRACE": traces["0.01"]}),
            ("traces, of every request", {"LOG": "", "TRACE": traces["1.0"]}),
        ]:
            line = Line(f"CPU per request, {what}", "µs", "without")
            self.lines.append(line)
            self.watched.append((self.start(settings), line))

    def start(self, settings: dict[str, object]) -> Server:
        bench = self.bench
        server = bench.countersign("watched", bench.upstream(), 1, bench.cores.proxy, more=settings)
        first_answer(server)
        saturate(server, bench.cores, 1)
        return server

    def measure(self, turn: int) -> None:
        servers = [self.plain, *(server for server, _ in self.watched)]
        # Nobody is always first.
        first = turn % len(servers)
        spent = {
            server.pid: saturate(server, self.bench.cores, self.bench.seconds).cpu_per_request * 1e6
            for server in servers[first:] + servers[:first]
        }
        for server, line in self.watched:
            line.add(spent[server.pid], spent[self.plain.pid])
