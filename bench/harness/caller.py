"""Requests at a constant rate, and how long each took.

Usage: caller.py PORT RATE SECONDS CONNECTIONS. Prints JSON: how many requests were due, and the latencies of
those that were answered, in nanoseconds.

The moments at which requests are due are fixed before the first is sent, and a latency counts from that
moment, not from the moment at which there was a connection to send it on. So a proxy that stalls is charged
for every request that should have been sent meanwhile (there is no "coordinated omission").
"""

from __future__ import annotations

import collections
import gc
import json
import select
import socket
import sys
import time

# The end of the upstream's answer.
END = b"1234567890123}"
# Answers that are still missing so long after the last request was due will not come.
PATIENCE = 5_000_000_000


def main() -> None:
    port, rate, seconds, connections = sys.argv[1:]
    # Neither a collection in the middle nor the kernel's habit of ending a sleep up to 50 µs late
    # may be charged to the proxy.
    gc.disable()
    try:
        with open("/proc/self/timerslack_ns", "w", encoding="ascii") as slack:
            slack.write("1000")
    except OSError:
        pass
    due, latencies = call(int(port), float(rate), float(seconds), int(connections))
    json.dump({"due": due, "latencies": latencies}, sys.stdout)


def call(port: int, rate: float, seconds: float, connections: int) -> tuple[int, list[int]]:
    request = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    poll = select.epoll()
    by_number: dict[int, socket.socket] = {}
    for _ in range(connections):
        connection = socket.create_connection(("127.0.0.1", port), timeout=5)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The first request of a connection costs the proxy more than the others.
        connection.sendall(request)
        read_answer(connection)
        connection.setblocking(False)
        poll.register(connection, select.EPOLLIN)
        by_number[connection.fileno()] = connection

    total = int(rate * seconds)
    gap = 1e9 / rate
    now = time.perf_counter_ns
    start = now() + 10_000_000
    limit = start + int(seconds * 1e9) + PATIENCE
    free = collections.deque(by_number)
    asked: dict[int, int] = {}
    latencies: list[int] = []
    sent = 0
    due = start
    while len(latencies) < total and now() < limit:
        while sent < total and free and due <= now():
            number = free.popleft()
            asked[number] = due
            by_number[number].send(request)
            sent += 1
            due = start + int(sent * gap)
        wait = max(0, due - now()) / 1e9 if sent < total and free else 0.5
        # A wait of epoll is rounded to milliseconds, one of select is not.
        select.select([poll], [], [], wait)
        for number, _ in poll.poll(0):
            answer = by_number[number].recv(4096)
            if not answer:
                sys.exit("a connection was closed")
            if answer.startswith(b"HTTP/1.1 ") and not answer.startswith(b"HTTP/1.1 200 "):
                sys.exit(f"the answer was {answer[:60]!r}")
            if answer.endswith(END):
                latencies.append(now() - asked.pop(number))
                free.append(number)
    return total, latencies


def read_answer(connection: socket.socket) -> None:
    answer = b""
    while not answer.endswith(END):
        piece = connection.recv(4096)
        if not piece:
            sys.exit(f"no answer but {answer[:60]!r}")
        answer += piece


if __name__ == "__main__":
    main()
