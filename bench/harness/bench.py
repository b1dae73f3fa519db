"""What all rows share: the options, the processes, and how each server is started."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from . import fixtures
from .errors import BenchError
from .machine import Cores
from .process import Processes, Server, first_answer, free_port
from .programs import NGINX, Peer

BENCH = Path(__file__).resolve().parent.parent


@dataclass
class Bench:
    """One run of the benchmark."""

    binary: Path
    directory: Path
    spool: Path
    processes: Processes
    cores: Cores
    rounds: int
    seconds: int
    quick: bool
    notes: list[str] = field(default_factory=list)
    shared: dict[str, Server] = field(default_factory=dict)

    def note(self, text: str) -> None:
        """Something that the reader of the table has to know; said once."""
        if text not in self.notes:
            self.notes.append(text)

    def upstream(self) -> Server:
        """The server behind all proxies. One for the whole run."""
        if "upstream" not in self.shared:
            program = NGINX.path()
            if program is None:
                raise BenchError("nginx is the upstream too; without it nothing can be measured")
            port = free_port()
            config = self.render("peers/upstream.conf", "upstream", {"PORT": port})
            self.shared["upstream"] = self.processes.start(
                "upstream", NGINX.start(program, config), port, self.cores.upstream
            )
            first_answer(self.shared["upstream"])
        return self.shared["upstream"]

    def sink(self) -> Server:
        """An upstream that takes large content. One for the whole run."""
        if "sink" not in self.shared:
            port = free_port()
            command = [sys.executable, "-B", str(BENCH / "harness/sink.py"), str(port)]
            self.shared["sink"] = self.processes.start("sink", command, port, self.cores.all)
            first_answer(self.shared["sink"])
        return self.shared["sink"]

    def peer(self, peer: Peer) -> Server:
        """A peer with one worker on the proxy's core. One for the whole run."""
        if peer.name not in self.shared:
            port = free_port()
            values = {
                "PORT": port,
                "UPSTREAM": self.upstream().port,
                "API_KEY": fixtures.API_KEY,
                "CLIENT": fixtures.CLIENT,
                "BRANCH": fixtures.BRANCH,
            }
            config = self.render(f"peers/{peer.template}", peer.name, values)
            # Programs that keep files in the user's home keep them here.
            home = {name: str(config.parent) for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")}
            server = self.processes.start(
                peer.name,
                peer.start(peer.path() or peer.command, config),
                port,
                self.cores.proxy,
                {**home, **peer.environment},
            )
            first_answer(server)
            fixtures.check_token_fields(server, self.upstream())
            self.shared[peer.name] = server
        return self.shared[peer.name]

    def token_proxy(self) -> Server:
        """countersign with the peers' task, one worker on the proxy's core. One for the whole run."""
        if "token" not in self.shared:
            server = self.countersign("token", self.upstream(), workers=1, cores=self.cores.proxy)
            first_answer(server)
            fixtures.check_token_fields(server, self.upstream())
            self.shared["token"] = server
        return self.shared["token"]

    def countersign(
        self,
        template: str,
        upstream: Server,
        workers: int,
        cores: frozenset[int],
        routes: int = 0,
        more: Optional[dict[str, object]] = None,
    ) -> Server:
        """A countersign of its own. Not waited for."""
        port = free_port()
        values = {
            **(more or {}),
            "PORT": port,
            "UPSTREAM": upstream.port,
            "WORKERS": workers,
            "SPOOL": self.spool,
            "CLIENT": fixtures.CLIENT,
            "BRANCH": fixtures.BRANCH,
        }
        config = self.render(f"countersign/{template}.toml", "countersign", values, routes)
        command = [str(self.binary), "run", "--config", str(config)]
        return self.processes.start("countersign", command, port, cores, fixtures.ENVIRONMENT)

    def render(self, template: str, name: str, values: dict[str, object], repeated: int = 0) -> Path:
        """Fills a template's @NAMES@ in, in a directory of its own. What follows "# repeat" is repeated."""
        text = (BENCH / template).read_text()
        head, marker, tail = text.partition("# repeat\n")
        if marker:
            text = head + "".join(tail.replace("@NUMBER@", f"{n:05}") for n in range(repeated))
        self.processes.serial += 1
        directory = self.directory / f"{self.processes.serial}-{name}"
        directory.mkdir()
        for key, value in {**values, "DIRECTORY": directory}.items():
            text = text.replace(f"@{key}@", str(value))
        config = directory / Path(template).name
        config.write_text(text)
        return config
