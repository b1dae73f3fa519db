"""Asks for devices, each with a name of its own, and looks whether the answer is that device's.

Usage: caller.py PORT[,PORT…] FIRST LAST CONNECTIONS RATE SECONDS SEED. With 0 SECONDS every device from FIRST to
LAST is asked for once at each port, in a random order that is the same at all ports; else devices are drawn for so
long. RATE is how many requests per second there are in all, 0 for as many as are answered. Prints JSON.
"""

from __future__ import annotations

import collections
import json
import random
import select
import socket
import sys
import time
from typing import Iterator, Optional

# What is not answered so long after the last request will not be.
PATIENCE = 30.0
TOLD = 5


def main() -> None:
    ports, first, last, connections, rate, seconds, seed = sys.argv[1:]
    rng = random.Random(int(seed))
    devices = range(int(first), int(last) + 1)
    order = list(devices)
    rng.shuffle(order)
    queues: dict[int, Iterator[int]] = {}
    for port in ports.split(","):
        once, draw = iter(order), random.Random(rng.random())
        queues[int(port)] = drawn(devices, float(seconds), draw) if float(seconds) else once
    load = Load(queues, int(connections), float(rate))
    load.run()
    report = {"answered": load.answered, "wrong": load.wrong, "told": load.told, "seconds": load.took}
    json.dump(report, sys.stdout)


def drawn(devices: range, seconds: float, rng: random.Random) -> Iterator[int]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield rng.choice(devices)


class Connection:
    """One kept connection, and the device that it asks for."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.device = 0
        self.got = b""
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)

    def ask(self, device: int) -> None:
        self.device = device
        self.got = b""
        name = f"device-{device:06}"
        request = f"GET /v3/devices/login/{name} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nX-Device: {name}\r\n\r\n"
        self.socket.send(request.encode())

    def judge(self) -> Optional[str]:
        """Reads on. What is wrong with the answer, nothing if it is right; None as long as it is not whole."""
        piece = self.socket.recv(65536)
        if not piece:
            raise ConnectionError("the connection was closed")
        self.got += piece
        head, end, content = self.got.partition(b"\r\n\r\n")
        if not end:
            return None
        length = next(
            int(line.partition(b":")[2])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        )
        if len(content) < length:
            return None
        if not head.startswith(b"HTTP/1.1 200 "):
            status = head.partition(b"\r\n")[0].decode(errors="replace")
            return f"device-{self.device:06}: {status}: {content[:200].decode(errors='replace')}"
        if f'"Login":"device-{self.device:06}"'.encode() not in content:
            return f"device-{self.device:06}: the answer is another's: {content[:200].decode(errors='replace')}"
        return ""


class Load:
    """The connections to all ports, and what came of their requests."""

    def __init__(self, queues: dict[int, Iterator[int]], connections: int, rate: float) -> None:
        self.queues = queues
        self.rate = rate
        self.answered = 0
        self.wrong = 0
        self.told: list[str] = []
        self.took = 0.0
        self.poll = select.epoll()
        self.by_number: dict[int, Connection] = {}
        self.free: collections.deque[Connection] = collections.deque()
        for _ in range(connections):
            for port in queues:
                self.open(port)

    def open(self, port: int) -> None:
        connection = Connection(port)
        self.poll.register(connection.socket, select.EPOLLIN)
        self.by_number[connection.socket.fileno()] = connection
        self.free.append(connection)

    def run(self) -> None:
        begun = last = time.monotonic()
        sent = 0
        while True:
            now = time.monotonic()
            while self.free and (not self.rate or sent < (now - begun) * self.rate):
                connection = self.free.popleft()
                device = next(self.queues[connection.port], None)
                if device is None:
                    # Nothing is left to ask there.
                    self.leave(connection)
                    continue
                connection.ask(device)
                sent += 1
                last = now
            if not self.by_number:
                break
            if now - last > PATIENCE:
                self.say_wrong(f"{len(self.by_number)} requests were not answered")
                break
            for number, _ in self.poll.poll(0.002 if self.free else 0.5):
                self.read(self.by_number[number])
        self.took = time.monotonic() - begun

    def read(self, connection: Connection) -> None:
        try:
            fault = connection.judge()
        except (OSError, StopIteration, ValueError) as error:
            self.say_wrong(f"device-{connection.device:06}: {error}")
            self.leave(connection)
            self.open(connection.port)
            return
        if fault is None:
            return
        self.answered += 1
        if fault:
            self.say_wrong(fault)
        self.free.append(connection)

    def leave(self, connection: Connection) -> None:
        self.poll.unregister(connection.socket)
        del self.by_number[connection.socket.fileno()]
        connection.socket.close()

    def say_wrong(self, fault: str) -> None:
        self.wrong += 1
        if len(self.told) < TOLD:
            self.told.append(fault)


if __name__ == "__main__":
    main()
