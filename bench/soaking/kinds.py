"""What callers ask for. Each kind knows beforehand what may come of it, and that is one thing or very few."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Awaitable, Callable, Optional

from .caller import LARGE, SIZES, Caller, Wrong, expect, is_content_of, is_echo, is_for, is_own
from .manners import gone, malformed, slow_caller
from .marks import content
from .wire import Answer, Connection, NoAnswer

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
    is_for(answer, mark)
    expect(answer, answer.status == 200 and not answer.whole)
    if answer.content != content(mark, size)[: len(answer.content)]:
        raise Wrong(f"not the content of {mark}: {answer}")


async def no_answer(caller: Caller) -> None:
    behaviour = caller.rng.choice(["reset", "close"])
    method = caller.rng.choice(["GET", "POST"])
    mark = caller.mark()
    target = f"/api/{behaviour}/{mark}"
    pieces = [caller.head(method, target)]
    if method == "POST":
        pieces = caller.framed(method, target, content(mark, 500))
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
    caller.asking = ""
    try:
        await KINDS[name][1](caller)
        caller.last = [*caller.last[-4:], name]
    except (Wrong, NoAnswer, OSError, asyncio.IncompleteReadError, ValueError) as error:
        return name, f"{caller.asking}: {type(error).__name__}: {error}"
    return name, None
