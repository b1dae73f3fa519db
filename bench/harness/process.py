"""Starting programs on chosen cores, waiting until they answer, and ending them."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Mapping, Optional, Sequence

from .errors import BenchError

START_LIMIT = 20.0
STOP_LIMIT = 10.0


@dataclass
class Server:
    """A program of ours that listens on a port of the loopback."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    log: Path
    started: float

    @property
    def pid(self) -> int:
        return self.process.pid

    def url(self, path: str = "/") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def said(self) -> str:
        """The end of what the program wrote, for a message."""
        text = self.log.read_text(errors="replace").strip()
        return text[-2000:] or "(it wrote nothing)"


class Processes:
    """Everything that a run starts. Leaving the context ends all of it, and nothing else."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.servers: list[Server] = []
        self.serial = 0

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        # A second Ctrl-C must not leave half of them running.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        for server in list(self.servers):
            self.stop(server)

    def start(
        self,
        name: str,
        command: Sequence[str],
        port: int,
        cores: frozenset[int],
        environment: Optional[Mapping[str, str]] = None,
    ) -> Server:
        """Starts a server. It may not answer yet: see `first_answer`."""
        self.serial += 1
        log = self.directory / f"{self.serial}-{name}.log"
        with log.open("wb") as output, on_cores(cores):
            started = time.perf_counter()
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(environment or {})},
                # A session of its own: Ctrl-C reaches it by `stop` only, and all its children can
                # be told by their session.
                start_new_session=True,
            )
        server = Server(name, process, port, log, started)
        self.servers.append(server)
        return server

    def stop(self, server: Server) -> None:
        """Ends a server and its children."""
        self.servers.remove(server)
        if server.process.poll() is None:
            server.process.terminate()
            try:
                server.process.wait(STOP_LIMIT)
            except subprocess.TimeoutExpired:
                pass
        # Workers that outlived their master. The group is the one that we made.
        try:
            os.killpg(server.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        server.process.wait()


@contextmanager
def on_cores(cores: frozenset[int]) -> Iterator[None]:
    """Children started inside inherit these cores, with all threads that they will ever have."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_port() -> int:
    """A port that nobody listens on, below those that the system gives to outgoing connections."""
    for _ in range(1000):
        port = random.randrange(10_000, 30_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise BenchError("no free port between 10000 and 30000 on 127.0.0.1")


def first_answer(server: Server, path: str = "/", wanted: bytes = b"HTTP/1.1 200") -> float:
    """Asks until there is an answer of 200, or another. Returns the seconds since the program was started."""
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nConnection: close\r\n\r\n"
    status = b""
    while time.perf_counter() - server.started < START_LIMIT:
        try:
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
                connection.sendall(request.encode())
                status = connection.recv(65536).partition(b"\r\n")[0]
            if status.startswith(wanted):
                return time.perf_counter() - server.started
        except OSError:
            pass
        if server.process.poll() is not None:
            raise BenchError(f"{server.name} ended at once: {server.said()}")
        time.sleep(0.0005)
    answer = status.decode(errors="replace") or "nothing"
    raise BenchError(f"{server.name} answered {answer} to GET {path}: {server.said()}")
