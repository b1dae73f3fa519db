"""What makes every request and its answer unlike all others."""

from __future__ import annotations

TOKEN = "soak-token-3b7f19"


def content(mark: str, size: int) -> bytes:
    """So many bytes that belong to this mark and to no other."""
    unit = mark.encode() + b"\n"
    return (unit * (size // len(unit) + 1))[:size]
