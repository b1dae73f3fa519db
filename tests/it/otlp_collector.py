"""A collector of traces: reads what it is sent by the official definitions of OTLP.

    otlp_collector.py [PORT]

Prints its port. POST /v1/traces is the collector; GET /seen is what it has seen, as JSON; POST
/answers sets, as a JSON list of {status, headers, after, rejected, message}, how the next exports are
answered.
"""

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

seen = []
answers = []
lock = threading.Lock()


def unknown(message):
    """True if something in the message is not of the protocol."""
    from google.protobuf.unknown_fields import UnknownFieldSet

    if len(UnknownFieldSet(message)) > 0:
        return True
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for inner in value if is_list(value) else [value]:
            if unknown(inner):
                return True
    return False


def is_list(value):
    return not hasattr(value, "ListFields")


def attributes(pairs):
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


def spans(request):
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield {
                    "resource": attributes(resource.resource.attributes),
                    "scope": scope.scope.name,
                    "trace": span.trace_id.hex(),
                    "id": span.span_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "name": span.name,
                    "kind": span.kind,
                    "start": span.start_time_unix_nano,
                    "end": span.end_time_unix_nano,
                    "attributes": attributes(span.attributes),
                    "status": span.status.code,
                    "flags": span.flags,
                }


class Collector(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, content, kind="application/json", headers=()):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        with lock:
            content = json.dumps(seen).encode()
        self.answer(200, content)

    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/answers":
            with lock:
                answers[:] = json.loads(content)
            self.answer(200, b"{}")
            return
        with lock:
            answer = answers.pop(0) if answers else {}
        time.sleep(answer.get("after", 0))
        status = answer.get("status", 200)
        request = ExportTraceServiceRequest()
        request.ParseFromString(content)
        with lock:
            seen.append(
                {
                    "path": self.path,
                    "headers": {name.lower(): value for name, value in self.headers.items()},
                    "raw": content.hex(),
                    "unknown": unknown(request),
                    "status": status,
                    "spans": list(spans(request)),
                }
            )
        reply = ExportTraceServiceResponse()
        if "rejected" in answer:
            reply.partial_success.rejected_spans = answer["rejected"]
            reply.partial_success.error_message = answer["message"]
        reply = reply.SerializeToString()
        self.answer(status, reply, "application/x-protobuf", answer.get("headers", {}).items())


port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
server = ThreadingHTTPServer(("127.0.0.1", port), Collector)
print(server.server_address[1], flush=True)
server.serve_forever()
