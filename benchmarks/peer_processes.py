"""The peers as processes, run by the interpreter that has their frameworks, from `make bench-setup`."""

import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar, Final

from benchmarks.http import Endpoint
from benchmarks.stack import SECRET, Stack
from ops.devstack.programs import http_get
from ops.devstack.servers.child import ChildProcess, launch
from ops.devstack.servers.ports import free_port
from ops.devstack.supervisor import in_steps

ROOT: Final = Path(__file__).parents[1]
PYTHON: Final = ROOT / ".bench-venv" / "bin" / "python"


class Peer(ChildProcess):
    """`python -m benchmarks.peers.<module>`."""

    module: ClassVar[str]

    def __init__(self, log: Path, arguments: Sequence[object]) -> None:
        super().__init__(log)
        self._arguments = arguments

    def _prepare(self) -> Iterator[float]:
        yield from ()

    def _launch(self, descriptors: Sequence[int]) -> subprocess.Popen[bytes]:
        command: list[str | Path] = [PYTHON, "-m", f"benchmarks.peers.{self.module}", *map(str, self._arguments)]
        return launch(command, self.log, folder=str(ROOT), descriptors=descriptors)

    def _ready(self) -> bool:
        return True


class HttpPeer(Peer):
    """A peer that serves HTTP: ready when it sends any response."""

    def __init__(self, log: Path, port: int, arguments: Sequence[object]) -> None:
        super().__init__(log, arguments)
        self._port = port

    def _ready(self) -> bool:
        return http_get(self._port, "/") is not None


class FastApi(HttpPeer):
    """The read-side peer."""

    name: ClassVar[str] = "FastAPI"
    module: ClassVar[str] = "fastapi_app"


class Granian(HttpPeer):
    """The upper bound of reads."""

    name: ClassVar[str] = "bare granian"
    module: ClassVar[str] = "bare"


class FastStream(Peer):
    """The write-side peer."""

    name: ClassVar[str] = "FastStream"
    module: ClassVar[str] = "faststream_app"


@asynccontextmanager
async def fastapi(stack: Stack) -> AsyncIterator[Endpoint]:
    """Run FastAPI on the peers' tables in this stack's database."""
    port = free_port()
    arguments = ("--port", port, "--database-url", stack.database_url, "--jwt-secret", SECRET)
    async with _running(FastApi(stack.folder / "fastapi.log", port, arguments)):
        yield Endpoint(port, stack.endpoint.token)


@asynccontextmanager
async def granian(stack: Stack, body: bytes, encoding: str = "") -> AsyncIterator[Endpoint]:
    """Run a bare granian that always returns `body`, which is in the content coding `encoding` if that is named."""
    port = free_port()
    file = stack.folder / "answer"
    file.write_bytes(body)
    arguments = (port, file, *(("--encoding", encoding) if encoding else ()))
    async with _running(Granian(stack.folder / "granian.log", port, arguments)):
        yield Endpoint(port, stack.endpoint.token, encoding)


@asynccontextmanager
async def faststream(stack: Stack) -> AsyncIterator[None]:
    """Run FastStream on this stack's stream and the peers' tables in its database."""
    arguments = ("--nats-url", stack.nats_url, "--database-url", stack.database_url)
    async with _running(FastStream(stack.folder / "faststream.log", arguments)):
        yield


@asynccontextmanager
async def _running(peer: Peer) -> AsyncIterator[None]:
    await in_steps(peer.starting())
    try:
        yield
    finally:
        await in_steps(peer.stopping())
