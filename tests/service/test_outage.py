"""What callers are told while PostgreSQL is away or comes back: 503 at once, never a hang, and soon answers again."""

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
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

REFUSED_WITHIN_S = 1.0
RECOVERED_WITHIN_S = 5.0
HANG_S = 1.5
CALLERS = 4
SILENT_CALLERS = 600
CALLING_TAKES_S = 1.0
"""What this process itself needs for hundreds of requests at once."""
SHORT_READ_S = 1
ANSWERED = (200, "all")
UNAVAILABLE = (503, "database_unavailable")
UNSYNCED = {"fsync": "off", "full_page_writes": "off"}
"""Commits are still written before they are told, so that a server killed by -9 has all of them."""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A PostgreSQL server that a test may stop, where no other pytest closes its folder."""
    with TemporaryDirectory(prefix="membership-") as folder:
        yield PostgresServer(Path(folder) / "data", settings=UNSYNCED)


@pytest.fixture(scope="module")
async def system(server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """Projector and API on servers of this module's own."""
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


async def started_again(server: PostgresServer) -> float:
    """Start the server without holding up the requests of this process; return when it was there."""
    await asyncio.to_thread(server.start)
    return time.monotonic()


async def answers(client: httpx.AsyncClient, path: str, headers: dict[str, str] | None = None) -> bool:
    """Say whether a path answers 200; anything but that and 503 is a failure, and so is a hang."""
    began = time.monotonic()
    reply = await client.get(path, headers=headers)
    assert time.monotonic() - began <= HANG_S
    assert reply.status_code in {200, 503}
    return reply.status_code == 200


async def test_an_api_that_starts_while_postgresql_is_away_lives_refuses_at_once_and_recovers(
    server: PostgresServer, system: System, story: Scenario, client: httpx.AsyncClient
) -> None:
    customer = story.member_of(story.campaign("kept"))
    await story.publish_and_wait()
    connection = await databases.connect(server.url, "test")
    key = {"X-API-Key": await api_keys.create(connection, owner_id(1), is_admin=True, label="test", actor="test")}
    await connection.close()

    system.kill("serve")
    await asyncio.to_thread(server.stop)
    system.launch("serve")
    await eventually(lambda: _lives(client), "the API lives")
    for path, headers in (
        (path_of(customer), story.as_admin()),
        (path_of(customer), key),
        (path_of(customer) + "?cursor=anything", story.as_admin()),
        ("/health/ready", {}),
    ):
        began = time.monotonic()
        reply = await client.get(path, headers=headers)
        assert time.monotonic() - began <= REFUSED_WITHIN_S
        assert code_of(reply) == UNAVAILABLE, path
        assert int(reply.headers["retry-after"]) >= 0
        assert reply.headers["x-request-id"]
    assert (await client.get(path_of(customer))).status_code == 401, "who has no credentials needs no database"
    reply = await client.get(path_of(customer), params={"limit": "0"}, headers=story.as_admin())
    assert reply.status_code == 422, "nor do those who ask for nonsense"

    back = await started_again(server)
    await eventually(lambda: answers(client, path_of(customer), story.as_admin()), "reads", RECOVERED_WITHIN_S)
    await eventually(lambda: answers(client, "/health/ready"), "it is ready", RECOVERED_WITHIN_S)
    assert time.monotonic() - back <= RECOVERED_WITHIN_S
    assert await story.names(customer, key) == ["kept"]


async def _lives(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/health/live")).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("ending", ["stop", "kill"])
async def test_callers_of_a_postgresql_that_restarts_see_answers_or_503_and_never_wait_long(
    server: PostgresServer, system: System, story: Scenario, ending: str
) -> None:
    customer = story.member_of(*(story.campaign(f"campaign {n}") for n in range(5)))
    await story.publish_and_wait()
    whole = names(await story.page(customer))
    seen: Counter[tuple[int, str]] = Counter()
    slowest = 0.0
    over = asyncio.Event()

    async def call() -> None:
        nonlocal slowest
        async with client_of(system.api_url) as caller:
            while not over.is_set():
                began = time.monotonic()
                reply = await caller.get(path_of(customer), headers=story.as_admin())
                slowest = max(slowest, time.monotonic() - began)
                said = "all" if reply.status_code == 200 and names(reply.json()) == whole else reply.json().get("code")
                seen[reply.status_code, said] += 1

    callers = [asyncio.create_task(call()) for _ in range(CALLERS)]
    try:
        await eventually(lambda: seen[ANSWERED] > CALLERS, "the callers are answered")
        await asyncio.to_thread(getattr(server, ending))
        await eventually(lambda: seen[UNAVAILABLE] > CALLERS, "the callers are refused")
        back = await started_again(server)
        before = seen[ANSWERED]
        await eventually(lambda: seen[ANSWERED] > before + CALLERS, "the callers are answered again")
        took = time.monotonic() - back
    finally:
        over.set()
        await asyncio.gather(*callers)
    assert seen.keys() == {ANSWERED, UNAVAILABLE}
    assert took <= RECOVERED_WITHIN_S
    assert slowest <= HANG_S


async def test_after_an_outage_new_events_are_waited_for_and_seen_again(
    story: Scenario, server: PostgresServer
) -> None:
    customer = story.customer()
    await story.publish_and_wait()
    await asyncio.to_thread(server.stop)
    waiting = story.as_admin(**{"Membership-Min-Position": str(2**62), "Prefer": "wait=10"})
    began = time.monotonic()
    assert code_of(await story.ask(customer, waiting)) == UNAVAILABLE
    assert time.monotonic() - began <= HANG_S
    await started_again(server)
    story.enrol(customer, story.campaign("after"))
    await story.publish_and_wait()
    assert await story.names(customer) == ["after"]


async def test_an_api_on_a_database_that_was_never_migrated_is_not_ready_until_it_is(
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
            await eventually(lambda: _lives(client), "the API lives")
            admin = {"Authorization": f"Bearer {bare.admin_token}"}
            key = {"X-API-Key": "mbr_000000000000_" + "0" * 40}
            asked = {"a page": (path_of(1), admin), "a cursor": (path_of(1) + "?cursor=x", admin)}
            asked |= {"by key": (path_of(1), key), "ready": ("/health/ready", {})}
            said = {name: await client.get(path, headers=headers) for name, (path, headers) in asked.items()}
            assert {name: code_of(reply) for name, reply in said.items()} == dict.fromkeys(asked, (503, "not_ready"))
            connection = await databases.connect(url, "test")
            await migrate(connection)
            await connection.close()
            bare.launch("project")
            await eventually(lambda: answers(client, "/health/ready"), "it is ready", RECOVERED_WITHIN_S)
            assert (await client.get(path_of(1), headers=admin)).status_code in {200, 404}
    finally:
        await bare.stop()


def processes_of(server: PostgresServer) -> list[int]:
    """Return the pids of PostgreSQL's main process and of all its children."""
    assert server.pid is not None
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text(encoding="ascii").split()
    return [server.pid, *map(int, children)]


@contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """Stop processes without ending them: their connections stay open, and nothing is answered."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


async def raw_get(api_url: str, path: str, headers: dict[str, str]) -> tuple[int, str, float]:
    """Return status, problem code and seconds of a request on a connection of its own; httpx is slow with hundreds."""
    began = time.monotonic()
    parts = urlsplit(api_url)
    reading, writing = await asyncio.open_connection(parts.hostname, parts.port)
    lines = [f"GET {path} HTTP/1.1", "Host: api", "Connection: close", *(f"{k}: {v}" for k, v in headers.items())]
    writing.write("\r\n".join([*lines, "", ""]).encode())
    head, _, body = (await reading.read()).partition(b"\r\n\r\n")
    writing.close()
    status = int(head.split(b" ", 2)[1])
    return status, json.loads(body).get("code", "") if status >= 400 else "all", time.monotonic() - began


async def test_while_postgresql_is_silent_callers_get_503_within_a_second(
    server: PostgresServer, system: System, story: Scenario, client: httpx.AsyncClient
) -> None:
    customer = story.member_of(*(story.campaign(f"campaign {n}") for n in range(5)))
    await story.publish_and_wait()
    path, admin = path_of(customer), story.as_admin()
    wait = story.as_admin(**{"Membership-Min-Position": str(2**62), "Prefer": "wait=10"})
    for _ in range(3):  # the third is answered from memory
        assert (await client.get(path, headers=admin)).status_code == 200
    asked = [(f"{path}?limit={1 + n % 200}", admin) for n in range(SILENT_CALLERS)]
    asked += [(f"{path}?q={n}", admin) for n in range(10)] + [(path, wait)] * 10
    with stopped(processes_of(server)):
        found = await asyncio.gather(*(raw_get(system.api_url, *each) for each in asked))
        assert {each[:2] for each in found} == {UNAVAILABLE}
        assert max(each[2] for each in found) <= REFUSED_WITHIN_S + CALLING_TAKES_S
        found = await asyncio.gather(*(raw_get(system.api_url, each, admin) for each in (path, "/health/ready")))
        assert {each[:2] for each in found} == {UNAVAILABLE}, "what is remembered is refused as well"
        assert max(each[2] for each in found) <= REFUSED_WITHIN_S
    back = time.monotonic()
    await eventually(lambda: answers(client, path, admin), "reads", RECOVERED_WITHIN_S)
    await eventually(lambda: answers(client, "/health/ready"), "it is ready", RECOVERED_WITHIN_S)
    assert time.monotonic() - back <= RECOVERED_WITHIN_S


async def test_silent_connections_cost_the_read_timeout_and_at_most_a_second(
    server: PostgresServer, system: System, story: Scenario, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The server answers the probe, so only the deadline of each request is left."""
    monkeypatch.setenv("MEMBERSHIP_READ_TIMEOUT_S", str(SHORT_READ_S))
    customer = story.member_of(story.campaign("kept"))
    await story.publish_and_wait()
    path, admin = path_of(customer), story.as_admin()
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
            asked = (raw_get(url, f"{path}?limit={1 + n % 200}", admin) for n in range(SILENT_CALLERS))
            found = await asyncio.gather(*asked)
    assert {each[:2] for each in found} <= {UNAVAILABLE, ANSWERED}
    assert UNAVAILABLE in {each[:2] for each in found}
    assert max(each[2] for each in found) <= SHORT_READ_S + 1 + CALLING_TAKES_S


async def test_an_outage_is_logged_once_a_second_with_a_count(
    server: PostgresServer, system: System, story: Scenario, client: httpx.AsyncClient
) -> None:
    customer = story.member_of(story.campaign("kept"))
    await story.publish_and_wait()
    before = system.log("serve").count("database_unavailable")
    began = time.monotonic()
    await asyncio.to_thread(server.stop)
    for n in range(100):
        reply = await client.get(f"{path_of(customer)}?limit={1 + n}", headers=story.as_admin())
        assert code_of(reply) == UNAVAILABLE
    await started_again(server)
    lines = system.log("serve").count("database_unavailable") - before
    assert 1 <= lines <= 2 + (time.monotonic() - began)
    await eventually(lambda: answers(client, path_of(customer), story.as_admin()), "reads", RECOVERED_WITHIN_S)
