"""The rows of the table, in its order: one file per subject."""

from __future__ import annotations

from .cpu import TokenCpu
from .latency import Latency
from .memory import Connections, Idle, Uploads
from .routes import RouteLookUp
from .row import Row
from .signing import LargeContent, SignedCpu
from .start import Start
from .watched import Watched

ROWS: list[type[Row]] = [
    TokenCpu,
    Latency,
    SignedCpu,
    LargeContent,
    Uploads,
    Connections,
    Start,
    Idle,
    RouteLookUp,
    Watched,
]

__all__ = ["ROWS", "Row"]
