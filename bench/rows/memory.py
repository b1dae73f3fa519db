"""Memory: with nothing to do, with connections that do nothing, and with large uploads."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import struct
import time

from harness.accounting import MIB, forget_peak, peak, resident
from harness.bench import Bench
from harness.errors import BenchError
from harness.process import Server, first_answer
from harness.programs import NGINX
from harness.report import Line
from harness.upload import upload_at_once

from .row import Row

# For what a program still does after its first answer.
SETTLE = 0.5


class Uploads(Row):
    """How much the resident memory of a fresh process grows, at its highest."""

    key = "uploads"
    most_rounds = 3

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self.uploads = 8
        self.size = (64 if bench.quick else 1024) * MIB
        what = f"peak memory, {self.uploads} uploads of {self.size // MIB} MiB"
        self.unsigned = Line(f"{what}, unsigned", "MiB", bar=16, goal=8)
        self.signed = Line(f"{what}, signed", "MiB", bar=32, goal=16)
        self.lines = [self.unsigned]
        wanted = self.uploads * self.size * 5 // 4
        room = shutil.disk_usage(bench.spool).free
        if room >= wanted:
            self.lines.append(self.signed)
        else:
            bench.note(
                f"Signed uploads are left out: they wait in {bench.spool}, which has {room // MIB} MiB"
                f" free of {wanted // MIB} MiB needed. See --spool."
            )

    def measure(self, turn: int) -> None:
        self.unsigned.add(self.growth("/unsigned/"))
        if self.signed in self.lines:
            self.signed.add(self.growth("/signed/"))

    def growth(self, path: str) -> float:
        server = fresh(self.bench, "signature", self.bench.sink(), "/unsigned/")
        try:
            idle = resident(server.pid)
            forget_peak(server.pid)
            upload_at_once(server, path, os.urandom(MIB), self.size // MIB, self.uploads)
            return (peak(server.pid) - idle) / MIB
        finally:
            self.bench.processes.stop(server)


class Connections(Row):
    """How much the resident memory grows per connection that had one request and stays open."""

    key = "connections"
    needs = (NGINX,)
    most_rounds = 3

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self.count = self.allowed(1000 if bench.quick else 10_000)
        what = f"memory per idle connection, of {self.count}"
        self.line = Line(what, "KiB", bar=16, goal=4)
        self.lines = [self.line]
        bench.upstream()

    def allowed(self, wanted: int) -> int:
        """Both ends have a file per connection, and inherit the limit that is raised here."""
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        spare = 500
        if most != resource.RLIM_INFINITY and most < wanted + spare:
            self.bench.note(f"Only {most - spare} idle connections: the limit of open files is {most}.")
            return most - spare
        return wanted

    def measure(self, turn: int) -> None:
        server = fresh(self.bench, "token", self.bench.upstream(), "/")
        connections: list[socket.socket] = []
        try:
            idle = resident(server.pid)
            for _ in range(self.count):
                connections.append(asked_once(server))
            time.sleep(SETTLE)
            self.line.add((resident(server.pid) - idle) / self.count / 1024)
        finally:
            for connection in connections:
                connection.close()
            self.bench.processes.stop(server)


class Idle(Row):
    """What a fresh process with one route has, after its first answer."""

    key = "idle"
    needs = (NGINX,)

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self.line = Line("idle resident memory", "MiB", bar=16, goal=8)
        self.lines = [self.line]
        bench.upstream()

    def measure(self, turn: int) -> None:
        server = fresh(self.bench, "token", self.bench.upstream(), "/")
        try:
            self.line.add(resident(server.pid) / MIB)
        finally:
            self.bench.processes.stop(server)


def fresh(bench: Bench, template: str, upstream: Server, path: str) -> Server:
    """A countersign with as many workers as it has by default, which has answered once."""
    server = bench.countersign(template, upstream, len(bench.cores.all), bench.cores.all)
    first_answer(server, path)
    time.sleep(SETTLE)
    return server


def asked_once(server: Server) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    # Closed by a reset: thousands of ports in TIME_WAIT would be in the way of the next round.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.sendall(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode())
    answer = connection.recv(4096)
    if not answer.startswith(b"HTTP/1.1 200"):
        raise BenchError(f"{server.name} answered {answer[:60]!r}")
    return connection
