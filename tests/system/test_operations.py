"""Operator commands: damaged rows are found and repaired; the model is rebuilt under load, switched, rolled back."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import asyncpg
import pytest

from consumers import stream
from consumers.client import connect_once
from ops.actor import actor
from ops.rebuild import gate
from ops.rebuild.compare import Findings
from ops.rebuild.job import GenerationJob
from ops.rebuild.progress import ProgressReporter
from ops.rebuild.throttle import Pace
from projections.errors import GateRefused
from projections.maintenance import jobs
from projections.model.events import Position
from projections.settings import load
from tests.support.builders import campaign_id, customer_id, published
from tests.support.command import CompletedCommand, membership
from tests.support.corruption import damage
from tests.support.known_outcome import Dataset
from tests.support.operations import assert_dataset_rows, live
from tests.support.processes import System, eventually


@pytest.fixture
async def dataset(own_system: System) -> Dataset:
    """A dataset whose events are all applied."""
    dataset = Dataset(3, customers=30, campaigns=12, memberships_each=6)
    await own_system.wait_until_applied(await own_system.publish(dataset.events(duplicates=0.1)))
    return dataset


async def operate(system: System, *arguments: str) -> CompletedCommand:
    return await membership(system.environment, *arguments)


async def listing(system: System, customer: int = 1, **params: Any) -> Any:
    path = f"/customers/{customer_id(customer)}/campaigns"
    reply = await system.get(path, params={"include_deleted": True, "include_aggregations": True} | params)
    assert reply.status_code == 200, reply.text
    return reply


async def test_damaged_rows_are_reported_shown_and_repaired(own_system: System, dataset: Dataset) -> None:
    connection = await asyncpg.connect(own_system.database_url)
    await connection.execute(
        "UPDATE g1.membership SET status = (status + 1) % 4 WHERE customer_id = $1", customer_id(1)
    )
    await connection.close()
    verified = await operate(own_system, "verify")
    assert verified.code == 1
    assert f"customer_id={customer_id(1)}" in verified.out
    assert "; expected " in verified.out
    assert "6 rows differ" in verified.out
    assert f"membership repair --customer {customer_id(1)} --dry-run" in verified.out

    dry_run = await operate(own_system, "repair", "--customer", customer_id(1), "--dry-run")
    second = await operate(own_system, "repair", "--customer", customer_id(1), "--dry-run")
    assert dry_run.out == second.out
    assert "would change" in dry_run.out
    repaired = await operate(own_system, "repair", "--customer", customer_id(1))
    diff = [line for line in dry_run.out.splitlines() if line.startswith(("-", "+"))]
    assert [line for line in repaired.out.splitlines() if line.startswith(("-", "+"))] == diff
    assert len(diff) == 12
    assert "matches the stream" in (await operate(own_system, "repair", "--customer", customer_id(1))).out
    assert "No row differs" in (await operate(own_system, "verify")).out
    await assert_dataset_rows(own_system, dataset)


async def test_readers_see_no_change_during_a_rebuild_and_a_rollback(own_system: System, dataset: Dataset) -> None:
    before = (await listing(own_system)).content
    async with reading(own_system, {before}):
        rebuilt = await operate(own_system, "rebuild", "--yes")
        assert (rebuilt.code, await live(own_system)) == (0, "g2"), rebuilt.err
        await assert_dataset_rows(own_system, dataset)
        rollback = await operate(own_system, "rollback")
        assert (rollback.code, await live(own_system)) == (0, "g1")
        assert "g1 is live again" in rollback.out
        assert (await operate(own_system, "rollback")).code == 0
        assert await live(own_system) == "g2"
    position = await own_system.publish([published("target.enrolled.v1", 9, customer=77, campaign=1)])
    await own_system.wait_until_applied(position)
    for name in ("g1", "g2"):
        query = f"SELECT FROM {name}.membership WHERE customer_id = $1"
        assert len(await own_system.fetch(query, customer_id(77))) == 1


@asynccontextmanager
async def reading(system: System, allowed: set[bytes]) -> AsyncIterator[None]:
    """Read continuously; every response must be one of the allowed ones."""
    over = asyncio.Event()

    async def read_continuously() -> int:
        requests = 0
        while not over.is_set():
            assert (await listing(system)).content in allowed
            requests += 1
        return requests

    task = asyncio.create_task(read_continuously())
    try:
        yield
    finally:
        over.set()
        assert await task > 10


async def test_verify_finds_twenty_damages_and_ignores_live_traffic(own_system: System, dataset: Dataset) -> None:
    assert dataset.customers
    over = asyncio.Event()

    async def publish_continuously() -> None:
        version = 10
        while not over.is_set():
            version += 1
            other_events = [("customer.upserted.v1", n, 1) for n in range(500, 520)]
            await asyncio.sleep(0.02)
            other_events += [("campaign.upserted.v1", 1, 50), ("target.enrolled.v1", 500 + version % 20, 50)]
            await own_system.publish(
                [
                    published(event_type, version, customer=customer, campaign=campaign)
                    for event_type, customer, campaign in other_events
                ]
            )

    traffic = asyncio.create_task(publish_continuously())
    try:
        report = json.loads((await operate(own_system, "verify", "--json")).out.splitlines()[-1])
        assert report["differences"] == 0, report
        connection = await asyncpg.connect(own_system.database_url)
        damaged = await damage_dataset(connection, dataset, Random(20))
        await connection.close()
        verified = await operate(own_system, "verify", "--json")
        report = json.loads(verified.out.splitlines()[-1])
    finally:
        over.set()
        await traffic
    assert verified.code == 1
    assert {(row["table"], json.dumps(row["key"], sort_keys=True)) for row in report["rows"]} == damaged
    assert report["differences"] == 20


async def damage_dataset(connection: asyncpg.Connection, dataset: Dataset, rng: Random) -> set[tuple[str, str]]:
    """Damage twenty rows that the traffic does not touch."""
    async with connection.transaction():
        await connection.execute("CREATE SCHEMA dataset")
        ids = {
            "customer_id": [customer_id(n) for n in dataset.customers],
            "campaign_id": [campaign_id(n) for n in dataset.campaigns],
        }
        for table in ("customer", "campaign", "campaign_counters", "membership", "customer_summary"):
            key = "campaign_id" if table.startswith("campaign") else "customer_id"
            listed = ", ".join(f"'{value}'" for value in ids[key])
            await connection.execute(
                f"CREATE VIEW dataset.{table} AS SELECT * FROM g1.{table} WHERE {key} IN ({listed})"  # noqa: S608
            )
        damages = await damage(connection, "dataset", rng, 20)
        await connection.execute("DROP SCHEMA dataset CASCADE")
    return {(row.table, json.dumps(row.key, sort_keys=True)) for row in damages}


async def test_a_cursor_from_before_a_switch_remains_valid(own_system: System, dataset: Dataset) -> None:
    assert dataset.customers
    all_ids = [item["id"] for item in (await listing(own_system, limit=200)).json()["data"]]
    first = (await listing(own_system, limit=2, sort_field="name")).json()
    by_name = [item["id"] for item in (await listing(own_system, limit=200, sort_field="name")).json()["data"]]
    assert (await operate(own_system, "rebuild", "--yes")).code == 0
    cursor, walked = first["meta"]["next_cursor"], [item["id"] for item in first["data"]]
    while cursor:
        page = (await listing(own_system, limit=2, sort_field="name", cursor=cursor)).json()
        walked += [item["id"] for item in page["data"]]
        cursor = page["meta"].get("next_cursor")
    assert walked == by_name
    assert sorted(walked) == sorted(all_ids)


async def test_differences_need_approval_by_rebuild_yes(own_system: System, dataset: Dataset) -> None:
    connection = await asyncpg.connect(own_system.database_url)
    await connection.execute("DELETE FROM g1.membership WHERE customer_id = $1", customer_id(2))
    await connection.close()
    refused = await operate(own_system, "rebuild")
    assert (refused.code, await live(own_system)) == (1, "g1")
    assert "6 differing rows in g1, and the switch was not approved" in refused.err
    assert "missing row: expected from the stream" in refused.out
    (job,) = json.loads((await operate(own_system, "status", "--json")).out)["jobs"]
    assert (job["kind"], job["state"], job["phase"]) == ("rebuild", "refused", "gate")
    approved = await operate(own_system, "rebuild", "--yes")
    assert (approved.code, await live(own_system)) == (0, "g2")
    assert "Resuming job" in approved.err
    await assert_dataset_rows(own_system, dataset)


async def test_newly_parked_events_block_the_switch_until_discarded(own_system: System, dataset: Dataset) -> None:
    assert dataset.customers
    position = await own_system.publish([("membership.customer.nobody", b"{}")])
    await own_system.wait_until_applied(position)
    connection = await asyncpg.connect(own_system.database_url)
    await connection.execute("DELETE FROM g1.parked_event")  # as if the release that filled g1 could read it
    await connection.close()
    refused = await operate(own_system, "rebuild", "--yes")
    assert (refused.code, await live(own_system)) == (1, "g1")
    assert f"cannot read the events at positions {position}, which the live generation has applied" in refused.err
    assert "membership.customer.nobody" in (await operate(own_system, "parked", "show", str(position))).out
    assert (await operate(own_system, "parked", "discard", str(position), "--reason", "a test")).code == 0
    assert (await operate(own_system, "rebuild", "--yes")).code == 0
    assert await live(own_system) == "g2"
    assert "No parked events" in (await operate(own_system, "parked", "list")).out


async def test_a_rebuild_accepts_erased_messages_but_not_lost_ones(own_system: System, dataset: Dataset) -> None:
    erased = await operate(own_system, "erase", "--customer", customer_id(3), "--yes")
    assert erased.code == 0, erased.err
    assert (await own_system.get(f"/customers/{customer_id(3)}/campaigns")).status_code == 404
    assert (await operate(own_system, "rebuild", "--yes")).code == 0
    assert await live(own_system) == "g2"
    assert (await own_system.get(f"/customers/{customer_id(3)}/campaigns")).status_code == 404
    for table in ("customer", "membership", "customer_summary"):
        for name in ("g1", "g2"):
            query = f"SELECT FROM {name}.{table} WHERE customer_id = $1"
            assert await own_system.fetch(query, customer_id(3)) == []
    for table in ("job", "audit", "erasure"):
        assert customer_id(3) not in str(await own_system.fetch(f"SELECT t::text FROM control.{table} t"))  # noqa: S608
    again = await operate(own_system, "erase", "--customer", customer_id(3), "--yes")
    assert (again.code, "There is no customer" in again.err) == (1, True)

    client = await connect_once(own_system.nats_url, "test")
    lost = await stream.purge(client, f"membership.customer.{customer_id(4)}")
    await client.close()
    refused = await operate(own_system, "rebuild", "--yes")
    assert (refused.code, await live(own_system)) == (1, "g2")
    assert f"lacks {lost} messages that no erasure took out" in refused.err
    for arguments in (("verify",), ("repair", "--customer", customer_id(4))):
        command = await operate(own_system, *arguments)
        assert (command.code, f"lacks {lost} messages" in command.err) == (1, True), command
    assert len(dataset.customers) == 30


async def in_process(system: System, kind: Any = "rebuild") -> Any:
    """Run a job in this process, where a test can patch its limits."""

    async def approve(_findings: Findings) -> bool:
        return True

    settings = load(
        set(), {name: system.environment[name] for name in ("MEMBERSHIP_DATABASE_URL", "MEMBERSHIP_NATS_URL")}
    )
    pace = Pace()
    return await GenerationJob(settings, kind, pace, ProgressReporter(pace)).run(actor(), approve)


async def test_lag_and_an_empty_generation_block_the_switch(
    own_system: System, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert dataset.customers
    own_system.kill("project")
    await own_system.publish([published("customer.upserted.v1", 99, customer=1)])
    monkeypatch.setattr(gate, "LAG_MAX_S", 0.0)
    with pytest.raises(GateRefused, match="behind the stream"):
        await in_process(own_system)
    assert await live(own_system) == "g1"
    monkeypatch.setattr(gate, "LAG_MAX_S", 3600.0)
    own_system.launch("project")
    assert (await in_process(own_system)).switched_to == "g2"

    client = await connect_once(own_system.nats_url, "test")
    created, lost = await stream_created(client), await stream.purge(client, "membership.>")
    await client.close()
    connection = await asyncpg.connect(own_system.database_url)
    job = await connection.fetchval("SELECT max(job_id) FROM control.job")
    insert = "INSERT INTO control.erasure (job_id, stream_created, missing_before, messages) VALUES ($1, $2, 0, $3)"
    await connection.execute(insert, job, created, lost)
    await connection.close()
    with pytest.raises(GateRefused, match="holds no customer"):
        await in_process(own_system)
    assert await live(own_system) == "g2"


async def stream_created(client: Any) -> str:
    state = await stream.fetch_state(client)
    assert state is not None
    return state.created


async def test_only_one_job_runs_at_a_time_and_it_can_be_cancelled(own_system: System, dataset: Dataset) -> None:
    assert dataset.customers
    slow = asyncio.create_task(operate(own_system, "rebuild", "--yes", "--max-rate", "20", "--json"))

    async def is_running() -> bool:
        jobs = json.loads((await operate(own_system, "status", "--json")).out)["jobs"]
        return bool(jobs and jobs[0]["state"] == "running" and jobs[0]["done"] > 0 and jobs[0]["eta_s"])

    await eventually(is_running, "the rebuild is under way")
    command: tuple[str, ...]
    for command in (("rebuild",), ("verify",), ("erase", "--customer", customer_id(1), "--yes")):
        refused = await operate(own_system, *command)
        assert (refused.code, "one job runs at a time" in refused.err) == (1, True), refused
    cancelled = await operate(own_system, "jobs", "cancel")
    assert (cancelled.code, "has ended" in cancelled.out) == (0, True)
    rebuild = await slow
    assert (rebuild.code, "was cancelled" in rebuild.err) == (1, True)
    progress = [json.loads(line) for line in rebuild.out.splitlines()]
    assert {"phase", "done", "total", "rate", "eta_s", "reads_p99_ms"} <= progress[-1].keys()
    listed = (await operate(own_system, "jobs", "list")).out
    assert "cancelled in phase fill" in listed
    assert [
        row["nspname"] for row in await own_system.fetch("SELECT nspname FROM pg_namespace WHERE nspname ~ '^g'")
    ] == ["g1"]
    assert (await operate(own_system, "jobs", "cancel")).code == 1


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("rollback",), 1, "no rebuild has replaced another yet"),
        (("rebuild", "--max-rate", "0"), 2, "give a whole number of events per second"),
        (("verify", "--max-rate", "-3"), 2, "give a whole number of events per second"),
        (("repair",), 2, "--customer ID or --campaign ID"),
        (("repair", "--customer", "c0000000-0000-4000-8000-00000000dead"), 1, "There is no customer"),
        (("repair", "--campaign", "c0000000-0000-4000-8000-00000000dead"), 1, "There is no campaign"),
        (("repair", "--customer", "x"), 2, "not a valid UUID"),
        (("erase", "--customer", "c0000000-0000-4000-8000-00000000dead", "--yes"), 1, "There is no customer"),
        (("erase", "--customer", "c0000000-0000-4000-8000-00000000dead"), 2, "add --yes"),
        (("parked", "retry"), 2, "Give the positions to retry, or --all"),
        (("parked", "retry", "--all", "12646"), 2, "Give positions or --all, not both"),
        (("parked", "show", "abc"), 2, "'abc' is not a position"),
        (("parked", "retry", "999999"), 1, "only reached position"),
        (("parked", "retry", "0"), 2, "0 is not in the range"),
        (("parked", "discard", "999999", "--reason", "x"), 1, "No event is parked at position 999999"),
        (("parked", "discard", "1"), 2, "--reason"),
        (("parked", "discard", "1", "--reason", " "), 2, "give a reason"),
        (("jobs", "cancel"), 1, "There is no job to cancel"),
    ],
)
async def test_an_impossible_command_explains_why(
    system: System, arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    command = await operate(system, *arguments)
    assert command.code == code
    assert sentence in " ".join(command.err.replace("│", " ").split()), command.err


async def test_commands_report_an_unavailable_broker_or_database(own_system: System) -> None:
    arguments: tuple[str, ...]
    own_system.broker.stop()
    for arguments in (("rebuild",), ("verify",), ("repair", "--customer", customer_id(1))):
        command = await operate(own_system, *arguments)
        assert (command.code, "does not answer" in command.err) == (1, True), command
    gone = own_system.environment | {"MEMBERSHIP_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    own_system.broker.start()
    for arguments in (("rebuild",), ("rollback",), ("parked", "retry", "--all", "--yes")):
        command = await membership(gone, *arguments)
        assert (command.code, "PostgreSQL cannot be used" in command.err) == (1, True), command


async def test_a_parked_event_is_retried_in_every_followed_generation(own_system: System, dataset: Dataset) -> None:
    assert dataset.customers
    position = await own_system.publish([("membership.customer.nobody", b"{}")])
    await own_system.wait_until_applied(position)
    assert (await operate(own_system, "rebuild", "--yes")).code == 0
    connection = await asyncpg.connect(own_system.database_url)
    subject, body = published("target.enrolled.v1", 5, customer=88)
    for name in ("g1", "g2"):
        await connection.execute(f"UPDATE {name}.parked_event SET subject = $1, body = $2", subject, body)  # noqa: S608
    await connection.close()
    listed = await operate(own_system, "parked", "retry", "--all")
    assert (listed.code, "1 event is parked: 1 invalid_subject" in listed.out) == (2, True), listed
    retried = await operate(own_system, "parked", "retry", "--all", "--yes")
    assert (retried.code, "Applied 1, still parked 0" in retried.out) == (0, True), retried
    for name in ("g1", "g2"):
        query = f"SELECT FROM {name}.membership WHERE customer_id = $1"
        assert len(await own_system.fetch(query, customer_id(88))) == 1
    assert "parked.retry" in (await operate(own_system, "audit")).out


async def test_positions_do_not_decrease_at_a_switch(own_system: System, dataset: Dataset) -> None:
    assert dataset.customers
    position = await own_system.publish([published("customer.upserted.v1", 50, customer=1)])
    await own_system.wait_until_applied(position)
    assert (await operate(own_system, "rebuild", "--yes")).code == 0
    reply = await listing(own_system)
    assert Position(int(reply.headers["Membership-Position"])) >= position


async def test_a_job_of_another_fold_version_is_not_resumed(own_system: System, dataset: Dataset) -> None:
    connection = await asyncpg.connect(own_system.database_url)
    await connection.execute("DELETE FROM g1.membership WHERE customer_id = $1", customer_id(2))
    assert (await operate(own_system, "rebuild")).code == 1
    await connection.execute("UPDATE control.job SET release = 'another'")
    await connection.execute("DELETE FROM g2.customer")  # another fold may have left other rows
    await connection.close()
    ended = await operate(own_system, "rebuild", "--yes")
    assert (ended.code, await live(own_system)) == (0, "g3"), ended
    assert "begun by a release with another fold version" in ended.err
    await assert_dataset_rows(own_system, dataset)


async def test_status_reports_a_missing_or_recreated_stream(own_system: System, dataset: Dataset) -> None:
    assert dataset.customers
    client = await connect_once(own_system.nats_url, "test")
    await client.jetstream().delete_stream(stream.STREAM)
    for reason in ("does not exist", "another stream under the same name"):
        status = await operate(own_system, "status", "--json")
        report = json.loads(status.out)
        assert (status.code, report["lag_events"], reason in status.err) == (1, None, True), status
        await stream.create(client, replicas=1)
    await client.close()


async def test_an_open_erasure_blocks_repair_rebuild_and_verify(own_system: System, dataset: Dataset) -> None:
    connection = await asyncpg.connect(own_system.database_url)
    job = await jobs.open_or_resume(connection, "erase", "purge", "test")
    for arguments in (("repair", "--customer", customer_id(1)), ("rebuild", "--yes"), ("verify",)):
        refused = await operate(own_system, *arguments)
        assert (refused.code, "eras" in refused.err) == (1, True), refused
    await jobs.finish(connection, job, "cancelled", "by the test")
    await connection.close()
    assert (await operate(own_system, "repair", "--customer", customer_id(1))).code == 0
    await assert_dataset_rows(own_system, dataset)


@pytest.mark.usefixtures("dataset")
async def test_an_event_published_during_its_customers_erasure_is_erased(own_system: System) -> None:
    connection = await asyncpg.connect(own_system.database_url)
    async with connection.transaction():
        # Nothing can commit: the erasure has purged, and waits together with the projector.
        await connection.execute("SELECT FROM control.checkpoint FOR UPDATE")
        erasing = asyncio.create_task(operate(own_system, "erase", "--customer", customer_id(1), "--yes"))
        waits = (
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
            "AND application_name = 'membership-command')"
        )
        while not (await own_system.fetch(waits))[0][0]:
            assert not erasing.done(), await erasing
            await asyncio.sleep(0.02)
        await own_system.publish([published("target.enrolled.v1", 10**9, customer=1, campaign=1)])
    erased = await erasing
    assert erased.code == 0, erased
    await own_system.wait_until_applied(
        await own_system.publish([published("customer.upserted.v1", 10**9, customer=2)])
    )
    rows = await connection.fetchval("SELECT count(*) FROM g1.membership WHERE customer_id = $1", customer_id(1))
    assert rows == 0
    verified = await operate(own_system, "verify")
    assert (verified.code, "No row differs" in verified.out) == (0, True), verified
    await connection.close()


@pytest.mark.usefixtures("dataset")
async def test_two_simultaneous_rollbacks_can_be_rolled_back(own_system: System) -> None:
    assert (await operate(own_system, "rebuild", "--yes")).code == 0
    rollbacks = await asyncio.gather(*(operate(own_system, "rollback") for _ in range(2)))
    assert [rollback.code for rollback in rollbacks] == [0, 0], rollbacks
    row = await own_system.fetch("SELECT generation, previous FROM control.live")
    assert (row[0]["generation"], row[0]["previous"]) == ("g2", "g1")
    assert (await operate(own_system, "rollback")).code == 0
    assert await live(own_system) == "g1"
