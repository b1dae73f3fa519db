"""Latency under a constant rate: h2load makes the load, and `caller.py` is the caller whose time counts."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

from .errors import BenchError
from .machine import Cores
from .process import Server, on_cores

# One process of h2load sends what is due once per millisecond, all at once. Many of them with few
# connections each come at moments of their own, like callers that do not know each other.
PROCESSES = 16
CONNECTIONS = 4
CALLER_RATE = 2000.0
CALLER_CONNECTIONS = 16
# For connecting, before anything counts.
SETTLE = 0.5


@dataclass(frozen=True)
class Latencies:
    """In seconds. `load` is the share of the wanted load that was answered."""

    p50: float
    p99: float
    load: float


def steady(server: Server, cores: Cores, rate: float, seconds: int) -> Latencies:
    """What the caller saw while there was this rate in all. Every request of its own must be answered 200."""
    called = min(CALLER_RATE, rate / 4)
    with load(server, cores, rate - called, seconds + 1) as runs:
        time.sleep(SETTLE)
        command = [
            *(sys.executable, "-B", str(Path(__file__).with_name("caller.py"))),
            *(str(server.port), str(called), str(seconds), str(CALLER_CONNECTIONS)),
        ]
        with on_cores(cores.load):
            caller = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds + 30
            )
        outputs = [run.communicate(timeout=seconds + 30)[0] for run in runs]
    if caller.returncode != 0:
        raise BenchError(f"constant load on {server.name}: {caller.stderr.strip()}")
    result = json.loads(caller.stdout)
    latencies = sorted(result["latencies"])
    if len(latencies) < result["due"]:
        raise BenchError(f"{server.name} answered {len(latencies)} of {result['due']} requests")
    answered = sum(answered_per_second(server, output) for output in outputs)
    return Latencies(
        p50=percentile(latencies, 50) / 1e9,
        p99=percentile(latencies, 99) / 1e9,
        load=answered / (rate - called),
    )


@contextmanager
def load(server: Server, cores: Cores, rate: float, seconds: int) -> Iterator[list[subprocess.Popen[str]]]:
    command = [
        *("h2load", "--h1", "-t1", f"-c{CONNECTIONS}", f"--rps={rate / PROCESSES / CONNECTIONS:.3f}"),
        *(f"-D{seconds}s", server.url()),
    ]
    runs: list[subprocess.Popen[str]] = []
    try:
        with on_cores(cores.load):
            for _ in range(PROCESSES):
                run = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
                runs.append(run)
        yield runs
    finally:
        for run in runs:
            if run.poll() is None:
                run.kill()
                run.wait()


def answered_per_second(server: Server, output: str) -> float:
    rate = re.search(r"finished in .*, ([\d.]+) req/s", output)
    codes = re.search(r"status codes: .* 3xx, 0 4xx, 0 5xx", output)
    if rate is None or codes is None:
        raise BenchError(f"h2load on {server.name}: {output.strip()[-500:]}")
    return float(rate.group(1))


def percentile(ordered: list[int], share: int) -> int:
    """The least value that so many percent of all do not exceed (nearest rank)."""
    return ordered[max(0, math.ceil(len(ordered) * share / 100) - 1)]
