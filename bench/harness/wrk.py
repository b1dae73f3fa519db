"""Load as fast as one worker can answer it, by wrk."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

from .accounting import cpu_seconds
from .errors import BenchError
from .machine import Cores
from .process import Server, on_cores

CONNECTIONS = 64
LOAD = Path(__file__).resolve().parent.parent / "load"


@dataclass(frozen=True)
class Saturated:
    """One run: what was answered in all, and what the server spent on it."""

    requests: int
    per_second: float
    cpu_per_request: float


def saturate(
    server: Server,
    cores: Cores,
    seconds: int,
    path: str = "/",
    script: str = "",
    arguments: Sequence[str] = (),
) -> Saturated:
    """One thread, 64 connections. Any answer but 2xx and any failed connection is an error."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "10s"]
    if script:
        command += ["-s", str(LOAD / script)]
    command += [server.url(path), "--", *arguments]
    before = cpu_seconds(server.pid)
    with on_cores(cores.load):
        run = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds + 30
        )
    spent = cpu_seconds(server.pid) - before
    counted = re.search(r"(\d+) requests in ", run.stdout)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", run.stdout)
    faults = re.search(r"Non-2xx.*|Socket errors.*", run.stdout)
    if run.returncode != 0 or counted is None or rate is None:
        raise BenchError(f"wrk on {server.name}: {run.stderr.strip() or run.stdout.strip()}")
    if faults is not None:
        raise BenchError(f"wrk on {server.name}: {faults.group().strip()}")
    requests = int(counted.group(1))
    if requests == 0:
        raise BenchError(f"wrk on {server.name}: no answer in {seconds} s")
    return Saturated(requests, float(rate.group(1)), spent / requests)
