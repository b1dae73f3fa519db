"""The kernel's own accounts of what a program used (Linux, /proc)."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import BenchError

MIB = 1024 * 1024


def cpu_seconds(session: int) -> float:
    """Processor time of all threads of all processes of a session, user and system together.

    From schedstat, which counts nanoseconds; `times` counts ticks of 10 ms.
    """
    total = 0
    for pid in members(session):
        try:
            threads = list(Path(f"/proc/{pid}/task").iterdir())
        except FileNotFoundError:
            continue
        for thread in threads:
            try:
                total += int((thread / "schedstat").read_text().split()[0])
            except FileNotFoundError:
                # The thread ended, or the kernel keeps no such account.
                if not Path("/proc/self/schedstat").exists():
                    raise BenchError("this kernel has no /proc/PID/schedstat") from None
    return total / 1e9


def members(session: int) -> list[int]:
    """The processes of a session: the server and whatever it started."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if os.getsid(int(entry)) == session:
                    found.append(int(entry))
            except (ProcessLookupError, PermissionError):
                continue
    return found


def resident(pid: int) -> int:
    """Bytes of memory in use now."""
    return status(pid, "VmRSS")


def peak(pid: int) -> int:
    """The most bytes of memory in use since the start, or since `forget_peak`."""
    return status(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    """What a program needed for starting is not part of what requests need."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def status(pid: int, key: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    raise BenchError(f"/proc/{pid}/status has no {key}")
