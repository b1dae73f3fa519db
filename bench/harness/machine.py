"""What the benchmark runs on, and which core does what."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass


@dataclass(frozen=True)
class Cores:
    """Who runs where while processor time or latency is measured."""

    all: frozenset[int]
    proxy: frozenset[int]
    upstream: frozenset[int]
    load: frozenset[int]

    def __str__(self) -> str:
        if len(self.all) == 1:
            return "one for everything"
        if self.upstream == self.load:
            return f"proxy {listed(self.proxy)}, upstream and load {listed(self.load)}"
        return f"proxy {listed(self.proxy)}, upstream {listed(self.upstream)}, load {listed(self.load)}"


def place() -> Cores:
    """A core of its own for the proxy, and for the upstream too where there are enough."""
    cores = sorted(os.sched_getaffinity(0))
    everything = frozenset(cores)
    if len(cores) == 1:
        return Cores(everything, everything, everything, everything)
    rest = frozenset(cores[1:])
    if len(cores) == 2:
        return Cores(everything, frozenset(cores[:1]), rest, rest)
    return Cores(everything, frozenset(cores[:1]), frozenset(cores[1:2]), frozenset(cores[2:]))


def listed(cores: frozenset[int]) -> str:
    return ",".join(str(core) for core in sorted(cores))


def describe() -> dict[str, str]:
    """Processor, cores, kernel, memory and how busy the machine is before anything starts."""
    return {
        "processor": processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "load": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }


def processor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
