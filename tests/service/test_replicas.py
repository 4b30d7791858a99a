"""Pages come from a replica, but never without a change that was notified; a replica paused in its replay shows it."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from ops.devstack.servers.postgres import PostgresServer
from tests.support.builders import customer_id
from tests.support.command import membership
from tests.support.processes import eventually
from tests.support.replicated import ReplicatedSystem, replicated_system
from tests.support.scenario import Scenario, another_api, client_of, code_of, names, path_of
from tests.support.silence import processes_of, stopped
from tests.support.standby import pause_replay, resume_replay, run

SOON_S = 30.0
HANG_S = 1.5


@pytest.fixture(scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ReplicatedSystem]:
    """A primary, one standby, projector and API."""
    async with replicated_system(tmp_path_factory.mktemp("replicas")) as system:
        yield system


@pytest.fixture(autouse=True)
async def replaying(system: ReplicatedSystem) -> AsyncIterator[None]:
    """Resume the standby's replay after each test."""
    yield
    await resume_replay(system.standby)
    await system.wait_until_in_use(1)


def position_of(reply: httpx.Response) -> int:
    assert reply.status_code == 200, reply.text
    return int(reply.headers["membership-position"])


async def wait_for_replica(system: ReplicatedSystem, position: int) -> None:
    """Return once the standby has applied a position."""

    async def reached() -> bool:
        statement = "SELECT max(position) FROM control.checkpoint"
        return int(str(await run(system.standby.url, statement))) >= position

    await eventually(reached, "the standby has applied the position")


async def test_an_answer_states_the_position_of_the_replica_that_gave_it(
    system: ReplicatedSystem, scenario: Scenario
) -> None:
    customer = scenario.member_of(scenario.campaign("shown"))
    other = scenario.campaign("other")
    before = await scenario.publish_and_wait()
    await wait_for_replica(system, before)
    await pause_replay(system.standby)
    scenario.add_event("campaign.counters_changed.v1", campaign=other, contacts_total=5)
    after = await scenario.publish_and_wait()
    answered = await system.reads("replica")
    reply = await scenario.ask(customer, q="shown")
    assert names(reply.json()) == ["shown"]
    assert before <= position_of(reply) < after
    assert await system.reads("replica") == answered + 1


CHANGES: dict[str, tuple[str, dict[str, Any], str]] = {
    "an enrolment": ("target.enrolled.v1", {}, ""),
    "counters shown on the page": ("campaign.counters_changed.v1", {"contacts_total": 77}, ""),
    "a name shown on the page": ("campaign.upserted.v1", {"name": "renamed"}, ""),
    "a name that changes the order": ("campaign.upserted.v1", {"name": "0 first"}, "name"),
    "a counter that changes the order": ("campaign.counters_changed.v1", {"contacts_total": 99}, "contacts_total"),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_notified_change_is_never_missing_although_the_replica_lacks_it(
    system: ReplicatedSystem, scenario: Scenario, change: str
) -> None:
    event, fields, order = CHANGES[change]
    first, second, third = (scenario.campaign(name) for name in ("a", "b", "c"))
    customer = scenario.member_of(first, second)
    await wait_for_replica(system, await scenario.publish_and_wait())
    params = {"sort_field": order, "sort_dir": "asc" if order == "name" else "desc", "limit": "1"} if order else {}
    for _ in range(3):  # also from memory
        await scenario.page(customer, **params)
    await pause_replay(system.standby)
    enrols = event.startswith("target")
    scenario.add_event(event, campaign=third if enrols else second, **({"customer": customer} if enrols else fields))
    position = await scenario.publish_and_wait()
    searched = "" if enrols else fields.get("name", "b")
    for further in ({}, {}, {"include_deleted": "1"}, {"q": searched}):
        reply = await scenario.ask(customer, **params, **further)
        assert position_of(reply) >= position
        assert_shows(reply, enrols=enrols, fields=fields, third=third)


def assert_shows(reply: httpx.Response, *, enrols: bool, fields: dict[str, Any], third: int) -> None:
    items = reply.json()["data"]
    if enrols:
        assert len(items) == 3, third
    else:
        assert any(all(item[name] == value for name, value in fields.items()) for item in items), items


async def test_a_repair_is_never_missing_although_it_moves_no_position(
    system: ReplicatedSystem, scenario: Scenario
) -> None:
    customer = scenario.member_of(scenario.campaign("kept"))
    position = await scenario.publish_and_wait()
    identity = customer_id(customer)
    await run(system.primary.url, "DELETE FROM g1.membership WHERE customer_id = $1", identity)

    async def replicated() -> bool:
        statement = "SELECT count(*) FROM g1.membership WHERE customer_id = $1"
        return await run(system.standby.url, statement, identity) == 0

    await eventually(replicated, "the damage is replicated")
    await pause_replay(system.standby)
    assert await scenario.names(customer, limit="9") == []
    assert (await membership(system.environment, "repair", "--customer", customer_id(customer))).code == 0

    async def repaired() -> bool:
        return await scenario.names(customer, limit="9") == ["kept"]

    await eventually(repaired, "the repair is notified", deadline_s=5)
    for limit in range(10, 20):
        reply = await scenario.ask(customer, limit=str(limit))
        assert names(reply.json()) == ["kept"]
        assert position_of(reply) >= position
    await resume_replay(system.standby)
    answered = await system.reads("replica")

    async def read_again() -> bool:
        await scenario.names(customer, q="kept")
        return await system.reads("replica") > answered

    await eventually(read_again, "the replica is read again once it has the repair")


async def test_a_request_with_a_position_waits_for_the_replica(system: ReplicatedSystem, scenario: Scenario) -> None:
    customer = scenario.member_of(scenario.campaign("shown"))
    await wait_for_replica(system, await scenario.publish_and_wait())
    await pause_replay(system.standby)
    scenario.enrol(customer, scenario.campaign("late"))
    position = await scenario.publish_and_wait()
    headers = scenario.as_admin(**{"Membership-Min-Position": str(position), "Prefer": "wait=1"})
    assert code_of(await scenario.ask(customer, headers)) == (503, "position_not_reached")
    waiting = asyncio.create_task(scenario.ask(customer, headers | {"Prefer": "wait=10"}))
    answered = await system.reads("replica")
    await resume_replay(system.standby)
    reply = await waiting
    assert position_of(reply) >= position
    assert sorted(names(reply.json())) == ["late", "shown"]
    assert await system.reads("replica") == answered + 1


async def test_a_request_with_a_position_goes_to_the_primary_if_so_configured(
    system: ReplicatedSystem,
    scenario: Scenario,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    customer = scenario.member_of(scenario.campaign("shown"))
    await wait_for_replica(system, await scenario.publish_and_wait())
    await pause_replay(system.standby)
    scenario.enrol(customer, scenario.campaign("late"))
    position = await scenario.publish_and_wait()
    monkeypatch.setenv("MEMBERSHIP_READ_DATABASE_URL", system.settings["MEMBERSHIP_READ_DATABASE_URL"])
    monkeypatch.setenv("MEMBERSHIP_READ_MIN_POSITION_FROM", "primary")
    async with another_api(system, tmp_path) as client:
        headers = scenario.as_admin(**{"Membership-Min-Position": str(position)})
        reply = await client.get(path_of(customer), headers=headers)
        assert position_of(reply) >= position
        assert sorted(names(reply.json())) == ["late", "shown"]


@pytest.mark.parametrize("limit", ["0.5s", "1"])
async def test_a_replica_too_far_behind_is_left_out_and_comes_back(
    system: ReplicatedSystem,
    scenario: Scenario,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    limit: str,
) -> None:
    customer = scenario.member_of(scenario.campaign("shown"))
    await wait_for_replica(system, await scenario.publish_and_wait())
    monkeypatch.setenv("MEMBERSHIP_READ_DATABASE_URL", system.settings["MEMBERSHIP_READ_DATABASE_URL"])
    monkeypatch.setenv("MEMBERSHIP_READ_LAG_MAX", limit)
    async with another_api(system, tmp_path) as client:

        async def counts(state: str) -> bool:
            return f'membership_replicas{{state="{state}"}} 1.0' in (await client.get("/metrics")).text

        await eventually(lambda: counts("in_use"), "the replica is in use", SOON_S)
        await pause_replay(system.standby)
        for name in ("x", "y", "z"):
            scenario.campaign(name)
        position = await scenario.publish_and_wait()
        await eventually(lambda: counts("behind"), "the replica is left out", SOON_S)
        reply = await client.get(path_of(customer) + "?q=shown", headers=scenario.as_admin())
        assert position_of(reply) >= position
        await resume_replay(system.standby)
        await eventually(lambda: counts("in_use"), "the replica is in use again", SOON_S)


@contextmanager
def down(end: Callable[[], None], server: PostgresServer) -> Iterator[None]:
    """End a server, and start it again afterwards."""
    end()
    yield
    server.start()


ENDINGS: dict[str, Callable[[PostgresServer], AbstractContextManager[None]]] = {
    "killed": lambda server: down(server.kill, server),
    "stopped": lambda server: down(server.stop, server),
    "silent": lambda server: stopped(processes_of(server)),
}


@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_replica_that_dies_under_reads_costs_no_caller_an_answer(
    system: ReplicatedSystem, scenario: Scenario, ending: str
) -> None:
    customer = scenario.member_of(*(scenario.campaign(f"campaign {n}") for n in range(5)))
    await wait_for_replica(system, await scenario.publish_and_wait())
    expected = names(await scenario.page(customer))
    finished = asyncio.Event()
    answered = 0
    slowest_s = 0.0

    async def call(number: int) -> None:
        nonlocal answered, slowest_s
        async with client_of(system.api_url) as caller:
            limit = 10
            while not finished.is_set():
                limit = 10 + (limit + 1) % 90
                path = f"{path_of(customer)}?limit={limit}&q=campaign&date_from=20{number:02}-01-01"
                began = time.monotonic()
                reply = await caller.get(path, headers=scenario.as_admin())
                slowest_s = max(slowest_s, time.monotonic() - began)
                assert (reply.status_code, names(reply.json())) == (200, expected), reply.text
                answered += 1

    callers = [asyncio.create_task(call(number)) for number in range(4)]
    try:
        before = await system.reads("replica")
        await eventually(lambda: answered > 20, "the callers are answered")
        assert await system.reads("replica") > before
        with ENDINGS[ending](system.standby):
            await system.wait_until_state("unreachable", 1)
            count = answered
            await eventually(lambda: answered > count + 20, "the primary answers them")
        await system.wait_until_in_use(1)
        before, count = await system.reads("replica"), answered
        await eventually(lambda: answered > count + 20, "the callers are answered after its return")
        assert await system.reads("replica") > before
    finally:
        finished.set()
        await asyncio.gather(*callers)
    assert slowest_s <= HANG_S


async def test_while_the_primary_is_down_replicas_answer_at_their_position(
    system: ReplicatedSystem, scenario: Scenario
) -> None:
    customer = scenario.member_of(scenario.campaign("kept"))
    position = await scenario.publish_and_wait()
    await wait_for_replica(system, position)
    await asyncio.to_thread(system.primary.stop)
    seen: Counter[int] = Counter()

    async def answered_thrice() -> bool:
        reply = await scenario.ask(customer, limit=str(10 + seen.total() % 90))
        seen[reply.status_code] += 1
        if reply.status_code == 200:
            assert names(reply.json()) == ["kept"]
            assert position_of(reply) >= position
        return seen[200] >= 3

    try:
        await eventually(answered_thrice, "pages are read from the replica", deadline_s=10)
        ready = await scenario.client.get("/health/ready")
        assert (ready.status_code, ready.json()["generation"]) == (200, "g1")
        far = scenario.as_admin(**{"Membership-Min-Position": str(2**60), "Prefer": "wait=1"})
        assert code_of(await scenario.ask(customer, far)) == (503, "position_not_reached")
        key = {"X-API-Key": "mbr_000000000000_" + "0" * 40}
        assert code_of(await scenario.ask(customer, key)) == (503, "database_unavailable")
    finally:
        await asyncio.to_thread(system.primary.start)
    await scenario.client.get("/health/ready")
    scenario.enrol(customer, scenario.campaign("later"))
    after = await scenario.publish()
    headers = scenario.as_admin(**{"Membership-Min-Position": str(after), "Prefer": "wait=10"})

    async def has_both() -> bool:
        reply = await scenario.ask(customer, headers)
        return reply.status_code == 200 and sorted(names(reply.json())) == ["kept", "later"]

    await eventually(has_both, "the projector and the API have recovered")


END_LISTENER = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'membership-api-listener'
"""
CHECKED_LISTENERS = """
SELECT count(*) FROM pg_stat_activity
WHERE application_name = 'membership-api-listener' AND query ILIKE '%position%' AND state = 'idle'
"""
"""A listener checks its connection with a query some time after it has begun to listen."""


async def test_replicas_do_not_answer_for_a_primary_that_has_lost_commits(
    system: ReplicatedSystem, scenario: Scenario
) -> None:
    """As after a failover to an asynchronous standby, until the position that was stated is reached again."""
    customer = scenario.member_of(scenario.campaign("kept"))
    position = await scenario.publish_and_wait()
    system.kill("project")
    await run(system.primary.url, "UPDATE control.checkpoint SET position = position - 1")
    assert await run(system.primary.url, END_LISTENER)
    limits = itertools.cycle(range(10, 100))

    async def refused() -> bool:
        reply = await scenario.ask(customer, limit=str(next(limits)))
        return reply.status_code == 503 and reply.json()["code"] == "read_model_behind"

    async def listens_again() -> bool:
        assert await refused()
        return await run(system.primary.url, CHECKED_LISTENERS) == 1

    await eventually(refused, "no server answers at an earlier position", deadline_s=10)
    await eventually(listens_again, "the API listens again and has checked its listener", deadline_s=20)
    for _ in range(20):
        assert await refused()
    await run(system.primary.url, "UPDATE control.checkpoint SET position = position + 1")
    system.launch("project")

    async def answered() -> bool:
        reply = await scenario.ask(customer, limit=str(next(limits)))
        return reply.status_code == 200 and position_of(reply) >= position

    await eventually(answered, "the position is reached again")


async def test_a_switch_and_a_rollback_are_exact_although_the_replica_lacks_them(
    system: ReplicatedSystem, scenario: Scenario
) -> None:
    customer = scenario.member_of(scenario.campaign("kept"))
    position = await scenario.publish_and_wait()
    await wait_for_replica(system, position)
    expected = await scenario.page(customer)
    await pause_replay(system.standby)
    for command in (("rebuild", "--yes"), ("rollback",)):
        result = await membership(system.environment, *command)
        assert result.code == 0, result
        for limit in range(30, 40):
            reply = await scenario.ask(customer, limit=str(limit))
            assert position_of(reply) >= position
            assert reply.json()["data"] == expected["data"]
    await resume_replay(system.standby)
    await system.wait_until_in_use(1)
    answered = await system.reads("replica")
    assert (await scenario.page(customer, q="kept"))["data"] == expected["data"]
    assert await system.reads("replica") == answered + 1
