"""Invented credentials, and what has to arrive at the upstream because of them."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
from typing import Optional

from .errors import BenchError
from .process import Server

API_KEY = "bench-api-key-5f1e9a"
CLIENT = "0c3a6f52-5d0e-4a7b-9a61-2f6f1c9d7e10"
BRANCH = "7b1d9e84-3c25-4f0a-8e7d-51a2c4b6d830"
DEVO_KEY = "bench-devo-key-20c7"
DEVO_SECRET = "bench-devo-secret-b81d"

# How countersign's configurations refer to them.
ENVIRONMENT = {
    "BENCH_API_KEY": API_KEY,
    "BENCH_DEVO_KEY": DEVO_KEY,
    "BENCH_DEVO_SECRET": DEVO_SECRET,
}


def fields_at_upstream(server: Server, path: str, content: Optional[bytes] = None) -> dict[str, str]:
    """The fields that the upstream got with a request through this server."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request("GET" if content is None else "POST", path, body=content)
        answer = connection.getresponse()
        text = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise BenchError(f"{server.name} answered {answer.status} to {path}: {text[:200]!r}")
    fields: dict[str, str] = json.loads(text)
    return fields


def check_token_fields(server: Server, upstream: Server) -> None:
    """A proxy that does less than the others must not win."""
    fields = fields_at_upstream(server, "/fields")
    wanted = {
        "Host": f"127.0.0.1:{upstream.port}",
        "Api-Key": API_KEY,
        "Client": CLIENT,
        "Branch": BRANCH,
    }
    for name, value in wanted.items():
        if fields[name] != value:
            raise BenchError(f"{server.name} sent {name}: {fields[name]!r} instead of {value!r}")


def check_signature(server: Server, path: str, content: bytes) -> None:
    """The signature must be the HMAC-SHA256 of key, content and timestamp."""
    fields = fields_at_upstream(server, path, content)
    base = DEVO_KEY.encode() + content + fields["x-logtrust-timestamp"].encode()
    wanted = hmac.new(DEVO_SECRET.encode(), base, hashlib.sha256).hexdigest()
    if fields["x-logtrust-reseller-apikey"] != DEVO_KEY or fields["x-logtrust-sign"] != wanted:
        raise BenchError(f"{server.name} signed {len(content)} bytes wrongly")
