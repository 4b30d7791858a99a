"""During a PostgreSQL outage callers get 503 at once and never hang; afterwards reads recover quickly."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from ops.devstack.servers.nats import NatsServer
from ops.devstack.servers.postgres import PostgresServer
from projections import api_keys
from projections.store import database as databases
from projections.store.migrations import migrate
from tests.support.builders import owner_id
from tests.support.processes import System, eventually
from tests.support.scenario import Scenario, another_api, client_of, code_of, names, path_of
from tests.support.silence import processes_of, stopped

REJECTED_WITHIN_S = 1.0
RECOVERED_WITHIN_S = 5.0
HANG_S = 1.5
CALLERS = 4
SILENT_CALLERS = 600
CALLING_TAKES_S = 1.0
"""Time that this process itself needs to send hundreds of requests at once."""
SHORT_READ_S = 1
ANSWERED = (200, "all")
UNAVAILABLE = (503, "database_unavailable")
UNSYNCED = {"fsync": "off", "full_page_writes": "off"}
"""Commits are still written before they are acknowledged, so a server killed with SIGKILL keeps all of them."""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A PostgreSQL server that a test may stop, in a folder that no other pytest process removes."""
    with TemporaryDirectory(prefix="membership-") as folder:
        yield PostgresServer(Path(folder) / "data", settings=UNSYNCED)


@pytest.fixture(scope="module")
async def system(server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """Projector and API on servers for this module."""
    folder = tmp_path_factory.mktemp("system")
    broker = NatsServer(folder / "nats")
    broker.start()
    server.start()
    connection = await databases.connect(server.url, "test")
    await migrate(connection)
    await connection.close()
    system = System(server.url, broker, folder)
    try:
        await system.start()
        yield system
    finally:
        await system.stop()
        server.stop()
        broker.stop()


async def restarted(server: PostgresServer) -> float:
    """Start the server without blocking this process's requests; return the time at which it was up."""
    await asyncio.to_thread(server.start)
    return time.monotonic()


async def answers(client: httpx.AsyncClient, path: str, headers: dict[str, str] | None = None) -> bool:
    """Return whether a path answers 200; fail on a hang or on any status other than 200 and 503."""
    began = time.monotonic()
    reply = await client.get(path, headers=headers)
    assert time.monotonic() - began <= HANG_S
    assert reply.status_code in {200, 503}
    return reply.status_code == 200


async def test_an_api_started_during_an_outage_answers_503_then_recovers(
    server: PostgresServer, system: System, scenario: Scenario, client: httpx.AsyncClient
) -> None:
    customer = scenario.member_of(scenario.campaign("kept"))
    await scenario.publish_and_wait()
    connection = await databases.connect(server.url, "test")
    key = {"X-API-Key": await api_keys.create(connection, owner_id(1), is_admin=True, label="test", actor="test")}
    await connection.close()

    system.kill("serve")
    await asyncio.to_thread(server.stop)
    system.launch("serve")
    await eventually(lambda: _is_live(client), "the API is live")
    for path, headers in (
        (path_of(customer), scenario.as_admin()),
        (path_of(customer), key),
        (path_of(customer) + "?cursor=anything", scenario.as_admin()),
        ("/health/ready", {}),
    ):
        began = time.monotonic()
        reply = await client.get(path, headers=headers)
        assert time.monotonic() - began <= REJECTED_WITHIN_S
        assert code_of(reply) == UNAVAILABLE, path
        assert int(reply.headers["retry-after"]) >= 0
        assert reply.headers["x-request-id"]
    assert (await client.get(path_of(customer))).status_code == 401, "rejecting missing credentials needs no database"
    reply = await client.get(path_of(customer), params={"limit": "0"}, headers=scenario.as_admin())
    assert reply.status_code == 422, "rejecting invalid parameters needs no database"

    restarted_at = await restarted(server)
    await eventually(lambda: answers(client, path_of(customer), scenario.as_admin()), "reads", RECOVERED_WITHIN_S)
    await eventually(lambda: answers(client, "/health/ready"), "the API is ready", RECOVERED_WITHIN_S)
    assert time.monotonic() - restarted_at <= RECOVERED_WITHIN_S
    assert await scenario.names(customer, key) == ["kept"]


async def _is_live(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/health/live")).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("ending", ["stop", "kill"])
async def test_during_a_restart_of_postgresql_callers_get_200_or_503_fast(
    server: PostgresServer, system: System, scenario: Scenario, ending: str
) -> None:
    customer = scenario.member_of(*(scenario.campaign(f"campaign {n}") for n in range(5)))
    await scenario.publish_and_wait()
    expected = names(await scenario.page(customer))
    seen: Counter[tuple[int, str]] = Counter()
    slowest = 0.0
    finished = asyncio.Event()

    async def call() -> None:
        nonlocal slowest
        async with client_of(system.api_url) as caller:
            while not finished.is_set():
                began = time.monotonic()
                reply = await caller.get(path_of(customer), headers=scenario.as_admin())
                slowest = max(slowest, time.monotonic() - began)
                complete = reply.status_code == 200 and names(reply.json()) == expected
                seen[reply.status_code, "all" if complete else reply.json().get("code")] += 1

    callers = [asyncio.create_task(call()) for _ in range(CALLERS)]
    try:
        await eventually(lambda: seen[ANSWERED] > CALLERS, "the callers are answered")
        await asyncio.to_thread(getattr(server, ending))
        await eventually(lambda: seen[UNAVAILABLE] > CALLERS, "the callers get 503")
        restarted_at = await restarted(server)
        before = seen[ANSWERED]
        await eventually(lambda: seen[ANSWERED] > before + CALLERS, "the callers are answered again")
        recovery_s = time.monotonic() - restarted_at
    finally:
        finished.set()
        await asyncio.gather(*callers)
    assert seen.keys() == {ANSWERED, UNAVAILABLE}
    assert recovery_s <= RECOVERED_WITHIN_S
    assert slowest <= HANG_S


async def test_after_an_outage_waiting_for_new_events_works_again(scenario: Scenario, server: PostgresServer) -> None:
    customer = scenario.customer()
    await scenario.publish_and_wait()
    await asyncio.to_thread(server.stop)
    waiting = scenario.as_admin(**{"Membership-Min-Position": str(2**62), "Prefer": "wait=10"})
    began = time.monotonic()
    assert code_of(await scenario.ask(customer, waiting)) == UNAVAILABLE
    assert time.monotonic() - began <= HANG_S
    await restarted(server)
    scenario.enrol(customer, scenario.campaign("after"))
    await scenario.publish_and_wait()
    assert await scenario.names(customer) == ["after"]


async def test_an_api_is_not_ready_until_its_database_is_migrated(
    server: PostgresServer, system: System, tmp_path_factory: pytest.TempPathFactory
) -> None:
    connection = await asyncpg.connect(server.url)
    await connection.execute("CREATE DATABASE bare")
    await connection.close()
    url = server.url.rpartition("/")[0] + "/bare"
    bare = System(url, system.broker, tmp_path_factory.mktemp("bare"))
    bare.launch("serve")
    try:
        async with client_of(bare.api_url) as client:
            await eventually(lambda: _is_live(client), "the API is live")
            admin = {"Authorization": f"Bearer {bare.admin_token}"}
            key = {"X-API-Key": "mbr_000000000000_" + "0" * 40}
            calls = {"a page": (path_of(1), admin), "a cursor": (path_of(1) + "?cursor=x", admin)}
            calls |= {"by key": (path_of(1), key), "ready": ("/health/ready", {})}
            replies = {name: await client.get(path, headers=headers) for name, (path, headers) in calls.items()}
            assert {name: code_of(reply) for name, reply in replies.items()} == dict.fromkeys(calls, (503, "not_ready"))
            connection = await databases.connect(url, "test")
            await migrate(connection)
            await connection.close()
            bare.launch("project")
            await eventually(lambda: answers(client, "/health/ready"), "the API is ready", RECOVERED_WITHIN_S)
            assert (await client.get(path_of(1), headers=admin)).status_code in {200, 404}
    finally:
        await bare.stop()


async def raw_get(api_url: str, path: str, headers: dict[str, str]) -> tuple[int, str, float]:
    """Return status, problem code and seconds of a request on its own connection; httpx is slow with hundreds."""
    began = time.monotonic()
    parts = urlsplit(api_url)
    reading, writing = await asyncio.open_connection(parts.hostname, parts.port)
    lines = [f"GET {path} HTTP/1.1", "Host: api", "Connection: close", *(f"{k}: {v}" for k, v in headers.items())]
    writing.write("\r\n".join([*lines, "", ""]).encode())
    head, _, body = (await reading.read()).partition(b"\r\n\r\n")
    writing.close()
    status = int(head.split(b" ", 2)[1])
    return status, json.loads(body).get("code", "") if status >= 400 else "all", time.monotonic() - began


async def test_while_postgresql_does_not_answer_callers_get_503_in_a_second(
    server: PostgresServer, system: System, scenario: Scenario, client: httpx.AsyncClient
) -> None:
    customer = scenario.member_of(*(scenario.campaign(f"campaign {n}") for n in range(5)))
    await scenario.publish_and_wait()
    path, admin = path_of(customer), scenario.as_admin()
    wait = scenario.as_admin(**{"Membership-Min-Position": str(2**62), "Prefer": "wait=10"})
    for _ in range(3):  # the third response comes from the cache
        assert (await client.get(path, headers=admin)).status_code == 200
    calls = [(f"{path}?limit={1 + n % 200}", admin) for n in range(SILENT_CALLERS)]
    calls += [(f"{path}?q={n}", admin) for n in range(10)] + [(path, wait)] * 10
    with stopped(processes_of(server)):
        results = await asyncio.gather(*(raw_get(system.api_url, *call) for call in calls))
        assert {result[:2] for result in results} == {UNAVAILABLE}
        assert max(result[2] for result in results) <= REJECTED_WITHIN_S + CALLING_TAKES_S
        results = await asyncio.gather(*(raw_get(system.api_url, target, admin) for target in (path, "/health/ready")))
        assert {result[:2] for result in results} == {UNAVAILABLE}, "cached pages are not served either"
        assert max(result[2] for result in results) <= REJECTED_WITHIN_S
    resumed_at = time.monotonic()
    await eventually(lambda: answers(client, path, admin), "reads", RECOVERED_WITHIN_S)
    await eventually(lambda: answers(client, "/health/ready"), "the API is ready", RECOVERED_WITHIN_S)
    assert time.monotonic() - resumed_at <= RECOVERED_WITHIN_S


async def test_unresponsive_connections_cost_at_most_the_read_timeout_plus_1_s(
    server: PostgresServer, system: System, scenario: Scenario, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The server still answers the probe, so only the deadline of each request applies."""
    monkeypatch.setenv("MEMBERSHIP_READ_TIMEOUT_S", str(SHORT_READ_S))
    customer = scenario.member_of(scenario.campaign("kept"))
    await scenario.publish_and_wait()
    path, admin = path_of(customer), scenario.as_admin()
    connection = await asyncpg.connect(server.url)
    backends = "SELECT pid FROM pg_stat_activity WHERE application_name = 'membership-api'"
    before = {row["pid"] for row in await connection.fetch(backends)}
    async with another_api(system, tmp_path) as other:
        assert (await other.get(path, headers=admin)).status_code == 200
        pids = [row["pid"] for row in await connection.fetch(backends) if row["pid"] not in before]
        await connection.close()
        assert pids
        with stopped(pids):
            url = str(other.base_url)
            calls = (raw_get(url, f"{path}?limit={1 + n % 200}", admin) for n in range(SILENT_CALLERS))
            results = await asyncio.gather(*calls)
    assert {result[:2] for result in results} <= {UNAVAILABLE, ANSWERED}
    assert UNAVAILABLE in {result[:2] for result in results}
    assert max(result[2] for result in results) <= SHORT_READ_S + 1 + CALLING_TAKES_S


async def test_an_outage_is_logged_once_a_second_with_a_count(
    server: PostgresServer, system: System, scenario: Scenario, client: httpx.AsyncClient
) -> None:
    customer = scenario.member_of(scenario.campaign("kept"))
    await scenario.publish_and_wait()
    before = system.log("serve").count("database_unavailable")
    began = time.monotonic()
    await asyncio.to_thread(server.stop)
    for n in range(100):
        reply = await client.get(f"{path_of(customer)}?limit={1 + n}", headers=scenario.as_admin())
        assert code_of(reply) == UNAVAILABLE
    await restarted(server)
    lines = system.log("serve").count("database_unavailable") - before
    assert 1 <= lines <= 2 + (time.monotonic() - began)
    await eventually(lambda: answers(client, path_of(customer), scenario.as_admin()), "reads", RECOVERED_WITHIN_S)
