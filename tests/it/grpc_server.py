"""A gRPC server whose messages are plain bytes; it prints its port.

What a call was sent with comes back in its trailing metadata, so that clients can look at it.
"""

import threading
from concurrent import futures

import grpc

cancelled = threading.Event()


def tell(context):
    seen = [(f"seen-{key}", value) for key, value in context.invocation_metadata() if key.startswith("x-")]
    context.send_initial_metadata((("initial", "1"),))
    context.set_trailing_metadata((*seen, ("trailing-bin", b"\x00\xff")))


def unary(request, context):
    tell(context)
    return request


def download(request, context):
    tell(context)
    for number in range(int(request)):
        yield b"%d" % number


def upload(requests, context):
    tell(context)
    return b"|".join(requests)


def chat(requests, context):
    tell(context)
    for request in requests:
        yield request.upper()


def refuse(request, context):
    context.set_trailing_metadata((("reason", "none"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no: ü % \n")


def break_off(request, context):
    yield b"one"
    yield b"two"
    context.abort(grpc.StatusCode.DATA_LOSS, "lost")


def endless(request, context):
    context.add_callback(cancelled.set)
    yield b"begun"
    cancelled.wait(60)


def was_cancelled(request, context):
    return b"yes" if cancelled.wait(30) else b"no"


def hold(request, context):
    """Answers nothing until the call is over."""
    over = threading.Event()
    context.add_callback(over.set)
    over.wait(60)
    return b""


methods = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Download": grpc.unary_stream_rpc_method_handler(download),
    "Upload": grpc.stream_unary_rpc_method_handler(upload),
    "Chat": grpc.stream_stream_rpc_method_handler(chat),
    "Refuse": grpc.unary_unary_rpc_method_handler(refuse),
    "BreakOff": grpc.unary_stream_rpc_method_handler(break_off),
    "Endless": grpc.unary_stream_rpc_method_handler(endless),
    "WasCancelled": grpc.unary_unary_rpc_method_handler(was_cancelled),
    "Hold": grpc.unary_unary_rpc_method_handler(hold),
}
server = grpc.server(futures.ThreadPoolExecutor(max_workers=64))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", methods),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(port, flush=True)
server.wait_for_termination()
