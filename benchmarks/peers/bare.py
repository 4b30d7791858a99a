"""The upper bound of every HTTP server here: granian itself, returning a fixed answer.

Started as `python -m benchmarks.peers.bare PORT FILE`; FILE, or PEER_BODY_FILE, has the body.
"""

import argparse
import asyncio
import os
import signal
from pathlib import Path
from typing import Any, Final

import uvloop
from granian.constants import Interfaces
from granian.log import LogLevels
from granian.server.embed import Server

BACKLOG: Final = 1024
LINK: Final = b", ".join(
    b'</customers/b1600000-0000-4000-8000-00000000b5b5/campaigns?limit=10&offset=%d>; rel="%b"' % (offset, relation)
    for relation, offset in {b"first": 0, b"last": 99_990, b"next": 10}.items()
)


def answering(body: bytes, encoding: str) -> Any:  # noqa: ANN401 - an ASGI application
    """Return an application that sends the same answer to every GET, with fixed values for this service's headers."""
    headers = [
        (b"etag", b'"9ca064fbf01ca574a37867cfdfc78910"'),
        (b"membership-position", b"1000000"),
        (b"link", LINK),
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        *([(b"content-encoding", encoding.encode())] if encoding else []),
        (b"cache-control", b"private, no-cache"),
        (b"vary", b"Authorization, X-API-Key, Accept-Encoding"),
        (b"x-content-type-options", b"nosniff"),
        (b"x-request-id", b"bd6efad8c5514f9d998eb352f4b71a4d"),
        (b"server-timing", b"total;dur=0.01"),
    ]
    start = {"type": "http.response.start", "status": 200, "headers": headers}
    refusal = {"type": "http.response.start", "status": 405, "headers": [(b"allow", b"GET")]}
    whole = {"type": "http.response.body", "body": body, "more_body": False}
    nothing = {"type": "http.response.body", "body": b"", "more_body": False}

    async def answer(scope: dict[str, Any], _receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI's
        if scope["type"] != "http":
            return
        is_get = scope["method"] == "GET"
        await send(start if is_get else refusal)
        await send(whole if is_get else nothing)

    return answer


async def serve(port: int, body: bytes, encoding: str) -> None:
    """Serve until SIGTERM or SIGINT."""
    server = Server(
        answering(body, encoding),
        address="127.0.0.1",
        port=port,
        interface=Interfaces.ASGI,
        backlog=BACKLOG,
        websockets=False,
        log_level=LogLevels.error,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, server.stop)
    await server.serve()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.bare", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("file", nargs="?", default=os.environ.get("PEER_BODY_FILE"), help="or PEER_BODY_FILE")
    parser.add_argument("--encoding", default="", help="the body's content coding")
    arguments = parser.parse_args()
    if not arguments.file:
        parser.error("a file is needed")
    uvloop.run(serve(arguments.port, Path(arguments.file).read_bytes(), arguments.encoding))


if __name__ == "__main__":
    main()
