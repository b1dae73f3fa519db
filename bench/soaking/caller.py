"""A caller, and what it checks of every answer."""

from __future__ import annotations

import hashlib
import random
import time
from typing import Optional

from .marks import content
from .wire import Answer, Connection, chunks

# The sizes of content, small ones mostly; the largest are beyond what is held in memory.
SIZES = [0, 1, 100, 4_000, 20_000, 70_000]
LARGE = [300_000, 1_000_000, 3_000_000]
# Less than countersign lets a connection wait for its next request, in seconds.
MOST_IDLE = 2.0


class Wrong(Exception):
    """An answer, or the lack of one, that no request of this kind can have."""


class Caller:
    """Asks one thing after the other. Keeps a connection for some of them."""

    def __init__(self, port: int, rng: random.Random, name: str) -> None:
        self.port = port
        self.rng = rng
        self.name = name
        self.serial = 0
        self.kept: Optional[Connection] = None
        # What it asks now, where that is a matter of chance.
        self.asking = ""
        # What it asked last over the connection that it keeps, for whoever has to find a cause.
        self.last: list[str] = []
        # What the stand-ins' failures did to this caller.
        self.excused = 0

    def mark(self) -> str:
        self.serial += 1
        return f"{self.name}-{self.serial}"

    def size(self, large: float = 0.0) -> int:
        return self.rng.choice(LARGE if self.rng.random() < large else SIZES)

    async def connection(self) -> Connection:
        """The one that was kept, or another."""
        if self.kept is not None and time.monotonic() > self.kept.idle_since + MOST_IDLE:
            self.leave()
        if self.kept is None:
            self.last = []
            return await Connection.open(self.port)
        kept, self.kept = self.kept, None
        return kept

    def keep(self, connection: Connection, answer: Answer) -> None:
        """A connection goes on after its answer, unless the answer says otherwise or chance does."""
        if answer.is_last or self.rng.random() < 0.2:
            connection.close()
        else:
            self.kept = connection

    def leave(self) -> None:
        if self.kept is not None:
            self.kept.close()
            self.kept = None

    def head(self, method: str, target: str, *fields: str) -> bytes:
        lines = "".join(f"{field}\r\n" for field in fields)
        return f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n{lines}\r\n".encode()

    def framed(self, method: str, target: str, body: bytes) -> list[bytes]:
        """A request with its content, of a known length or in chunks."""
        self.asking = f"{method} of {len(body)} bytes"
        if self.rng.random() < 0.5:
            return [self.head(method, target, f"Content-Length: {len(body)}"), body]
        self.asking += " in chunks"
        pieces = chunks(body, self.rng.choice([1_000, 16_000, 64_000]))
        return [self.head(method, target, "Transfer-Encoding: chunked"), *pieces]

    async def ask(self, method: str, *pieces: bytes, pause: float = 0.0, pace: float = 0.0) -> Answer:
        connection = await self.connection()
        try:
            await connection.send(*pieces, pause=pause)
            answer = await connection.answer(method, pace)
        except BaseException:
            connection.close()
            raise
        self.keep(connection, answer)
        return answer


def expect(answer: Answer, right: bool) -> None:
    if not right:
        raise Wrong(f"answered {answer}")


def is_for(answer: Answer, mark: str) -> None:
    """An answer of the upstream, and not to another request."""
    told = answer.value("x-mark")
    if told and told != mark:
        raise Wrong(f"another's answer: {answer}")
    expect(answer, told == mark and not answer.word)


def is_content_of(answer: Answer, mark: str, size: int, status: int = 200) -> None:
    is_for(answer, mark)
    expect(answer, answer.status == status and answer.whole)
    if answer.content != content(mark, size):
        raise Wrong(f"not the content of {mark}, {size} bytes: {answer}")


def is_own(answer: Answer, status: int, word: str) -> None:
    """An answer of countersign's own."""
    expect(answer, (answer.status, answer.word, answer.whole) == (status, word, True))
    if answer.value("x-mark"):
        raise Wrong(f"with a field of the upstream: {answer}")


def is_echo(answer: Answer, mark: str, body: bytes) -> None:
    is_for(answer, mark)
    wanted = f"{mark} {len(body)} {hashlib.sha256(body).hexdigest()}\n".encode()
    expect(answer, answer.status == 200 and answer.whole and answer.content == wanted)
