"""An upstream that reads content to its end, forgets it, and answers which fields came with it.

Usage: sink.py PORT. Content needs a Content-Length.
"""

from __future__ import annotations

import json
import socket
import sys
import threading

FIELDS = ["x-logtrust-reseller-apikey", "x-logtrust-timestamp", "x-logtrust-sign"]
PIECE = 1024 * 1024


def main() -> None:
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=128)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


def serve(connection: socket.socket) -> None:
    """Answers request after request until the caller leaves."""
    buffer = bytearray(PIECE)
    with connection:
        try:
            while answer_one(connection, buffer):
                pass
        except ConnectionError:
            pass


def answer_one(connection: socket.socket, buffer: bytearray) -> bool:
    head = b""
    while b"\r\n\r\n" not in head:
        piece = connection.recv(65536)
        if not piece:
            return False
        head += piece
    head, _, content = head.partition(b"\r\n\r\n")
    fields = dict(parsed(line) for line in head.decode("latin-1").split("\r\n")[1:])
    if "transfer-encoding" in fields:
        connection.sendall(b"HTTP/1.1 411 Length Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        return False
    left = int(fields.get("content-length", "0")) - len(content)
    while left > 0:
        got = connection.recv_into(buffer, min(left, PIECE))
        if got == 0:
            return False
        left -= got
    text = json.dumps({name: fields.get(name, "") for name in FIELDS}).encode()
    connection.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(text) + text
    )
    return True


def parsed(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.lower(), value.strip()


if __name__ == "__main__":
    main()
