"""A stand-in with an account for each device, and processes of countersign before it."""

from __future__ import annotations

import base64
import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Sequence

from harness.errors import BenchError
from harness.process import Processes, Server, first_answer, free_port

BENCH = Path(__file__).resolve().parent.parent
EVERYWHERE = frozenset(os.sched_getaffinity(0))
KEY = "FLEET_STORE_KEY"


@dataclass(frozen=True)
class Settings:
    """What a fleet is like."""

    binary: Path
    devices: int
    lifetime: int
    rate: int
    concurrent: int

    @property
    def earliest(self) -> float:
        """When a token is renewed at the earliest; docs/configuration.md, "refresh"."""
        margin = max(self.lifetime / 10, min(60.0, self.lifetime / 4))
        return self.lifetime - margin - self.lifetime / 10

    @property
    def latest(self) -> float:
        return self.earliest + self.lifetime / 10


@dataclass(frozen=True)
class Asked:
    """What came of requests."""

    answered: int
    wrong: int
    told: list[str]
    seconds: float


class Plant:
    """One stand-in with its devices; leaving the processes ends it."""

    def __init__(self, settings: Settings, directory: Path, processes: Processes) -> None:
        self.settings = settings
        self.processes = processes
        self.directory = directory
        directory.mkdir()
        port = free_port()
        command = [
            str(settings.binary), "mock", "twinzo", "--listen", f"127.0.0.1:{port}",
            "--devices", str(settings.devices), "--lifetime", f"{settings.lifetime}s",
        ]  # fmt: skip
        self.twinzo = processes.start("twinzo", command, port, EVERYWHERE)
        first_answer(self.twinzo, "/_mock")
        self.store_key = base64.b64encode(secrets.token_bytes(32)).decode()

    def proxy(self, store: str = "", devices: Optional[int] = None) -> Server:
        """One countersign with the first so many devices, all unless said otherwise."""
        port = free_port()
        text = (BENCH / "countersign/fleet.toml").read_text()
        values = {
            "PORT": port,
            "TWINZO": self.twinzo.port,
            "DEVICES": self.file(devices or self.settings.devices),
            "CONCURRENT": self.settings.concurrent,
            "RATE": self.settings.rate,
            "STORE": store,
        }
        for key, value in values.items():
            text = text.replace(f"@{key}@", str(value))
        config = self.directory / f"countersign-{port}.toml"
        config.write_text(text)
        command = [str(self.settings.binary), "run", "--config", str(config)]
        server = self.processes.start("countersign", command, port, EVERYWHERE, {KEY: self.store_key})
        # It answers, and asks nobody for that: this is no device.
        first_answer(server, "/", b"HTTP/1.1 403")
        return server

    def file(self, devices: int) -> Path:
        file = self.directory / f"devices-{devices}.csv"
        if not file.exists():
            numbers = range(1, devices + 1)
            lines = (f"device-{n:06},device-{n:06},password-{n:06}\n" for n in numbers)
            file.touch(0o600)
            file.write_text("device,login,password\n" + "".join(lines))
        return file

    def ask(
        self,
        proxies: Sequence[Server],
        first: int,
        last: int,
        rate: float = 0.0,
        seconds: float = 0.0,
        connections: int = 64,
    ) -> Asked:
        """Asks for each of these devices once at each proxy, or for drawn ones for so long."""
        ports = ",".join(str(proxy.port) for proxy in proxies)
        numbers = [first, last, connections, rate, seconds, random.randrange(1 << 32)]
        command = [sys.executable, "-B", str(BENCH / "fleets/caller.py"), ports, *map(str, numbers)]
        # Nothing takes longer than the logins of all, unless the machine is too slow for them.
        limit = seconds + 60 + 5 * (last - first + 1) / self.settings.rate
        try:
            run = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit, check=True
            )
        except subprocess.TimeoutExpired:
            raise BenchError(f"the requests took more than {limit:.0f} s") from None
        except subprocess.CalledProcessError as error:
            raise BenchError(f"the caller failed: {error.stderr.strip()[-2000:]}") from None
        return Asked(**json.loads(run.stdout))

    def counters(self) -> dict[str, int]:
        """What the stand-in has counted."""
        with urllib.request.urlopen(self.twinzo.url("/_mock"), timeout=20) as answer:
            counters: dict[str, int] = json.load(answer)["counters"]
        counters["tokens"] = counters["logins"] + counters["refreshes"]
        return counters


def end(server: Server) -> None:
    """Tells a server to end, as an operator would, and waits."""
    server.process.terminate()
    try:
        status = server.process.wait(20)
    except subprocess.TimeoutExpired:
        raise BenchError(f"{server.name} did not end: {server.said()}") from None
    if status != 0:
        raise BenchError(f"{server.name} ended with {status}: {server.said()}")


def redis(directory: Path, processes: Processes) -> Optional[Server]:
    """A Redis of our own that keeps nothing on the disk; None where the program is not installed."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        return None
    port = free_port()
    command = [
        program, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no",
        "--dir", str(directory), "--daemonize", "no",
    ]  # fmt: skip
    server = processes.start("redis", command, port, EVERYWHERE)
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if said(server, b"PING\r\n").startswith(b"+PONG"):
            return server
        if server.process.poll() is not None:
            break
        time.sleep(0.05)
    raise BenchError(f"redis-server does not answer: {server.said()}")


def redis_memory(server: Server) -> int:
    """Bytes that Redis uses for everything that it keeps."""
    for line in said(server, b"INFO memory\r\n").splitlines():
        if line.startswith(b"used_memory:"):
            return int(line.partition(b":")[2])
    raise BenchError("Redis does not say how much memory it uses")


def said(server: Server, command: bytes) -> bytes:
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
            connection.sendall(command)
            return connection.recv(65536)
    except OSError:
        return b""
