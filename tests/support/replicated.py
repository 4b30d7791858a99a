"""The running system with a primary and standbys of its own: pages are read from the standbys."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from ops.devstack.servers.nats import NatsServer
from ops.devstack.servers.postgres import PostgresServer
from ops.devstack.servers.standby import StandbyServer
from projections.store import database as databases
from projections.store.migrations import migrate
from tests.support.metrics import value_of
from tests.support.processes import System, eventually
from tests.support.standby import QUICK


def read_url(*standbys: PostgresServer) -> str:
    """Return one URL that names all of these servers."""
    parts = urlsplit(standbys[0].url)
    credentials = parts.netloc.rpartition("@")[0]
    hosts = ",".join(f"127.0.0.1:{standby.port}" for standby in standbys)
    return parts._replace(netloc=f"{credentials}@{hosts}").geturl()


class ReplicatedSystem(System):
    """A system whose API reads from standbys."""

    def __init__(
        self, primary: PostgresServer, standbys: list[StandbyServer], broker: NatsServer, folder: Path
    ) -> None:
        super().__init__(primary.url, broker, folder)
        self.primary = primary
        self.standbys = standbys
        self.settings["MEMBERSHIP_READ_DATABASE_URL"] = read_url(*standbys)

    @property
    def standby(self) -> PostgresServer:
        """The first standby."""
        return self.standbys[0]

    async def metric(self, name: str) -> float:
        """Return a metric of the API by name and labels, 0 if it has no value."""
        return value_of((await self.get("/metrics")).text, name)

    async def reads(self, server: str) -> float:
        """Return how many reads were answered by `replica` or `primary`."""
        return await self.metric(f'membership_reads_total{{server="{server}"}}')

    async def wait_until_in_use(self, replicas: int) -> None:
        """Return once the API uses this number of replicas."""
        await self.wait_until_state("in_use", replicas)

    async def wait_until_state(self, state: str, replicas: int) -> None:
        """Return once the API counts this number of replicas in a state."""

        async def reached() -> bool:
            return await self.metric(f'membership_replicas{{state="{state}"}}') == replicas

        await eventually(reached, f"{replicas} replicas are {state}", deadline_s=30)


@asynccontextmanager
async def replicated_system(folder: Path, standbys: int = 1, apply_delay: str = "0") -> AsyncIterator[ReplicatedSystem]:
    """Run projector and API on servers of their own; the standbys apply commits after a delay."""
    # Not in pytest's folder: a second pytest closes that to the account PostgreSQL runs as.
    with TemporaryDirectory(prefix="membership-tests-") as servers_folder:
        primary = PostgresServer(Path(servers_folder) / "primary", settings=QUICK)
        primary.start()
        connection = await databases.connect(primary.url, "test")
        await migrate(connection)
        await connection.close()
        delayed = {"recovery_min_apply_delay": apply_delay}
        copies = [StandbyServer(Path(servers_folder) / f"standby{n}", primary, delayed) for n in range(standbys)]
        broker = NatsServer(folder / "nats")
        servers = (broker, *copies)
        for server in servers:
            server.start()
        system = ReplicatedSystem(primary, copies, broker, folder)
        try:
            await system.start()
            await system.wait_until_in_use(standbys)
            yield system
        finally:
            await system.stop()
            for server in (*servers, primary):
                server.stop()
