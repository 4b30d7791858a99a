"""The bound of everything that answers HTTP here: granian itself, handing out an answer that is there already.

Started as `python -m benchmarks.peers.bare PORT FILE`; FILE is the body, or what PEER_BODY_FILE names.
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


def answering(body: bytes) -> Any:  # noqa: ANN401 - an ASGI application
    """Return the application: the same answer to every GET, with the headers that this service sends, all fixed."""
    headers = [
        (b"etag", b'"9ca064fbf01ca574a37867cfdfc78910"'),
        (b"membership-position", b"1000000"),
        (b"link", LINK),
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
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
        wanted = scope["method"] == "GET"
        await send(start if wanted else refusal)
        await send(whole if wanted else nothing)

    return answer


async def serve(port: int, body: bytes) -> None:
    """Answer until told to stop."""
    server = Server(
        answering(body),
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
    """Serve, from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.bare", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("file", nargs="?", default=os.environ.get("PEER_BODY_FILE"), help="or PEER_BODY_FILE")
    given = parser.parse_args()
    if not given.file:
        parser.error("a file is needed")
    uvloop.run(serve(given.port, Path(given.file).read_bytes()))


if __name__ == "__main__":
    main()
