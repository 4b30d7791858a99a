"""A server that is no replica of the primary is never read, and a sentence names the setting and the fix."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from projections.store import database as databases
from projections.store.migrations import migrate
from tests.support.command import membership
from tests.support.processes import System, eventually
from tests.support.replicated import ReplicatedSystem, replicated_system
from tests.support.scenario import Scenario, client_of, names, path_of
from tests.support.standby import in_database, pause_replay, resume_replay, run

SOON_S = 30.0


@pytest.fixture(scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ReplicatedSystem]:
    """A primary, one standby, projector and API."""
    async with replicated_system(tmp_path_factory.mktemp("replicas")) as system:
        yield system


async def other_database(system: ReplicatedSystem, _elsewhere: str) -> str:
    await run(system.primary.url, "CREATE DATABASE elsewhere")
    url = in_database(system.primary, "elsewhere")
    connection = await databases.connect(url, "test")
    await migrate(connection)
    await connection.close()

    async def replicated() -> bool:
        return bool(await run(system.standby.url, "SELECT count(*) FROM pg_database WHERE datname = 'elsewhere'"))

    await eventually(replicated, "the standby has the database")
    return in_database(system.standby, "elsewhere")


async def no_grants(system: ReplicatedSystem, _elsewhere: str) -> str:
    await run(system.primary.url, "CREATE ROLE nobody LOGIN PASSWORD 'secret'")

    async def replicated() -> bool:
        return bool(await run(system.standby.url, "SELECT count(*) FROM pg_roles WHERE rolname = 'nobody'"))

    await eventually(replicated, "the standby has the role")
    return urlsplit(system.standby.url)._replace(netloc=f"nobody:secret@127.0.0.1:{system.standby.port}").geturl()


async def another_cluster(_system: ReplicatedSystem, elsewhere: str) -> str:
    return elsewhere


async def the_primary(system: ReplicatedSystem, _elsewhere: str) -> str:
    return system.primary.url


async def wrong_password(system: ReplicatedSystem, _elsewhere: str) -> str:
    parts = urlsplit(system.standby.url)
    return parts._replace(netloc=f"{parts.username}:wrong@127.0.0.1:{parts.port}").geturl()


async def no_such_database(system: ReplicatedSystem, _elsewhere: str) -> str:
    return in_database(system.standby, "absent")


Case = Callable[[ReplicatedSystem, str], Awaitable[str]]
REFUSED: dict[str, tuple[Case, str]] = {
    "another cluster": (another_cluster, "Name a standby that pg_basebackup made from that primary."),
    "another database": (other_database, "Name the same database in both."),
    "the primary": (the_primary, "Name standbys only"),
    "a user without grants": (no_grants, "a user that may read its tables"),
    "a wrong password": (wrong_password, "password authentication failed"),
    "no such database": (no_such_database, "Name the database of MEMBERSHIP_DATABASE_URL"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_server_that_is_no_replica_is_refused_with_a_sentence(
    system: ReplicatedSystem, scenario: Scenario, tmp_path: Path, database_url: str, case: str
) -> None:
    customer = scenario.member_of(scenario.campaign("of the primary"))
    await scenario.publish_and_wait()
    url_of, sentence = REFUSED[case]
    api = System(system.database_url, system.broker, tmp_path)
    api.settings["MEMBERSHIP_READ_DATABASE_URL"] = url = await url_of(system, database_url)
    api.launch("serve")
    try:
        await eventually(api._ready, "the API is ready")
        async with client_of(api.api_url) as client:
            await eventually(lambda: counts(client, "refused"), "the server is refused", SOON_S)
            for limit in range(10, 20):
                reply = await client.get(f"{path_of(customer)}?limit={limit}", headers=scenario.as_admin())
                assert names(reply.json()) == ["of the primary"]
        log = api.log("serve")
        assert "replica_left_out" in log
        assert f"127.0.0.1:{urlsplit(url).port} in MEMBERSHIP_READ_DATABASE_URL" in log
        assert sentence in log
        assert str(urlsplit(url).password) not in log
    finally:
        await api.stop()


async def counts(client: httpx.AsyncClient, state: str) -> bool:
    return f'membership_replicas{{state="{state}"}} 1.0' in (await client.get("/metrics")).text


async def test_a_replica_without_the_live_generation_is_left_out_by_name(
    system: ReplicatedSystem, scenario: Scenario
) -> None:
    scenario.member_of(scenario.campaign("kept"))
    await scenario.publish_and_wait()
    await pause_replay(system.standby)
    assert (await membership(system.environment, "rebuild", "--yes")).code == 0
    await system.wait_until_state("behind", 1)
    assert "has generation g1 live, and the primary has g2" in system.log("serve")
    await resume_replay(system.standby)
    await system.wait_until_in_use(1)
