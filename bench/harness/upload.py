"""Sending large content, at full speed."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor

from .errors import BenchError
from .process import Server

# Nothing moves for so long: the upload failed.
SILENCE = 300.0


def upload(server: Server, path: str, piece: bytes, times: int) -> float:
    """Posts a piece a number of times as one content. Returns the seconds until the answer was there."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {len(piece) * times}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=SILENCE) as connection:
        start = time.perf_counter()
        try:
            connection.sendall(head.encode())
            for _ in range(times):
                connection.sendall(piece)
            status = connection.recv(65536).partition(b"\r\n")[0]
        except OSError as error:
            raise BenchError(f"{server.name} broke off an upload to {path}: {error}") from error
        spent = time.perf_counter() - start
    if not status.startswith(b"HTTP/1.1 200"):
        raise BenchError(f"{server.name} answered {status!r} to an upload to {path}")
    return spent


def upload_at_once(server: Server, path: str, piece: bytes, times: int, uploads: int) -> None:
    """The same from several callers at once."""
    with ThreadPoolExecutor(uploads) as callers:
        for sent in [callers.submit(upload, server, path, piece, times) for _ in range(uploads)]:
            sent.result()
