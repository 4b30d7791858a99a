"""An operator's day: rows are damaged, found, mended; the model is made anew under load, switched, switched back."""

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
from tests.support.command import Ended, membership
from tests.support.corruption import damage
from tests.support.known_outcome import Dataset
from tests.support.operations import demand_the_towns_rows, live
from tests.support.processes import System, eventually


@pytest.fixture
async def town(own_system: System) -> Dataset:
    """A town whose events are all applied."""
    town = Dataset(3, customers=30, campaigns=12, memberships_each=6)
    await own_system.settled(await own_system.publish(town.events(duplicates=0.1)))
    return town


async def operate(system: System, *arguments: str) -> Ended:
    return await membership(system.environment, *arguments)


async def listing(system: System, customer: int = 1, **params: Any) -> Any:
    path = f"/customers/{customer_id(customer)}/campaigns"
    reply = await system.get(path, params={"include_deleted": True, "include_aggregations": True} | params)
    assert reply.status_code == 200, reply.text
    return reply


async def test_damage_is_found_named_shown_mended_and_gone(own_system: System, town: Dataset) -> None:
    connection = await asyncpg.connect(own_system.database_url)
    await connection.execute(
        "UPDATE g1.membership SET status = (status + 1) % 4 WHERE customer_id = $1", customer_id(1)
    )
    await connection.close()
    verified = await operate(own_system, "verify")
    assert verified.code == 1
    assert f"customer_id={customer_id(1)}" in verified.out
    assert "the stream says" in verified.out
    assert "6 rows differ" in verified.out
    assert f"membership repair --customer {customer_id(1)} --dry-run" in verified.out

    shown = await operate(own_system, "repair", "--customer", customer_id(1), "--dry-run")
    again = await operate(own_system, "repair", "--customer", customer_id(1), "--dry-run")
    assert shown.out == again.out
    assert "would change" in shown.out
    mended = await operate(own_system, "repair", "--customer", customer_id(1))
    diff = [line for line in shown.out.splitlines() if line.startswith(("-", "+"))]
    assert [line for line in mended.out.splitlines() if line.startswith(("-", "+"))] == diff
    assert len(diff) == 12
    assert "is as the stream has it" in (await operate(own_system, "repair", "--customer", customer_id(1))).out
    assert "No row differs" in (await operate(own_system, "verify")).out
    await demand_the_towns_rows(own_system, town)


async def test_a_rebuild_under_load_is_noticed_by_nobody_and_rolled_back_at_once(
    own_system: System, town: Dataset
) -> None:
    before = (await listing(own_system)).content
    async with reading(own_system, {before}):
        ended = await operate(own_system, "rebuild", "--yes")
        assert (ended.code, await live(own_system)) == (0, "g2"), ended.err
        await demand_the_towns_rows(own_system, town)
        back = await operate(own_system, "rollback")
        assert (back.code, await live(own_system)) == (0, "g1")
        assert "g1 is live again" in back.out
        assert (await operate(own_system, "rollback")).code == 0
        assert await live(own_system) == "g2"
    position = await own_system.publish([published("target.enrolled.v1", 9, customer=77, campaign=1)])
    await own_system.settled(position)
    for name in ("g1", "g2"):
        held = f"SELECT FROM {name}.membership WHERE customer_id = $1"
        assert len(await own_system.fetch(held, customer_id(77))) == 1


@asynccontextmanager
async def reading(system: System, allowed: set[bytes]) -> AsyncIterator[None]:
    """Read without pause; every answer must be one of the allowed ones."""
    over = asyncio.Event()

    async def read_on() -> int:
        asked = 0
        while not over.is_set():
            assert (await listing(system)).content in allowed
            asked += 1
        return asked

    task = asyncio.create_task(read_on())
    try:
        yield
    finally:
        over.set()
        assert await task > 10


async def test_twenty_corruptions_are_found_and_live_traffic_raises_no_alarm(own_system: System, town: Dataset) -> None:
    assert town.customers
    over = asyncio.Event()

    async def go_on_publishing() -> None:
        version = 10
        while not over.is_set():
            version += 1
            elsewhere = [("customer.upserted.v1", n, 1) for n in range(500, 520)]
            await asyncio.sleep(0.02)
            elsewhere += [("campaign.upserted.v1", 1, 50), ("target.enrolled.v1", 500 + version % 20, 50)]
            await own_system.publish(
                [published(kind, version, customer=at, campaign=campaign) for kind, at, campaign in elsewhere]
            )

    traffic = asyncio.create_task(go_on_publishing())
    try:
        quiet = json.loads((await operate(own_system, "verify", "--json")).out.splitlines()[-1])
        assert quiet["differences"] == 0, quiet
        connection = await asyncpg.connect(own_system.database_url)
        hurt = await damage_town(connection, town, Random(20))
        await connection.close()
        ended = await operate(own_system, "verify", "--json")
        found = json.loads(ended.out.splitlines()[-1])
    finally:
        over.set()
        await traffic
    assert ended.code == 1
    assert {(row["table"], json.dumps(row["key"], sort_keys=True)) for row in found["rows"]} == hurt
    assert found["differences"] == 20


async def damage_town(connection: asyncpg.Connection, town: Dataset, rng: Random) -> set[tuple[str, str]]:
    """Damage twenty rows that the traffic does not touch."""
    async with connection.transaction():
        await connection.execute("CREATE SCHEMA town")
        ours = {
            "customer_id": [customer_id(n) for n in town.customers],
            "campaign_id": [campaign_id(n) for n in town.campaigns],
        }
        for table in ("customer", "campaign", "membership", "customer_summary"):
            key = "campaign_id" if table == "campaign" else "customer_id"
            text = ", ".join(f"'{each}'" for each in ours[key])
            await connection.execute(
                f"CREATE VIEW town.{table} AS SELECT * FROM g1.{table} WHERE {key} IN ({text})"  # noqa: S608
            )
        found = await damage(connection, "town", rng, 20)
        await connection.execute("DROP SCHEMA town CASCADE")
    return {(each.table, json.dumps(each.key, sort_keys=True)) for each in found}


async def test_a_cursor_taken_before_a_switch_goes_on_behind_it(own_system: System, town: Dataset) -> None:
    assert town.customers
    whole = [each["id"] for each in (await listing(own_system, limit=200)).json()["data"]]
    first = (await listing(own_system, limit=2, sort_field="name")).json()
    by_name = [each["id"] for each in (await listing(own_system, limit=200, sort_field="name")).json()["data"]]
    assert (await operate(own_system, "rebuild", "--yes")).code == 0
    cursor, walked = first["meta"]["next_cursor"], [each["id"] for each in first["data"]]
    while cursor:
        page = (await listing(own_system, limit=2, sort_field="name", cursor=cursor)).json()
        walked += [each["id"] for each in page["data"]]
        cursor = page["meta"].get("next_cursor")
    assert walked == by_name
    assert sorted(walked) == sorted(whole)


async def test_differences_need_approval_and_the_same_command_gives_it(own_system: System, town: Dataset) -> None:
    connection = await asyncpg.connect(own_system.database_url)
    await connection.execute("DELETE FROM g1.membership WHERE customer_id = $1", customer_id(2))
    await connection.close()
    refused = await operate(own_system, "rebuild")
    assert (refused.code, await live(own_system)) == (1, "g1")
    assert "6 differing rows in g1, and nobody approved that" in refused.err
    assert "is missing; the stream has it" in refused.out
    (job,) = json.loads((await operate(own_system, "status", "--json")).out)["jobs"]
    assert (job["kind"], job["state"], job["phase"]) == ("rebuild", "refused", "gate")
    approved = await operate(own_system, "rebuild", "--yes")
    assert (approved.code, await live(own_system)) == (0, "g2")
    assert "Going on with job" in approved.err
    await demand_the_towns_rows(own_system, town)


async def test_newly_parked_events_stop_the_switch_until_they_are_discarded(own_system: System, town: Dataset) -> None:
    assert town.customers
    position = await own_system.publish([("membership.customer.nobody", b"{}")])
    await own_system.settled(position)
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


async def test_a_stream_that_lost_its_beginning_is_refused_and_one_that_was_erased_is_not(
    own_system: System, town: Dataset
) -> None:
    erased = await operate(own_system, "erase", "--customer", customer_id(3), "--yes")
    assert erased.code == 0, erased.err
    assert (await own_system.get(f"/customers/{customer_id(3)}/campaigns")).status_code == 404
    assert (await operate(own_system, "rebuild", "--yes")).code == 0
    assert await live(own_system) == "g2"
    assert (await own_system.get(f"/customers/{customer_id(3)}/campaigns")).status_code == 404
    for table in ("customer", "membership", "customer_summary"):
        for name in ("g1", "g2"):
            found = f"SELECT FROM {name}.{table} WHERE customer_id = $1"
            assert await own_system.fetch(found, customer_id(3)) == []
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
    for command in (("verify",), ("repair", "--customer", customer_id(4))):
        ended = await operate(own_system, *command)
        assert (ended.code, f"lacks {lost} messages" in ended.err) == (1, True), ended
    assert len(town.customers) == 30


async def in_process(system: System, kind: Any = "rebuild") -> Any:
    """Run a job in this process, where limits can be made short."""

    async def approve(_findings: Findings) -> bool:
        return True

    settings = load(
        set(), {name: system.environment[name] for name in ("MEMBERSHIP_DATABASE_URL", "MEMBERSHIP_NATS_URL")}
    )
    pace = Pace()
    return await GenerationJob(settings, kind, pace, ProgressReporter(pace)).run(actor(), approve)


async def test_lag_and_emptiness_stop_the_switch(
    own_system: System, town: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert town.customers
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


async def test_one_job_at_a_time_and_a_running_one_can_be_cancelled(own_system: System, town: Dataset) -> None:
    assert town.customers
    slow = asyncio.create_task(operate(own_system, "rebuild", "--yes", "--max-rate", "20", "--json"))

    async def begun() -> bool:
        jobs = json.loads((await operate(own_system, "status", "--json")).out)["jobs"]
        return bool(jobs and jobs[0]["state"] == "running" and jobs[0]["done"] > 0 and jobs[0]["eta_s"])

    await eventually(begun, "the rebuild is under way")
    for command in (("rebuild",), ("verify",), ("erase", "--customer", customer_id(1), "--yes")):
        refused = await operate(own_system, *command)
        assert (refused.code, "one job runs at a time" in refused.err) == (1, True), refused
    cancelled = await operate(own_system, "jobs", "cancel")
    assert (cancelled.code, "has ended" in cancelled.out) == (0, True)
    ended = await slow
    assert (ended.code, "was cancelled" in ended.err) == (1, True)
    told = [json.loads(line) for line in ended.out.splitlines()]
    assert {"phase", "done", "total", "rate", "eta_s", "reads_p99_ms"} <= told[-1].keys()
    listed = (await operate(own_system, "jobs", "list")).out
    assert "cancelled in phase fill" in listed
    assert [
        row["nspname"] for row in await own_system.fetch("SELECT nspname FROM pg_namespace WHERE nspname ~ '^g'")
    ] == ["g1"]
    assert (await operate(own_system, "jobs", "cancel")).code == 1


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (("rollback",), 1, "no rebuild has replaced another yet"),
        (("rebuild", "--max-rate", "0"), 2, "give a whole number of events a second"),
        (("verify", "--max-rate", "-3"), 2, "give a whole number of events a second"),
        (("repair",), 2, "--customer ID or --campaign ID"),
        (("repair", "--customer", "c0000000-0000-4000-8000-00000000dead"), 1, "There is no customer"),
        (("repair", "--campaign", "c0000000-0000-4000-8000-00000000dead"), 1, "There is no campaign"),
        (("repair", "--customer", "x"), 2, "not a valid UUID"),
        (("erase", "--customer", "c0000000-0000-4000-8000-00000000dead", "--yes"), 1, "There is no customer"),
        (("erase", "--customer", "c0000000-0000-4000-8000-00000000dead"), 2, "add --yes"),
        (("parked", "retry"), 2, "Name the positions to retry, or --all"),
        (("parked", "retry", "999999"), 1, "only reached position"),
        (("parked", "retry", "0"), 2, "0 is not in the range"),
        (("parked", "discard", "999999", "--reason", "x"), 1, "No event is parked at position 999999"),
        (("parked", "discard", "1"), 2, "--reason"),
        (("parked", "discard", "1", "--reason", " "), 2, "say why"),
        (("jobs", "cancel"), 1, "There is no job to cancel"),
    ],
)
async def test_what_cannot_be_done_is_said_in_a_sentence(
    system: System, command: tuple[str, ...], code: int, said: str
) -> None:
    ended = await operate(system, *command)
    assert ended.code == code
    assert said in " ".join(ended.err.replace("│", " ").split()), ended.err


async def test_a_broker_or_database_that_is_away_is_said_in_a_sentence(own_system: System) -> None:
    own_system.broker.stop()
    for command in (("rebuild",), ("verify",), ("repair", "--customer", customer_id(1))):
        ended = await operate(own_system, *command)
        assert (ended.code, "does not answer" in ended.err) == (1, True), ended
    gone = own_system.environment | {"MEMBERSHIP_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    own_system.broker.start()
    for command in (("rebuild",), ("rollback",), ("parked", "retry", "--all", "--yes")):
        ended = await membership(gone, *command)
        assert (ended.code, "PostgreSQL cannot be used" in ended.err) == (1, True), ended


async def test_a_parked_event_is_retried_in_every_generation_that_follows(own_system: System, town: Dataset) -> None:
    assert town.customers
    position = await own_system.publish([("membership.customer.nobody", b"{}")])
    await own_system.settled(position)
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
        held = f"SELECT FROM {name}.membership WHERE customer_id = $1"
        assert len(await own_system.fetch(held, customer_id(88))) == 1
    assert "parked.retry" in (await operate(own_system, "audit")).out


async def test_positions_do_not_go_back_at_a_switch(own_system: System, town: Dataset) -> None:
    assert town.customers
    position = await own_system.publish([published("customer.upserted.v1", 50, customer=1)])
    await own_system.settled(position)
    assert (await operate(own_system, "rebuild", "--yes")).code == 0
    reply = await listing(own_system)
    assert Position(int(reply.headers["Membership-Position"])) >= position


async def test_a_job_of_another_fold_is_not_finished_by_this_one(own_system: System, town: Dataset) -> None:
    connection = await asyncpg.connect(own_system.database_url)
    await connection.execute("DELETE FROM g1.membership WHERE customer_id = $1", customer_id(2))
    assert (await operate(own_system, "rebuild")).code == 1
    await connection.execute("UPDATE control.job SET release = 'another'")
    await connection.execute("DELETE FROM g2.customer")  # what another fold may have made of it
    await connection.close()
    ended = await operate(own_system, "rebuild", "--yes")
    assert (ended.code, await live(own_system)) == (0, "g3"), ended
    assert "begun by another release" in ended.err
    await demand_the_towns_rows(own_system, town)


async def test_status_says_when_the_stream_is_not_the_one_that_was_applied(own_system: System, town: Dataset) -> None:
    assert town.customers
    client = await connect_once(own_system.nats_url, "test")
    await client.jetstream().delete_stream(stream.STREAM)
    for said in ("does not exist", "another stream under the same name"):
        ended = await operate(own_system, "status", "--json")
        found = json.loads(ended.out)
        assert (ended.code, found["lag_events"], said in ended.err) == (1, None, True), ended
        await stream.create(client, replicas=1)
    await client.close()


async def test_an_erasure_under_way_keeps_repairs_and_rebuilds_away(own_system: System, town: Dataset) -> None:
    connection = await asyncpg.connect(own_system.database_url)
    job = await jobs.open_or_resume(connection, "erase", "purge", "test")
    for command in (("repair", "--customer", customer_id(1)), ("rebuild", "--yes"), ("verify",)):
        refused = await operate(own_system, *command)
        assert (refused.code, "eras" in refused.err) == (1, True), refused
    await jobs.finish(connection, job, "cancelled", "by the test")
    await connection.close()
    assert (await operate(own_system, "repair", "--customer", customer_id(1))).code == 0
    await demand_the_towns_rows(own_system, town)


@pytest.mark.usefixtures("town")
async def test_an_event_published_while_its_customer_is_erased_leaves_neither_a_row_nor_a_message(
    own_system: System,
) -> None:
    connection = await asyncpg.connect(own_system.database_url)
    async with connection.transaction():
        # Nobody commits: the erasure has purged, and waits with the projector.
        await connection.execute("SELECT FROM control.checkpoint FOR UPDATE")
        erasing = asyncio.create_task(operate(own_system, "erase", "--customer", customer_id(1), "--yes"))
        waits = (
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
            "AND application_name = 'membership-command')"
        )
        while not (await own_system.fetch(waits))[0][0]:
            assert not erasing.done(), await erasing
            await asyncio.sleep(0.02)
        again = published("target.enrolled.v1", 10**9, customer=1, campaign=1)
        await own_system.publish([again])
    erased = await erasing
    assert erased.code == 0, erased
    await own_system.settled(await own_system.publish([published("customer.upserted.v1", 10**9, customer=2)]))
    found = await connection.fetchval("SELECT count(*) FROM g1.membership WHERE customer_id = $1", customer_id(1))
    assert found == 0
    verified = await operate(own_system, "verify")
    assert (verified.code, "No row differs" in verified.out) == (0, True), verified
    await connection.close()


@pytest.mark.usefixtures("town")
async def test_two_rollbacks_at_once_leave_a_way_back(own_system: System) -> None:
    assert (await operate(own_system, "rebuild", "--yes")).code == 0
    ended = await asyncio.gather(*(operate(own_system, "rollback") for _ in range(2)))
    assert [each.code for each in ended] == [0, 0], ended
    row = await own_system.fetch("SELECT generation, previous FROM control.live")
    assert (row[0]["generation"], row[0]["previous"]) == ("g2", "g1")
    assert (await operate(own_system, "rollback")).code == 0
    assert await live(own_system) == "g1"
