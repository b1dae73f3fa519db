"""What a signature that covers the content costs: small content, and large."""

from __future__ import annotations

import hashlib
import os
import time

from harness.accounting import MIB
from harness.bench import Bench
from harness.fixtures import check_signature
from harness.process import first_answer
from harness.programs import NGINX, WRK
from harness.report import Line
from harness.upload import upload
from harness.wrk import saturate

from .row import Row


class SignedCpu(Row):
    """The same POST through the same process, by the route that signs and by the one that does not."""

    key = "signed"
    needs = (NGINX, WRK)

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self.line = Line("CPU per signed 1 KiB POST", "µs", "unsigned", 1.25, 1.10)
        self.lines = [self.line]
        self.server = bench.countersign("signature", bench.upstream(), 1, bench.cores.proxy)
        first_answer(self.server, "/unsigned/")
        check_signature(self.server, "/signed/fields", os.urandom(1024))
        for path in ("/unsigned/", "/signed/"):
            saturate(self.server, bench.cores, 1, path, "post.lua")

    def measure(self, turn: int) -> None:
        paths = ["/signed/", "/unsigned/"]
        spent = {
            path: saturate(self.server, self.bench.cores, self.bench.seconds, path, "post.lua")
            for path in (paths if turn % 2 == 0 else paths[::-1])
        }
        self.line.add(spent["/signed/"].cpu_per_request * 1e6, spent["/unsigned/"].cpu_per_request * 1e6)


# Seconds after an upload in which whatever is left of it ends.
PAUSE = 0.3


class LargeContent(Row):
    """A signed transfer against its two parts: the hash, and the transfer."""

    key = "large"

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        size = (8 if bench.quick else 64) * MIB
        what = f"signing {size // MIB} MiB"
        self.line = Line(what, "ms", "SHA-256 + unsigned", 1.3, 1.1)
        self.lines = [self.line]
        self.content = os.urandom(size)
        # Nothing is bound to a core here: what can be done at the same time may be.
        self.server = bench.countersign("signature", bench.sink(), 1, bench.cores.all)
        first_answer(self.server, "/unsigned/")
        check_signature(self.server, "/signed/", self.content)

    def measure(self, turn: int) -> None:
        signed = upload(self.server, "/signed/", self.content, 1)
        # What is tidied up after an answer must not fall into the time of the next.
        time.sleep(PAUSE)
        unsigned = upload(self.server, "/unsigned/", self.content, 1)
        start = time.perf_counter()
        hashlib.sha256(self.content).digest()
        hashed = time.perf_counter() - start
        time.sleep(PAUSE)
        self.line.add(signed * 1e3, (hashed + unsigned) * 1e3)
