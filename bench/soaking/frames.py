"""As much of HTTP/2 as it takes to begin and go away."""

from __future__ import annotations


def begin() -> bytes:
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"")


def request(stream: int, path: str, ended: bool) -> bytes:
    """The head of a GET, or of a POST without its content."""
    fields = (b"\x82" if ended else b"\x83") + b"\x86"
    # Index 4 of the static table is :path, 1 is :authority (RFC 7541, appendix A).
    for index, value in ((b"\x04", path.encode()), (b"\x01", b"localhost")):
        fields += index + bytes([len(value)]) + value
    return frame(1, 5 if ended else 4, stream, fields)


def frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return len(content).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + content
