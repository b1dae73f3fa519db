"""What callers ask for. Each kind knows beforehand what may come of it, and that is one thing or very few."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from typing import Awaitable, Callable, Optional

from .marks import content
from .wire import Answer, Connection, NoAnswer, chunks

# The sizes of content, small ones mostly; the largest are beyond what is held in memory.
SIZES = [0, 1, 100, 4_000, 20_000, 70_000]
LARGE = [300_000, 1_000_000, 3_000_000]


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
        if self.rng.random() < 0.5:
            return [self.head(method, target, f"Content-Length: {len(body)}"), body]
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


def is_content_of(answer: Answer, mark: str, size: int, status: int = 200, whole: bool = True) -> None:
    if answer.value("x-mark") != mark:
        raise Wrong(f"another's answer: {answer}")
    expect(answer, answer.status == status and answer.whole == whole and not answer.word)
    if answer.content != content(mark, size):
        raise Wrong(f"not the content of {mark}, {size} bytes: {answer}")


def is_own(answer: Answer, status: int, word: str) -> None:
    """An answer of countersign's own."""
    expect(answer, (answer.status, answer.word, answer.whole) == (status, word, True))
    if answer.value("x-mark"):
        raise Wrong(f"with a field of the upstream: {answer}")


# The plain route: an upstream that does what the path says.


async def get(caller: Caller) -> None:
    mark, size = caller.mark(), caller.size()
    query = f"?size={size}" + caller.rng.choice(["", "&chunked=1"])
    is_content_of(await caller.ask("GET", caller.head("GET", f"/api/fine/{mark}{query}")), mark, size)


async def get_large(caller: Caller) -> None:
    mark, size = caller.mark(), caller.rng.choice(LARGE)
    query = f"?size={size}" + caller.rng.choice(["", "&chunked=1"])
    pace = caller.rng.choice([0, 0, 0.005])
    answer = await caller.ask("GET", caller.head("GET", f"/api/fine/{mark}{query}"), pace=pace)
    is_content_of(answer, mark, size)


async def get_last(caller: Caller) -> None:
    mark, size = caller.mark(), caller.size()
    is_content_of(await caller.ask("GET", caller.head("GET", f"/api/last/{mark}?size={size}")), mark, size)


async def head(caller: Caller) -> None:
    mark, size = caller.mark(), caller.size()
    answer = await caller.ask("HEAD", caller.head("HEAD", f"/api/fine/{mark}?size={size}"))
    is_content_of(answer, mark, 0)
    expect(answer, answer.value("content-length") == str(size))


async def upload(caller: Caller) -> None:
    mark = caller.mark()
    method = caller.rng.choice(["POST", "POST", "PUT", "PATCH"])
    body = content(mark, caller.size(large=0.1))
    answer = await caller.ask(method, *caller.framed(method, f"/api/echo/{mark}", body))
    is_echo(answer, mark, body)


async def upload_when_asked(caller: Caller) -> None:
    mark = caller.mark()
    body = content(mark, caller.size())
    connection = await caller.connection()
    try:
        fields = (f"Content-Length: {len(body)}", "Expect: 100-continue")
        await connection.send(caller.head("POST", f"/api/echo/{mark}", *fields))
        if body:
            asked = await connection.head()
            expect(asked, asked.status == 100)
            await connection.send(body)
        answer = await connection.answer("POST")
    except BaseException:
        connection.close()
        raise
    caller.keep(connection, answer)
    is_echo(answer, mark, body)


def is_echo(answer: Answer, mark: str, body: bytes) -> None:
    if answer.value("x-mark") != mark:
        raise Wrong(f"another's answer: {answer}")
    wanted = f"{mark} {len(body)} {hashlib.sha256(body).hexdigest()}\n".encode()
    expect(answer, answer.status == 200 and answer.whole and answer.content == wanted)


async def pipelined(caller: Caller) -> None:
    """Two requests at once: two answers, in their order."""
    first, second = caller.mark(), caller.mark()
    requests = [caller.head("GET", f"/api/fine/{mark}?size=1000") for mark in (first, second)]
    connection = await caller.connection()
    try:
        await connection.send(b"".join(requests))
        is_content_of(await connection.answer("GET"), first, 1_000)
        answer = await connection.answer("GET")
    except BaseException:
        connection.close()
        raise
    caller.keep(connection, answer)
    is_content_of(answer, second, 1_000)


async def slow_answer(caller: Caller) -> None:
    mark, size = caller.mark(), caller.size()
    is_content_of(await caller.ask("GET", caller.head("GET", f"/api/slow/{mark}?size={size}")), mark, size)


async def unauthorized(caller: Caller) -> None:
    """A token from the configuration cannot be renewed: the refusal is the caller's to see."""
    mark = caller.mark()
    answer = await caller.ask("GET", caller.head("GET", f"/api/unauthorized/{mark}?size=100"))
    is_content_of(answer, mark, 100, status=401)


async def breaks_off(caller: Caller) -> None:
    """The caller must see that the answer is not whole, and that what came is its own."""
    behaviour = caller.rng.choice(["truncated", "chunks-truncated", "reset-in-content"])
    mark, size = caller.mark(), caller.rng.choice(SIZES[1:])
    connection = await Connection.open(caller.port)
    try:
        await connection.send(caller.head("GET", f"/api/{behaviour}/{mark}?size={size}"))
        answer = await connection.answer("GET")
    finally:
        connection.close()
    if answer.value("x-mark") != mark:
        raise Wrong(f"another's answer: {answer}")
    expect(answer, answer.status == 200 and not answer.whole)
    if answer.content != content(mark, size)[: len(answer.content)]:
        raise Wrong(f"not the content of {mark}: {answer}")


async def no_answer(caller: Caller) -> None:
    behaviour = caller.rng.choice(["reset", "close"])
    method = caller.rng.choice(["GET", "POST"])
    mark = caller.mark()
    target = f"/api/{behaviour}/{mark}"
    pieces = caller.framed("POST", target, content(mark, 500)) if method == "POST" else [caller.head(method, target)]
    is_own(await caller.ask(method, *pieces), 502, "upstream-closed")


async def garbage(caller: Caller) -> None:
    answer = await caller.ask("GET", caller.head("GET", f"/api/garbage/{caller.mark()}"))
    is_own(answer, 502, "upstream-protocol")


async def hang(caller: Caller) -> None:
    answer = await caller.ask("GET", caller.head("GET", f"/api/hang/{caller.mark()}"))
    is_own(answer, 504, "upstream-timeout")


async def nowhere(caller: Caller) -> None:
    is_own(await caller.ask("GET", caller.head("GET", f"/nowhere/{caller.mark()}")), 404, "no-route")


# The stand-ins: tokens that end every few seconds, and signatures.


async def twinzo(caller: Caller) -> None:
    mark = caller.mark()
    target = f"/twinzo/v3/echo?mark={mark}"
    if caller.rng.random() < 0.5:
        answer, method, body = await caller.ask("GET", caller.head("GET", target)), "GET", b""
    else:
        # Small enough to be sent a second time when the token was taken back.
        method, body = "POST", content(mark, caller.rng.choice(SIZES[:5]))
        answer = await caller.ask(method, *caller.framed(method, target, body))
    is_told(answer, method, target[len("/twinzo") :], body)


async def devo(caller: Caller) -> None:
    """Signed content; the stand-in verifies it."""
    mark = caller.mark()
    target = f"/devo/probio/domain/{mark}"
    if caller.rng.random() < 0.2:
        method, body = "GET", b""
        answer = await caller.ask(method, caller.head(method, target))
    else:
        method, body = "POST", content(mark, caller.size(large=0.15))
        answer = await caller.ask(method, *caller.framed(method, target, body))
    failed = answer.status == 500 and answer.whole and not answer.word
    closed = answer.status == 502 and answer.word == "upstream-closed"
    if failed or closed:
        caller.excused += 1
        return
    is_told(answer, method, target[len("/devo") :], body)


def is_told(answer: Answer, method: str, target: str, body: bytes) -> None:
    """What a stand-in says that it received."""
    expect(answer, answer.status == 200 and answer.whole)
    said = json.loads(answer.content)
    wanted = {
        "method": method,
        "target": target,
        "body_len": len(body),
        "body_sha256": hashlib.sha256(body).hexdigest(),
    }
    wrong = {key: said.get(key) for key, value in wanted.items() if said.get(key) != value}
    if wrong:
        raise Wrong(f"a stand-in was sent {wrong} instead of {method} {target}, {len(body)} bytes")


# Callers with bad manners.


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
        begun = b"".join(http2_request(number * 2 + 1, *stream) for number, stream in enumerate(streams))
        begun = http2_begin() + begun
        await connection.send(begun[: caller.rng.randrange(len(begun))] if when == "http2 head" else begun)
        await asyncio.sleep(caller.rng.random() / 10)
    else:
        await connection.send(caller.head("GET", f"/api/hang/{mark}"))
        await asyncio.sleep(caller.rng.random())
    if caller.rng.random() < 0.5:
        connection.reset()
    else:
        connection.close()


def http2_begin() -> bytes:
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + http2_frame(4, 0, 0, b"")


def http2_request(stream: int, path: str, ended: bool) -> bytes:
    """The head of a GET, or of a POST without its content."""
    fields = (b"\x82" if ended else b"\x83") + b"\x86"
    # Index 4 of the static table is :path, 1 is :authority (RFC 7541, appendix A).
    for index, value in ((b"\x04", path.encode()), (b"\x01", b"localhost")):
        fields += index + bytes([len(value)]) + value
    return http2_frame(1, 5 if ended else 4, stream, fields)


def http2_frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return len(content).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + content


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


Kind = Callable[[Caller], Awaitable[None]]

# How often each comes, relative to the others.
KINDS: dict[str, tuple[int, Kind]] = {
    "get": (20, get),
    "get, large": (3, get_large),
    "get, the upstream's last": (3, get_last),
    "head": (4, head),
    "upload": (14, upload),
    "upload when asked": (2, upload_when_asked),
    "two at once": (3, pipelined),
    "slow answer": (2, slow_answer),
    "refused by the upstream": (2, unauthorized),
    "answer breaks off": (4, breaks_off),
    "no answer": (4, no_answer),
    "no HTTP": (2, garbage),
    "answer never comes": (1, hang),
    "no route": (1, nowhere),
    "twinzo": (14, twinzo),
    "devo": (12, devo),
    "caller goes away": (7, gone),
    "slow caller": (1, slow_caller),
    "malformed": (5, malformed),
}


async def ask_one(caller: Caller) -> tuple[str, Optional[str]]:
    """One request of a kind that chance decides. Returns the kind, and what is wrong with the answer."""
    name = caller.rng.choices(list(KINDS), [weight for weight, _ in KINDS.values()])[0]
    try:
        await KINDS[name][1](caller)
        caller.last = [*caller.last[-4:], name]
    except (Wrong, NoAnswer, OSError, asyncio.IncompleteReadError, ValueError) as error:
        return name, f"{type(error).__name__}: {error}"
    return name, None
