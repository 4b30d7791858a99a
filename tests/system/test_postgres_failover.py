"""A standby is promoted under load: nothing applied is lost, and no answer is older than what was stated before."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg
import httpx
import pytest

from ops.devstack.servers.nats import NatsServer
from projections.store import database
from projections.store.migrations import migrate
from tests.support.builders import customer_id, published
from tests.support.postgres_pair import PostgresPair
from tests.support.processes import System, eventually
from tests.support.publish_load import PublishLoad

EVENTS_BEFORE = 200
RECOVERED_S = 20.0
"""From the promotion until reads are answered again; generous, for a busy machine."""
READ_EVERY_S = 0.01


@pytest.fixture
async def folder() -> AsyncIterator[Path]:
    """A folder outside pytest's, which a second pytest closes to other accounts."""
    with TemporaryDirectory(prefix="membership-failover-") as folder:
        yield Path(folder)


@asynccontextmanager
async def running(folder: Path, nats: NatsServer, *, synchronous: bool) -> AsyncIterator[tuple[System, PostgresPair]]:
    """Run projector and API on a primary and its standby."""
    pair = PostgresPair(folder)
    await pair.start(synchronous=synchronous)
    connection = await database.connect(pair.url, "test")
    await migrate(connection)
    await connection.close()
    system = System(pair.url, nats, folder)
    try:
        await system.start()
        yield system, pair
    finally:
        await system.stop()
        pair.stop()


class Reader:
    """Reads one page again and again, and records what each answer states."""

    def __init__(self, system: System) -> None:
        self._system = system
        self.answers: list[tuple[float, int, int, str]] = []
        """When the answer came, its status, its position, and the code of its problem."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Read while the context is open."""
        task = asyncio.create_task(self._read())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _read(self) -> None:
        headers = {"Authorization": f"Bearer {self._system.admin_token}"}
        async with httpx.AsyncClient(base_url=self._system.api_url, headers=headers, timeout=15) as client:
            while True:
                reply = await client.get(f"/customers/{customer_id(1)}/campaigns")
                position = int(reply.headers.get("Membership-Position", 0))
                code = "" if reply.status_code == httpx.codes.OK else reply.json()["code"]
                self.answers.append((time.monotonic(), reply.status_code, position, code))
                await asyncio.sleep(READ_EVERY_S)

    @property
    def stated(self) -> int:
        """The highest position stated so far."""
        return max(position for _, _, position, _ in self.answers)

    def positions_since(self, began: float) -> list[int]:
        return [position for at, status, position, _ in self.answers if at > began and status == httpx.codes.OK]

    def codes_since(self, began: float) -> set[str]:
        return {code for at, _, _, code in self.answers if at > began and code}


async def first_events(system: System) -> None:
    events = [published("customer.upserted.v1", 1), published("campaign.upserted.v1", 1)]
    await system.wait_until_applied(await system.publish([*events, published("target.enrolled.v1", 1)]))


async def test_a_promoted_synchronous_standby_has_everything_stated(folder: Path, nats: NatsServer) -> None:
    async with running(folder, nats, synchronous=True) as (system, pair):
        await first_events(system)
        load, reader = PublishLoad(nats.url), Reader(system)
        async with load.running(), reader.running():
            await eventually(lambda: len(load.acknowledged) > EVENTS_BEFORE, "events are acknowledged")
            pair.primary.kill()
            killed_at, stated = time.monotonic(), reader.stated
            await asyncio.to_thread(pair.standby.promote)
            promoted_at = time.monotonic()
            await eventually(lambda: reader.positions_since(promoted_at), "reads are answered again", RECOVERED_S)
            await eventually(lambda: reader.stated > stated, "the projector continues", RECOVERED_S)
        await system.wait_until_applied(max(load.acknowledged.values()))
        assert min(reader.positions_since(killed_at)) >= stated
        assert reader.codes_since(killed_at) <= {"database_unavailable"}
        assert system.log("project").count("leadership_acquired") == 2
        assert "checkpoint_went_back" not in system.log("project")
        rows = await system.fetch("SELECT customer_id::text FROM g1.customer")
        assert {customer_id(number) for number in load.acknowledged} <= {row["customer_id"] for row in rows}


async def test_commits_lost_by_a_failover_are_applied_again_before_reads(folder: Path, nats: NatsServer) -> None:
    async with running(folder, nats, synchronous=False) as (system, pair):
        await first_events(system)
        await cut_off(pair)
        lost = await system.publish([published("target.enrolled.v1", 1, campaign=n) for n in range(2, 30)])
        await system.wait_until_applied(lost)
        reader = Reader(system)
        async with reader.running():
            await eventually(lambda: reader.answers and reader.stated == lost, "the position is stated")
            system.kill("project", signal.SIGSTOP)
            pair.primary.kill()
            killed_at = time.monotonic()
            await asyncio.to_thread(pair.standby.promote)
            await eventually(lambda: "read_model_behind" in reader.codes_since(killed_at), "the loss is noticed")
            assert set(reader.positions_since(killed_at)) <= {lost}, "answers that were under way"
            noticed_at = time.monotonic()
            system.kill("project", signal.SIGCONT)
            await eventually(lambda: reader.positions_since(noticed_at), "reads are answered again", RECOVERED_S)
        assert min(reader.positions_since(killed_at)) >= lost
        assert reader.codes_since(killed_at) <= {"database_unavailable", "read_model_behind"}
        assert "checkpoint_went_back" in system.log("project")
        assert "read_model_behind" in system.log("serve")
        page = await system.get(
            f"/customers/{customer_id(1)}/campaigns", params={"limit": 100, "include_deleted": True}
        )
        assert page.status_code == httpx.codes.OK
        system.database_url, system.settings["MEMBERSHIP_DATABASE_URL"] = pair.standby.url, pair.url
        rows = await system.fetch("SELECT count(*) AS n FROM g1.membership")
        assert rows[0]["n"] == 29

        await assert_former_primary_is_not_used(system, pair, lost)


async def assert_former_primary_is_not_used(system: System, pair: PostgresPair, lost: int) -> None:
    """Start the former primary again, which accepts writes; assert that everything continues on the new one."""
    await asyncio.to_thread(pair.primary.start)
    former = await asyncpg.connect(pair.primary.url)
    assert not await former.fetchval("SELECT pg_is_in_recovery()")
    system.launch("project", "second")
    await eventually(lambda: "standing_by" in system.log("second"), "a new projector finds the leader")
    terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'membership-%'"
    await system.fetch(terminate)
    last = await system.publish([published("target.enrolled.v1", 1, campaign=40)])
    await system.wait_until_applied(last)
    assert await former.fetchval("SELECT max(position) FROM control.checkpoint") == lost
    await former.close()


async def cut_off(pair: PostgresPair) -> None:
    """Stop replication, so that the standby misses what is committed from now on."""
    standby = await asyncpg.connect(pair.standby.url)
    await standby.execute("ALTER SYSTEM SET primary_conninfo = ''")
    await standby.execute("SELECT pg_reload_conf()")
    await standby.close()
    await eventually(lambda: is_cut_off(pair), "the standby no longer streams", 20)


async def is_cut_off(pair: PostgresPair) -> bool:
    connection = await asyncpg.connect(pair.primary.url)
    walsenders = await connection.fetchval("SELECT count(*) FROM pg_stat_replication")
    await connection.close()
    return bool(walsenders == 0)


async def test_a_rolling_restart_accepts_a_restored_read_model(own_system: System) -> None:
    position = await own_system.publish([published("customer.upserted.v1", n) for n in range(1, 20)])
    await own_system.wait_until_applied(position)
    path = f"/customers/{customer_id(1)}/campaigns"
    assert (await own_system.get(path)).status_code == httpx.codes.OK
    own_system.kill("project")
    await own_system.fetch("UPDATE control.checkpoint SET position = 5")
    reply = await own_system.get(path, params={"limit": 7})
    assert (reply.status_code, reply.json()["code"]) == (503, "read_model_behind")
    assert reply.headers["Retry-After"] == "1"
    own_system.kill("serve", signal.SIGHUP)

    async def accepted() -> bool:
        reply = await own_system.get(path, params={"limit": 7})
        position: str | None = reply.headers.get("Membership-Position")
        return position == "5"

    await eventually(accepted, "new workers answer from the restored position")
