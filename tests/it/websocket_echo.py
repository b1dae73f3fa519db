"""A WebSocket server that echoes every message; it prints its port.

Argument: the value that the field X-Key has to have. Who does not send it is answered 401.
"""

import asyncio
import logging
import os
import sys
from http import HTTPStatus

# The longest messages of the conformance cases come in more fragments than it takes by default.
os.environ["WEBSOCKETS_MAX_FRAGMENTS"] = "1000000"

from websockets.asyncio.server import serve  # noqa: E402


def admit(connection, request):
    if request.headers.get_all("X-Key") != [sys.argv[1]]:
        return connection.respond(HTTPStatus.UNAUTHORIZED, "no key\n")
    return None


async def echo(connection):
    async for message in connection:
        await connection.send(message)


async def main():
    # Broken frames are what the cases are made of.
    logging.getLogger("websockets.server").setLevel(logging.CRITICAL)
    async with serve(echo, "127.0.0.1", 0, process_request=admit, max_size=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.Future()


asyncio.run(main())
