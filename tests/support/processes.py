"""The running system: projector and API as processes, an HTTP client, a publisher, and waiting with a deadline."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import nats

from ops.devstack.servers.nats import NatsServer
from ops.token import sign

DEADLINE_S = 60.0
JWT_SECRET = "a-secret-for-tests-that-is-long-enough"
ADMIN = "ad000000-0000-4000-8000-000000000001"


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def eventually(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """Return the first true result of `condition` (plain or async); fail naming `what` after the deadline."""
    deadline = time.monotonic() + deadline_s
    while True:
        result = condition()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return result
        assert time.monotonic() < deadline, f"not within {deadline_s} s: {what}"
        await asyncio.sleep(0.02)


class System:
    """One projector and one API on given servers."""

    def __init__(self, database_url: str, broker: NatsServer, folder: Path) -> None:
        self.database_url = database_url
        self.broker = broker
        self.nats_url = broker.url
        self.jwt_secret = JWT_SECRET
        self.api_url = f"http://127.0.0.1:{free_port()}"
        self.projector_url = f"http://127.0.0.1:{free_port()}"
        """Of the projector that has no other name."""
        self.settings: dict[str, str] = {}
        """Further environment variables of processes launched from now on."""
        self._folder = folder
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self.admin_token = sign(JWT_SECRET, ADMIN, admin=True, ttl_s=3600)

    @property
    def environment(self) -> dict[str, str]:
        """The processes' environment variables."""
        return os.environ | {
            "MEMBERSHIP_DATABASE_URL": self.database_url,
            "MEMBERSHIP_NATS_URL": self.nats_url,
            "MEMBERSHIP_JWT_SECRET": self.jwt_secret,
            "MEMBERSHIP_HTTP_PORT": self.api_url.rsplit(":", 1)[1],
            **self.settings,
        }

    async def start(self) -> None:
        """Start both and wait until the API is ready."""
        self.launch("project")
        self.launch("serve")
        await eventually(self._ready, "the API is ready")

    def launch(
        self, role: str, name: str | None = None, *options: str, signals_url: str | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a process of a role; its output goes to a file that `log` reads.

        A projector serves its metrics at `signals_url`; the unnamed one, by default, at `projector_url`.
        """
        log = (self._folder / f"{name or role}.log").open("ab")
        url = signals_url or ("" if name else self.projector_url)
        child = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "ops", role, *options],
            env=self.environment | ({"MEMBERSHIP_PROJECTOR_HTTP_PORT": url.rsplit(":", 1)[1]} if url else {}),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        log.close()
        self.children[name or role] = child
        return child

    def worker_pids(self, name: str = "serve") -> set[int]:
        """Return the process ids of an API's workers; Linux only."""
        supervisor = self.children[name].pid
        return {int(pid) for pid in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text("ascii").split()}

    def log(self, name: str) -> str:
        """Return the output of a process so far."""
        return (self._folder / f"{name}.log").read_text(encoding="utf-8")

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to a process; wait for its end if the signal is SIGKILL or SIGTERM."""
        self.children[name].send_signal(number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            self.children[name].wait(DEADLINE_S)

    async def stop(self) -> None:
        """End all processes."""
        for child in self.children.values():
            child.kill()
        for child in self.children.values():
            child.wait(DEADLINE_S)

    async def publish(self, messages: Iterable[tuple[str, bytes]], window: int = 200) -> int:
        """Publish (subject, body) pairs in order and return the last position."""
        client = await nats.connect(self.nats_url.split(","))
        stream = client.jetstream()
        last = 0
        batch: list[tuple[str, bytes]] = list(messages)
        try:
            for start in range(0, len(batch), window):
                # One connection writes in order, so positions follow the list even within a window.
                acks = await asyncio.gather(
                    *(stream.publish(*message, timeout=10) for message in batch[start : start + window])
                )
                last = max(last, *(ack.seq for ack in acks))
        finally:
            await client.close()
        return last

    async def wait_until_applied(self, position: int) -> None:
        """Return when the API's live position is `position` or later."""
        async with httpx.AsyncClient(base_url=self.api_url) as client:
            await eventually(lambda: self._has_reached(client, position), f"position {position} is applied")

    async def get(self, path: str, token: str | None = None, **options: Any) -> httpx.Response:
        """Send a GET request to the API, as an admin unless `token` is given."""
        headers = {"Authorization": f"Bearer {token or self.admin_token}"} | options.pop("headers", {})
        async with httpx.AsyncClient(base_url=self.api_url, timeout=15) as client:
            return await client.get(path, headers=headers, **options)

    async def fetch(self, statement: str, *args: object) -> list[asyncpg.Record]:
        """Run a statement in the system's database and return its rows."""
        connection = await asyncpg.connect(self.database_url)
        try:
            return await connection.fetch(statement, *args)
        finally:
            await connection.close()

    async def parked_positions(self) -> set[int]:
        """Return the positions of all parked events of the first generation."""
        return {row["position"] for row in await self.fetch("SELECT position FROM g1.parked_event")}

    async def _ready(self) -> bool:
        for name, child in self.children.items():
            assert child.poll() is None, f"{name} ended: {self.log(name)}"
        try:
            async with httpx.AsyncClient(base_url=self.api_url) as client:
                return (await client.get("/health/ready")).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    async def _has_reached(self, client: httpx.AsyncClient, position: int) -> bool:
        reply = await client.get("/health/ready")
        return bool(reply.status_code == httpx.codes.OK and reply.json()["position"] >= position)
