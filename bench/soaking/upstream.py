"""An upstream that does what the path says: /BEHAVIOUR/MARK?size=N. Good and bad alike.

Usage: upstream.py PORT [SABOTAGE]. With SABOTAGE one answer in so many is another request's. `GET /_report`
tells what it saw.
"""

from __future__ import annotations

import asyncio
import collections
import hashlib
import json
import random
import socket
import struct
import sys
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from soaking.marks import TOKEN, content

# Longer than countersign keeps a connection: it is never this side that closes one which waits.
IDLE = 60.0
PIECE = 64 * 1024


class Broken(Exception):
    """The other side went away, or does not speak HTTP."""


class Upstream:
    def __init__(self, sabotage: int) -> None:
        self.sabotage = sabotage
        self.requests: collections.Counter[str] = collections.Counter()
        self.posts: set[str] = set()
        self.complaints: list[str] = []
        self.open = 0

    def complain(self, text: str) -> None:
        if len(self.complaints) < 100:
            self.complaints.append(text)

    def report(self) -> bytes:
        return json.dumps(
            {"requests": self.requests, "complaints": self.complaints, "open": self.open}
        ).encode()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            while await self.answer_one(reader, writer):
                pass
        except (Broken, ConnectionError, asyncio.IncompleteReadError, asyncio.TimeoutError):
            pass
        except asyncio.LimitOverrunError:
            self.complain("a head that is too long")
        finally:
            self.open -= 1
            writer.close()

    async def answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answers one request. False if the connection ends with it."""
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), IDLE)
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        method, target, version = first.split(" ")
        fields = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        if target == "/_report":
            text = self.report()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
            await writer.drain()
            return True
        url = urlsplit(target)
        _, behaviour, mark = url.path.split("/")
        query = dict(parse_qsl(url.query))
        self.requests[behaviour] += 1
        self.look_at(first, version, fields)
        if any(field == ("expect", "100-continue") for field in fields):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            length, digest = await self.read(reader, fields)
        except (Broken, ConnectionError, asyncio.IncompleteReadError) as error:
            if behaviour != "never":
                # Its caller stays until it has its answer.
                self.complain(f"{first}: its content broke off: {error}")
            raise
        if method == "POST":
            # Whoever sends such a request twice may have bought twice.
            if mark in self.posts:
                self.complain(f"{first} came twice")
            self.posts.add(mark)
        if behaviour == "never":
            self.complain(f"{first}: its caller went away before its end, and it looks complete")
        return await self.act(writer, behaviour, method, mark, query, f"{length} {digest}")

    def look_at(self, first: str, version: str, fields: list[tuple[str, str]]) -> None:
        def values(name: str) -> list[str]:
            return [value for known, value in fields if known == name]

        if version != "HTTP/1.1":
            self.complain(f"{first}: the version")
        if values("authorization") != [f"Bearer {TOKEN}"]:
            self.complain(f"{first}: {len(values('authorization'))} credentials, or a wrong one")
        if len(values("host")) != 1 or len(values("content-length")) + len(values("transfer-encoding")) > 1:
            self.complain(f"{first}: Host or framing")

    async def read(self, reader: asyncio.StreamReader, fields: list[tuple[str, str]]) -> tuple[int, str]:
        """Reads the content to its end. Returns its length and its SHA-256."""
        said = dict(fields)
        digest = hashlib.sha256()
        total = 0
        if "content-length" in said:
            left = int(said["content-length"])
            while left > 0:
                piece = await asyncio.wait_for(reader.read(min(left, PIECE)), IDLE)
                if not piece:
                    raise Broken(f"{left} of {said['content-length']} bytes are missing")
                digest.update(piece)
                left -= len(piece)
                total += len(piece)
        elif "transfer-encoding" in said:
            # Not one await for each chunk: many small ones must not make this upstream a slow one.
            received = bytearray()
            place = 0
            while True:
                end = received.find(b"\r\n", place)
                if end >= 0:
                    size = int(received[place:end], 16)
                    start, place_behind = end + 2, end + 4 + size
                    if len(received) >= place_behind:
                        if received[place_behind - 2 : place_behind] != b"\r\n":
                            raise Broken("a chunk without an end")
                        place = place_behind
                        if size == 0:
                            break
                        digest.update(received[start : start + size])
                        total += size
                        continue
                del received[:place]
                place = 0
                piece = await asyncio.wait_for(reader.read(4 * PIECE), IDLE)
                if not piece:
                    raise Broken(f"after {total} bytes in chunks")
                received += piece
            if len(received) > place:
                raise Broken("something follows the last chunk")
        return total, digest.hexdigest()

    async def act(
        self,
        writer: asyncio.StreamWriter,
        behaviour: str,
        method: str,
        mark: str,
        query: dict[str, str],
        about: str,
    ) -> bool:
        size = int(query.get("size", "0"))
        if behaviour == "echo":
            await self.say(writer, method, mark, f"{mark} {about}\n".encode(), query)
        elif behaviour in ("fine", "unauthorized"):
            status = "401 Unauthorized" if behaviour == "unauthorized" else "200 OK"
            told = mark
            if self.sabotage and random.randrange(self.sabotage) == 0:
                told = "another-request"
            await self.say(writer, method, told, content(told, size), query, status)
        elif behaviour == "last":
            await self.say(writer, method, mark, content(mark, size), {**query, "close": "1"})
            return False
        elif behaviour == "slow":
            writer.write(head_of(mark, "200 OK", b"Content-Length: %d\r\n" % size))
            text = content(mark, size)
            for start in range(0, size, size // 4 + 1):
                await writer.drain()
                await asyncio.sleep(0.1)
                writer.write(text[start : start + size // 4 + 1])
            await writer.drain()
        elif behaviour == "truncated":
            writer.write(head_of(mark, "200 OK", b"Content-Length: %d\r\n" % (size + 1)) + content(mark, size))
            await writer.drain()
            return False
        elif behaviour == "chunks-truncated":
            text = content(mark, size)
            writer.write(head_of(mark, "200 OK", b"Transfer-Encoding: chunked\r\n"))
            writer.write(b"%x\r\n" % size + text + b"\r\n")
            await writer.drain()
            return False
        elif behaviour == "reset-in-content":
            writer.write(head_of(mark, "200 OK", b"Content-Length: %d\r\n" % (size + 1)) + content(mark, size))
            await writer.drain()
            reset(writer)
            return False
        elif behaviour == "reset":
            reset(writer)
            return False
        elif behaviour == "garbage":
            writer.write(b"220 " + mark.encode() + b" ESMTP\r\n\r\n")
            await writer.drain()
        elif behaviour == "hang":
            await asyncio.sleep(IDLE)
            return False
        elif behaviour != "close":
            self.complain(f"no such behaviour: {behaviour}")
            return False
        return behaviour != "close"

    async def say(
        self,
        writer: asyncio.StreamWriter,
        method: str,
        mark: str,
        text: bytes,
        query: dict[str, str],
        status: str = "200 OK",
    ) -> None:
        more = b"Connection: close\r\n" if "close" in query else b""
        if "chunked" in query:
            writer.write(head_of(mark, status, more + b"Transfer-Encoding: chunked\r\n"))
            if method != "HEAD":
                for start in range(0, len(text), PIECE):
                    piece = text[start : start + PIECE]
                    writer.write(b"%x\r\n" % len(piece) + piece + b"\r\n")
                    await writer.drain()
                writer.write(b"0\r\n\r\n")
        else:
            writer.write(head_of(mark, status, more + b"Content-Length: %d\r\n" % len(text)))
            if method != "HEAD":
                writer.write(text)
        await writer.drain()


def head_of(mark: str, status: str, fields: bytes) -> bytes:
    return f"HTTP/1.1 {status}\r\nX-Mark: {mark}\r\n".encode() + fields + b"\r\n"


def reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def main() -> None:
    upstream = Upstream(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", int(sys.argv[1]), backlog=256)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
