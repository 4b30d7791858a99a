"""The measured stack: real servers and processes in a temporary folder."""

import asyncio
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from benchmarks.http import Endpoint
from ops.devstack.programs import Api, Projector, child_environment, http_get, run_command
from ops.devstack.servers.child import ChildProcess
from ops.devstack.servers.nats import NatsServer
from ops.devstack.servers.ports import free_port
from ops.devstack.servers.postgres import PostgresServer
from ops.devstack.servers.standby import StandbyServer
from ops.devstack.supervisor import in_steps
from ops.publisher import Publication, publish_events
from ops.token import sign

SECRET: Final = "a-secret-for-benchmarks-that-is-long-enough"  # noqa: S105 - of a stack that lives for a minute
ADMIN: Final = "ad000000-0000-4000-8000-000000000001"
TOKEN_S: Final = 7_200
SHARED_BUFFERS: Final = "1GB"
"""The starting value in PostgreSQL's manual for a machine with 4 GB; the data set and the peers' tables fit."""
MAX_WAL_SIZE: Final = "4GB"
"""Half of deploy/postgresql.conf, for all systems alike: a catch-up reaches the default of 1 GB within seconds."""
DEADLINE_S: Final = 600.0


class Stack:
    """The running servers and processes, as benchmarks use them."""

    def __init__(self, postgres: PostgresServer, nats: NatsServer, folder: Path) -> None:
        self.endpoint = Endpoint(free_port(), sign(SECRET, ADMIN, admin=True, ttl_s=TOKEN_S))
        self.nats_url = nats.url
        self.postgres = postgres
        self.database_url = postgres.url
        self.folder = folder
        self._settings = child_environment(postgres.url, nats.url, SECRET, self.endpoint.port)
        self.environment = os.environ | self._settings
        self.projector = Projector(folder / "projector.log", self._settings, ())
        self.api = Api(folder / "api.log", self._settings, ())

    async def migrate(self) -> None:
        """Migrate the database to this release."""
        await in_steps(run_command("migrate", self.folder / "migrate.log", self._settings, ()))

    def applied(self) -> int:
        """Return the position of the API's answers; 0 before it is ready."""
        response = http_get(self.endpoint.port, "/health/ready")
        return int(json.loads(response[1])["position"]) if response and response[0] == 200 else 0  # noqa: PLR2004

    async def wait_for(self, position: int) -> None:
        """Return once the API answers from `position`; raise after a deadline."""
        deadline = time.monotonic() + DEADLINE_S
        while self.applied() < position:
            if time.monotonic() > deadline:
                raise TimeoutError(f"position {position} was not applied within {DEADLINE_S} s")
            await asyncio.sleep(0.01)

    async def publish(self, publications: Iterable[Publication]) -> int:
        """Publish and return the last position."""
        last = 0
        async for receipt in publish_events(self.nats_url, publications):
            last = max(last, receipt.position)
        return last


@asynccontextmanager
async def running() -> AsyncIterator[Stack]:
    """Start everything, yield it, stop it in reverse order."""
    with tempfile.TemporaryDirectory(prefix="membership-bench-") as name:
        folder = Path(name)
        postgres = PostgresServer(
            folder / "postgres", settings={"shared_buffers": SHARED_BUFFERS, "max_wal_size": MAX_WAL_SIZE}
        )
        nats = NatsServer(folder / "nats")
        started: list[ChildProcess] = []
        try:
            for server in (postgres, nats):
                await in_steps(server.starting())
                started.append(server)
            stack = Stack(postgres, nats, folder)
            await stack.migrate()
            for program in (stack.projector, stack.api):
                await in_steps(program.starting())
                started.append(program)
            await _ready(stack.endpoint)
            yield stack
        finally:
            for child in reversed(started):
                child.stop()


@asynccontextmanager
async def another_api(stack: Stack, *, workers: int, replica_url: str = "") -> AsyncIterator[tuple[Endpoint, int]]:
    """Start one more API over the same read model, on another port; yield it and its supervisor's process id.

    With `replica_url` it reads pages from there.
    """
    endpoint = Endpoint(free_port(), stack.endpoint.token)
    settings = child_environment(stack.database_url, stack.nats_url, SECRET, endpoint.port)
    settings["MEMBERSHIP_HTTP_WORKERS"] = str(workers)
    settings["MEMBERSHIP_READ_DATABASE_URL"] = replica_url
    api = Api(stack.folder / "another-api.log", settings, ())
    await in_steps(api.starting())
    try:
        await _ready(endpoint)
        yield endpoint, api.pid
    finally:
        api.stop()


@asynccontextmanager
async def replica_of(stack: Stack) -> AsyncIterator[StandbyServer]:
    """Start a read replica of the stack's PostgreSQL."""
    standby = StandbyServer(stack.folder / "standby", stack.postgres)
    await in_steps(standby.starting())
    try:
        yield standby
    finally:
        standby.stop()


async def _ready(endpoint: Endpoint) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while (response := http_get(endpoint.port, "/health/ready")) is None or response[0] != 200:  # noqa: PLR2004
        if time.monotonic() > deadline:
            raise TimeoutError("the API did not become ready")
        await asyncio.sleep(0.05)
