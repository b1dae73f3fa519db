"""A caller's connection, byte by byte, and answers as they are on the wire."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import time
from dataclasses import dataclass, field

# Longer than every time limit in the configuration.
PATIENCE = 60.0
PIECE = 64 * 1024


class NoAnswer(Exception):
    """The connection ended, or nothing came, where an answer should have begun."""


@dataclass
class Answer:
    status: int
    fields: list[tuple[str, str]]
    content: bytes = b""
    # False if it broke off.
    whole: bool = False
    interims: list[int] = field(default_factory=list)

    def value(self, name: str) -> str:
        return ", ".join(value for known, value in self.fields if known == name)

    @property
    def word(self) -> str:
        """Why it is an answer of countersign's own; empty if it is not."""
        own = re.fullmatch(r'countersign; error=\w+; details="([a-z-]+)"', self.value("proxy-status"))
        return own.group(1) if own else ""

    @property
    def is_last(self) -> bool:
        return not self.whole or self.value("connection").lower() == "close"

    def __str__(self) -> str:
        told = f"{self.status} {self.word or self.value('x-mark') or 'of nobody'}"
        return f"{told}, {len(self.content)} bytes{'' if self.whole else ', broken off'}"


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        # When its last answer began. All of it may have been on its way at that moment, however long
        # it takes to read it: from then on the connection may count as idle to the other side.
        self.idle_since = time.monotonic()

    @classmethod
    async def open(cls, port: int) -> Connection:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=PIECE))

    async def send(self, *pieces: bytes, pause: float = 0.0) -> None:
        for piece in pieces:
            self.writer.write(piece)
            try:
                await asyncio.wait_for(self.writer.drain(), PATIENCE)
            except ConnectionError:
                # What the other side has to say about that may be there to read.
                return
            if pause:
                await asyncio.sleep(pause)

    async def answer(self, method: str, pace: float = 0.0) -> Answer:
        """Reads one answer, with a pause between pieces if it is to be read slowly."""
        interims = []
        while True:
            answer = await self.head()
            if answer.status >= 200:
                break
            interims.append(answer.status)
        answer.interims = interims
        try:
            await asyncio.wait_for(self.read(answer, method, pace), PATIENCE)
            answer.whole = True
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except asyncio.TimeoutError:
            raise NoAnswer(f"{answer}, and no end of it") from None
        return answer

    async def head(self) -> Answer:
        try:
            head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), PATIENCE)
        except asyncio.IncompleteReadError as error:
            raise NoAnswer(f"the connection ended after {error.partial[:80]!r}") from None
        except ConnectionError as error:
            raise NoAnswer(f"the connection broke: {error}") from None
        except asyncio.TimeoutError:
            raise NoAnswer(f"nothing for {PATIENCE:.0f} s") from None
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        self.idle_since = time.monotonic()
        said = re.fullmatch(r"HTTP/1\.1 (\d{3}) .*", first)
        if said is None:
            raise NoAnswer(f"no answer of HTTP/1.1: {first!r}")
        fields = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        return Answer(int(said.group(1)), fields)

    async def read(self, answer: Answer, method: str, pace: float) -> None:
        if method == "HEAD" or answer.status in (204, 304):
            return
        if answer.value("transfer-encoding"):
            while True:
                size = int(await self.reader.readuntil(b"\r\n"), 16)
                if size:
                    await self.take(answer, size, pace)
                if await self.reader.readexactly(2) != b"\r\n":
                    raise ConnectionError("a chunk without an end")
                if size == 0:
                    return
        await self.take(answer, int(answer.value("content-length")), pace)

    async def take(self, answer: Answer, size: int, pace: float) -> None:
        pieces = []
        try:
            while size > 0:
                piece = await self.reader.read(min(size, PIECE))
                if not piece:
                    raise asyncio.IncompleteReadError(b"", size)
                pieces.append(piece)
                size -= len(piece)
                if pace:
                    await asyncio.sleep(pace)
        finally:
            answer.content += b"".join(pieces)

    async def ends(self) -> bool:
        """True if nothing more comes."""
        try:
            return await asyncio.wait_for(self.reader.read(1), PATIENCE) == b""
        except ConnectionError:
            return True
        except asyncio.TimeoutError:
            return False

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        connection = self.writer.get_extra_info("socket")
        try:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass
        self.writer.transport.abort()


def chunks(content: bytes, size: int) -> list[bytes]:
    """Content in chunks of that size."""
    pieces = [content[start : start + size] for start in range(0, len(content), size)]
    return [b"%x\r\n" % len(piece) + piece + b"\r\n" for piece in pieces] + [b"0\r\n\r\n"]
