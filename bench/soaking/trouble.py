"""Trouble for the stand-ins, now and then, by their switches; and requests over HTTP/2."""

from __future__ import annotations

import asyncio
import collections
import json
import random
import re
import shutil
from typing import Any, Optional

from .wire import Connection


async def control(port: int, changes: Optional[dict[str, Any]] = None, path: str = "/_mock") -> dict[str, Any]:
    """Reads what a server says of itself, or changes it."""
    connection = await Connection.open(port)
    try:
        text = json.dumps(changes or {}).encode()
        method = "POST" if changes else "GET"
        fields = f"Host: 127.0.0.1\r\nConnection: close\r\nContent-Length: {len(text)}"
        await connection.send(f"{method} {path} HTTP/1.1\r\n{fields}\r\n\r\n".encode() + text)
        answer = await connection.answer(method)
    finally:
        connection.close()
    said: dict[str, Any] = json.loads(answer.content)
    if answer.status != 200:
        raise RuntimeError(f"{path} of port {port} answered {answer.status}: {said}")
    return said


class Twinzo:
    """Takes all tokens back, or makes token calls fail, and waits until that has passed.

    Neither may be seen by a caller: a token is replaced long before its end, and a refused one at once.
    """

    # A token that has just been forced is not forced again (for a minute, if it is refused as well), so
    # it has to have been renewed in between.
    PAUSE = 10.0

    def __init__(self, port: int) -> None:
        self.port = port
        self.revoked = 0
        self.failed = 0

    async def go_on(self, rng: random.Random) -> None:
        while True:
            await asyncio.sleep(self.PAUSE)
            if rng.random() < 0.5:
                await control(self.port, {"revoke": True})
                self.revoked += 1
                continue
            failure = rng.choice(["server_error", "too_many_requests", "close_connection", "garbage", "empty_ok"])
            await control(self.port, {"token_failure": failure, "token_failure_times": 2})
            self.failed += 1
            while (await control(self.port))["switches"]["token_failure"] != "none":
                await asyncio.sleep(0.5)


class Devo:
    """Makes a few calls fail. Callers see that, and as many as failed."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.failed = 0

    async def go_on(self, rng: random.Random) -> None:
        while True:
            await asyncio.sleep(3.0)
            failure = rng.choice(["server_error", "close_connection"])
            await control(self.port, {"data_failure": failure, "data_failure_times": 3})
            self.failed += 3
            while (await control(self.port))["switches"]["data_failure"] != "none":
                await asyncio.sleep(0.5)


class Http2:
    """Several requests at a time over one connection, by nghttp, which tells what came on which stream."""

    AT_ONCE = 16

    def __init__(self, port: int) -> None:
        self.port = port
        self.program = shutil.which("nghttp")
        self.asked = 0
        self.wrong: list[str] = []

    async def go_on(self, rng: random.Random) -> None:
        while True:
            await self.ask(rng)
            await asyncio.sleep(1.0)

    async def ask(self, rng: random.Random) -> None:
        assert self.program is not None
        wanted = {}
        for _ in range(self.AT_ONCE):
            self.asked += 1
            wanted[f"h2-{self.asked}"] = rng.choice([1, 100, 20_000, 300_000])
        urls = [f"http://127.0.0.1:{self.port}/api/fine/{mark}?size={size}" for mark, size in wanted.items()]
        process = await asyncio.create_subprocess_exec(
            self.program,
            "--null-out",
            "--verbose",
            *urls,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            said, _ = await asyncio.wait_for(process.communicate(), 60)
        except BaseException:
            process.kill()
            await process.wait()
            raise
        got = streams(said.decode(errors="replace"))
        for mark, size in wanted.items():
            right = ("200", mark, size, True)
            if got.get(mark) != right:
                self.wrong.append(f"over HTTP/2: {mark} got {got.get(mark)} instead of {right}")


def streams(said: str) -> dict[str, tuple[str, str, int, bool]]:
    """For the mark that was asked for on each stream: status, mark, length and whether it ended."""
    asked: dict[str, str] = {}
    fields: dict[tuple[str, str], str] = {}
    lengths: collections.Counter[str] = collections.Counter()
    ended = set()
    sending = ""
    for line in said.splitlines():
        if found := re.search(r"send HEADERS frame <.*stream_id=(\d+)>", line):
            sending = found[1]
        elif found := re.search(r"^ +:path: /api/fine/([^?]+)", line):
            asked[sending] = found[1]
        elif found := re.search(r"recv \(stream_id=(\d+)\) (:status|x-mark): (\S+)", line):
            fields[found[1], found[2]] = found[3]
        elif found := re.search(r"recv DATA frame <length=(\d+), flags=0x(\w+), stream_id=(\d+)>", line):
            lengths[found[3]] += int(found[1])
            if int(found[2], 16) & 1:
                ended.add(found[3])
    return {
        mark: (fields.get((one, ":status"), ""), fields.get((one, "x-mark"), ""), lengths[one], one in ended)
        for one, mark in asked.items()
    }
