"""Callers with bad manners: those who go away, are slow, or send what is no request."""

from __future__ import annotations

import asyncio

from . import frames
from .caller import Caller, Wrong, is_echo, is_own
from .marks import content
from .wire import Connection, chunks


async def gone(caller: Caller) -> None:
    """Goes away at some point. Nothing may come of that for anybody else."""
    mark = caller.mark()
    connection = await Connection.open(caller.port)
    route = caller.rng.choice([f"/api/never/{mark}", f"/devo/probio/{mark}", f"/twinzo/v3/echo?{mark}"])
    body = content(mark, 500_000)
    when = caller.rng.choice(["head", "length", "chunks", "answer", "middle", "hanging", "http2", "http2 head"])
    if when == "head":
        whole = caller.head("GET", route)
        await connection.send(whole[: caller.rng.randrange(len(whole))])
    elif when == "length":
        await connection.send(caller.head("POST", route, f"Content-Length: {len(body)}"), body[:-1])
    elif when == "chunks":
        pieces = chunks(body, 16_000)[: caller.rng.randrange(1, 30)]
        await connection.send(caller.head("POST", route, "Transfer-Encoding: chunked"), *pieces)
    elif when == "answer":
        await connection.send(caller.head("GET", f"/api/fine/{mark}?size=3000000"))
    elif when == "middle":
        await connection.send(caller.head("GET", f"/api/fine/{mark}?size=3000000"))
        await connection.reader.readexactly(caller.rng.choice([1, 1_000, 1_000_000]))
    elif when.startswith("http2"):
        streams = [(f"/api/fine/{mark}?size=3000000", True), (f"/api/never/{mark}", False)]
        begun = b"".join(frames.request(number * 2 + 1, *stream) for number, stream in enumerate(streams))
        begun = frames.begin() + begun
        await connection.send(begun[: caller.rng.randrange(len(begun))] if when == "http2 head" else begun)
        await asyncio.sleep(caller.rng.random() / 10)
    else:
        await connection.send(caller.head("GET", f"/api/hang/{mark}"))
        await asyncio.sleep(caller.rng.random())
    if caller.rng.random() < 0.5:
        connection.reset()
    else:
        connection.close()


async def slow_caller(caller: Caller) -> None:
    """Takes its time, and gets its answer."""
    mark = caller.mark()
    body = content(mark, 5_000)
    request = caller.head("POST", f"/api/echo/{mark}", f"Content-Length: {len(body)}") + body
    cuts = sorted(caller.rng.sample(range(1, len(request)), 8))
    pieces = [request[start:end] for start, end in zip([0, *cuts], [*cuts, len(request)])]
    is_echo(await caller.ask("POST", *pieces, pause=0.2), mark, body)


MALFORMED: list[tuple[str, int, str]] = [
    ("nonsense\r\n\r\n", 400, "malformed"),
    ("GET /api/never/@ HTTP/2.0\r\nHost: localhost\r\n\r\n", 400, "malformed"),
    ("GET /api/never/@ HTTP/1.1\r\nHost: localhost\r\nX : 1\r\n\r\n", 400, "malformed"),
    ("GET /api/never/@ HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n", 400, "malformed"),
    ("GET /api/never/@ HTTP/1.1\r\n\r\n", 400, "malformed"),
    (
        "POST /api/never/@ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
        "5\r\nhello\r\n0\r\n\r\nGET /api/never/@ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        400,
        "malformed",
    ),
    ("POST /api/never/@ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1, 2\r\n\r\nx", 400, "malformed"),
    ("GET /api/never/@ HTTP/1.1\r\nHost: elsewhere.test\r\n\r\n", 421, "host"),
    ("GET /api/never/@/%00 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "path"),
    ("GET /api/never/@/../../../x HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "path"),
    ("TRACE /api/never/@ HTTP/1.1\r\nHost: localhost\r\n\r\n", 405, "never-forwarded"),
    ("GET /api/never/@ HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.test\r\n\r\n", 403, "origin"),
    ("GET /api/never/@ HTTP/1.1\r\nHost: localhost\r\nX: " + "x" * 70_000 + "\r\n\r\n", 431, "head"),
]


async def malformed(caller: Caller) -> None:
    """Refused with the right word, and nothing of it goes any further."""
    text, status, word = caller.rng.choice(MALFORMED)
    mark = caller.mark()
    connection = await Connection.open(caller.port)
    try:
        await connection.send(text.replace("@", mark).encode())
        answer = await connection.answer("GET")
        is_own(answer, status, word)
        if answer.is_last and not await connection.ends():
            raise Wrong(f"something follows the refusal of {text[:60]!r}")
    finally:
        connection.close()
