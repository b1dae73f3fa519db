"""Calls every method of grpc_server.py through countersign; prints one JSON line per check.

Arguments: host and port of the proxy, and the value of x-key that the proxy sets.
"""

import json
import queue
import sys
from concurrent import futures

import grpc

PATIENCE = 30
address, key = sys.argv[1:]
channel = grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])


def check(name, good, shown=""):
    print(json.dumps({"check": name, "good": bool(good), "shown": str(shown)}), flush=True)


def method(kind, name):
    return getattr(channel, kind)(f"/test.Echo/{name}")


def metadata_of(call):
    initial = dict(call.initial_metadata())
    trailing = [(key, value) for key, value in call.trailing_metadata()]
    return initial, trailing


unary = method("unary_unary", "Unary")
answer, call = unary.with_call(b"hello", timeout=PATIENCE, metadata=(("x-key", "callers"), ("x-mine", "1")))
initial, trailing = metadata_of(call)
check("unary", answer == b"hello", answer)
check("initial metadata", initial.get("initial") == "1", initial)
check("trailing metadata", ("trailing-bin", b"\x00\xff") in trailing, trailing)
check("the metadata of the proxy", [v for k, v in trailing if k == "seen-x-key"] == [key], trailing)
check("the metadata of the caller", ("seen-x-mine", "1") in trailing, trailing)

large = bytes(range(256)) * (3 << 12)
check("three megabytes", unary(large, timeout=PATIENCE) == large)
check("no content", unary(b"", timeout=PATIENCE) == b"")
packed = unary(large, timeout=PATIENCE, compression=grpc.Compression.Gzip)
check("compressed content", packed == large)

call = method("unary_stream", "Download")(b"1000", timeout=PATIENCE)
answers = list(call)
check("server streaming", answers == [b"%d" % number for number in range(1000)], len(answers))
check("its end", call.code() == grpc.StatusCode.OK, call.code())
check("an empty stream", list(method("unary_stream", "Download")(b"0", timeout=PATIENCE)) == [])

answer = method("stream_unary", "Upload")(iter([b"a", b"b", b"c"]), timeout=PATIENCE)
check("client streaming", answer == b"a|b|c", answer)

# Each message is sent only when the answer to the one before is there.
outgoing = queue.Queue()
call = method("stream_stream", "Chat")(iter(outgoing.get, None), timeout=PATIENCE)
answers = []
for word in (b"one", b"two", b"three"):
    outgoing.put(word)
    answers.append(next(call))
outgoing.put(None)
check("both ways at once", answers == [b"ONE", b"TWO", b"THREE"] and list(call) == [], answers)

try:
    method("unary_unary", "Refuse")(b"", timeout=PATIENCE)
    check("trailers only", False, "no error")
except grpc.RpcError as error:
    good = error.code() == grpc.StatusCode.FAILED_PRECONDITION and error.details() == "no: ü % \n"
    check("trailers only", good, (error.code(), error.details()))
    check("their metadata", ("reason", "none") in error.trailing_metadata(), error.trailing_metadata())

answers = []
try:
    for answer in method("unary_stream", "BreakOff")(b"", timeout=PATIENCE):
        answers.append(answer)
    check("an error after messages", False, "no error")
except grpc.RpcError as error:
    good = error.code() == grpc.StatusCode.DATA_LOSS and answers == [b"one", b"two"]
    check("an error after messages", good, (error.code(), error.details(), answers))

try:
    method("unary_unary", "Nothing")(b"", timeout=PATIENCE)
    check("an unknown method", False, "no error")
except grpc.RpcError as error:
    check("an unknown method", error.code() == grpc.StatusCode.UNIMPLEMENTED, error.code())

call = method("unary_stream", "Endless")(b"", timeout=PATIENCE)
check("a stream that stays open", next(call) == b"begun")
call.cancel()
answer = method("unary_unary", "WasCancelled")(b"", timeout=PATIENCE)
check("cancelling reaches the server", answer == b"yes", answer)

try:
    method("unary_unary", "Hold")(b"", timeout=0.5)
    check("a deadline", False, "no error")
except grpc.RpcError as error:
    check("a deadline", error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error.code())

with futures.ThreadPoolExecutor(max_workers=16) as pool:
    sent = [b"%d" % number for number in range(200)]
    received = list(pool.map(lambda message: unary(message, timeout=PATIENCE), sent))
check("two hundred calls at once", received == sent, len(received))
