"""What a process holds: descriptors, connections, memory (Linux, /proc)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

# As /proc/net/tcp writes it.
LISTEN = "0A"


def descriptors(pid: int) -> Optional[list[str]]:
    """What its descriptors lead to. None if only the system's administrator may know: countersign keeps
    its memory private, and this with it."""
    found = []
    try:
        for entry in os.listdir(f"/proc/{pid}/fd"):
            try:
                found.append(os.readlink(f"/proc/{pid}/fd/{entry}"))
            except FileNotFoundError:
                continue
    except PermissionError:
        return None
    return found


def connections(port: int, onward: set[int]) -> list[str]:
    """Connections that some process holds, of those accepted on `port` and those made to one of `onward`.

    Nobody but the proxy has either: the callers' ends have other local ports, and nobody else asks the servers
    behind it while this is looked at.
    """
    found = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *rest = line.split()
        # Without an inode it is the system's alone, as in TIME_WAIT.
        if state == LISTEN or rest[5] == "0":
            continue
        if port_of(local) == port or port_of(remote) in onward:
            found.append(f"{port_of(local)} to {port_of(remote)} in state {state}")
    return found


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2], 16)
