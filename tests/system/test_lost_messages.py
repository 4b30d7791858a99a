"""Messages lost from the stream are detected, and an operator decides; erased messages are not a loss."""

import asyncio
import json
import os
import pty
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from consumers import stream
from consumers.client import connect_once
from ops.devstack.servers.postgres import PostgresServer
from ops.publisher import Publication, publish_events
from projections.maintenance import erasure, jobs
from tests.support.builders import customer_id, published
from tests.support.command import CompletedCommand, membership
from tests.support.known_outcome import Dataset
from tests.support.processes import System, eventually

REASON = ("--reason", "purged by hand")


async def operate(system: System, *arguments: str) -> CompletedCommand:
    return await membership(system.environment, *arguments)


async def status(system: System) -> tuple[int, dict[str, Any], str]:
    command = await operate(system, "status", "--json")
    return command.code, json.loads(command.out), command.err


async def purge(system: System, subject: str) -> int:
    client = await connect_once(system.nats_url, "test")
    try:
        return await stream.purge(client, subject)
    finally:
        await client.close()


async def tally(system: System) -> erasure.Tally:
    client = await connect_once(system.nats_url, "test")
    try:
        state = await stream.fetch_state(client)
        assert state is not None
        return state.tally
    finally:
        await client.close()


def enrolments(customers: range) -> list[tuple[str, bytes]]:
    return [published("target.enrolled.v1", 1, customer=number) for number in customers]


async def assert_projector_ends_with(system: System, sentence: str) -> None:
    """Wait until the projector has ended with exit code 1, and check that its log has the sentence."""
    code = await asyncio.to_thread(system.children["project"].wait, 30)
    assert code == 1
    assert sentence in system.log("project")


@pytest.mark.parametrize("followed", [False, True], ids=["at the end", "before other events"])
async def test_messages_lost_after_the_checkpoint_stop_the_projector(own_system: System, followed: bool) -> None:
    await own_system.wait_until_applied(await own_system.publish(enrolments(range(1, 4))))
    own_system.kill("project")
    last = await own_system.publish(enrolments(range(4, 21)))
    assert await purge(own_system, "membership.target.>") == 20
    if followed:
        last = await own_system.publish([published("customer.upserted.v1", 1, customer=1)])
    own_system.launch("project")
    await assert_projector_ends_with(
        own_system, f"has lost 17 messages that were not applied yet, between positions 3 and {last}"
    )
    code, report, errors = await status(own_system)
    assert (code, report["position"], report["missing_events"], report["leader"]) == (1, 3, 20, False), errors
    assert "has lost 20 messages" in errors
    assert "No projector leads" in errors

    refused = await operate(own_system, "acknowledge-missing", *REASON)
    assert (refused.code, "lacks 20 messages" in refused.out) == (2, True), refused
    accepted = await operate(own_system, "acknowledge-missing", *REASON, "--yes")
    assert (accepted.code, "Acknowledged 20 lost messages" in accepted.out) == (0, True), accepted
    assert (await tally(own_system)).acknowledged == 20
    own_system.launch("project")
    position = await own_system.publish([published("customer.upserted.v1", 2, customer=1)])
    await own_system.wait_until_applied(position)
    code, report, errors = await status(own_system)
    assert (code, report["missing_events"], report["leader"], errors) == (0, 0, True, "")
    assert "acknowledge-missing" in (await operate(own_system, "audit")).out
    again = await operate(own_system, "acknowledge-missing", *REASON, "--yes")
    assert (again.code, "has lost nothing" in again.out) == (0, True), again


async def test_messages_lost_while_the_projector_reads_stop_it(own_system: System) -> None:
    await own_system.wait_until_applied(await own_system.publish(enrolments(range(1, 4))))
    connection = await asyncpg.connect(own_system.database_url)
    async with connection.transaction():
        # No batch commits, so the projector prefetches only a few pulls.
        await connection.execute("SELECT FROM control.checkpoint FOR UPDATE")
        many = [published("target.enrolled.v1", 1, customer=number) for number in range(10, 30_010)]
        many += [published("customer.upserted.v1", 1, customer=1)]
        publications = [Publication(subject, f"lost-{number}", body) for number, (subject, body) in enumerate(many)]
        receipts = [receipt async for receipt in publish_events(own_system.nats_url, publications)]
        lost = 0
        for number in range(29_990, 30_010):
            lost += await purge(own_system, f"membership.target.{customer_id(number)}.*")
        assert lost == 20
    await assert_projector_ends_with(own_system, "has lost 20 messages that were not applied yet")
    (row,) = await own_system.fetch("SELECT position FROM control.checkpoint")
    assert row["position"] < receipts[-1].position - lost
    await connection.close()


async def test_verify_repair_and_rebuild_accept_acknowledged_losses(own_system: System) -> None:
    await own_system.wait_until_applied(await own_system.publish(enrolments(range(1, 6))))
    await purge(own_system, f"membership.target.{customer_id(1)}.*")
    for arguments in (
        ("verify", "--no-throttle"),
        ("rebuild", "--yes", "--no-throttle"),
        ("repair", "--customer", customer_id(2)),
    ):
        refused = await operate(own_system, *arguments)
        assert (refused.code, "membership acknowledge-missing" in refused.err) == (1, True), refused
        assert "A backup made before an erasure brings the erased customer back" in refused.err
    code, report, errors = await status(own_system)
    assert (code, report["missing_events"], report["leader"]) == (1, 1, True), errors
    assert (await operate(own_system, "acknowledge-missing", *REASON, "--yes")).code == 0
    for arguments in (
        ("repair", "--customer", customer_id(2)),
        ("rebuild", "--yes", "--no-throttle"),
        ("verify", "--no-throttle"),
    ):
        command = await operate(own_system, *arguments)
        assert command.code == 0, command
    assert (await status(own_system))[0] == 0


async def test_after_an_acknowledged_loss_no_command_advises_to_overwrite(own_system: System) -> None:
    events = [published("customer.upserted.v1", 1, customer=1), *enrolments(range(1, 4))]
    await own_system.wait_until_applied(await own_system.publish(events))
    await purge(own_system, f"membership.customer.{customer_id(1)}")
    assert (await operate(own_system, "acknowledge-missing", *REASON, "--yes")).code == 0
    warning = "1 lost message was acknowledged: these rows may be the only copy of their data. Publish that data as new"
    verified = await operate(own_system, "verify", "--no-throttle")
    assert (verified.code, warning in verified.out) == (1, True), verified
    assert "membership re" not in verified.out + verified.err
    shown = await operate(own_system, "repair", "--customer", customer_id(1), "--dry-run")
    assert (shown.code, warning in shown.out, "without --dry-run" in shown.out) == (0, True, False), shown
    refused = await operate(own_system, "rebuild", "--no-throttle")
    assert (refused.code, warning in refused.err, "--yes" in refused.err) == (1, True, False), refused
    assert (await operate(own_system, "jobs", "cancel")).code == 0
    await own_system.wait_until_applied(await own_system.publish([published("customer.upserted.v1", 2, customer=1)]))
    assert (await operate(own_system, "verify", "--no-throttle")).code == 0


async def test_the_lag_does_not_count_erased_messages(own_system: System) -> None:
    await own_system.wait_until_applied(await own_system.publish(enrolments(range(1, 4))))
    own_system.kill("project")
    last = await own_system.publish(enrolments(range(2, 5)))
    assert (await status(own_system))[1]["lag_events"] == 3
    assert await purge(own_system, f"membership.target.{customer_id(4)}.*") == 1
    report = (await status(own_system))[1]
    assert (report["stream_position"], report["lag_events"]) == (last, 2)
    await purge(own_system, "membership.target.>")
    report = (await status(own_system))[1]
    assert (report["position"], report["lag_events"], report["lag_s"]) == (3, 0, 0.0)


def copy_stream(system: System, to: Path) -> None:
    """Back the stream up as documented: a copy of the broker's folder while it is stopped."""
    system.broker.stop()
    shutil.copytree(system.broker.store_dir, to)
    system.broker.start()


def restore_stream(system: System, backup: Path) -> None:
    system.broker.stop()
    shutil.rmtree(system.broker.store_dir)
    shutil.copytree(backup, system.broker.store_dir)
    system.broker.start()


async def test_a_restore_from_before_an_erasure_is_refused_until_repeated(own_system: System, tmp_path: Path) -> None:
    events = [*enrolments(range(1, 6)), *(published("target.enrolled.v1", 1, customer=9, campaign=n) for n in (1, 2))]
    await own_system.wait_until_applied(await own_system.publish(events))
    await asyncio.to_thread(copy_stream, own_system, tmp_path / "backup")
    for customer in (9, 1):
        erased = await operate(own_system, "erase", "--customer", customer_id(customer), "--yes")
        assert erased.code == 0, erased
    await asyncio.to_thread(restore_stream, own_system, tmp_path / "backup")
    await assert_projector_ends_with(own_system, "restored from a backup made before an erasure")
    code, report, errors = await status(own_system)
    assert (code, report["missing_events"]) == (1, 0)
    assert "at least 3 messages recorded as erased or lost are in it again" in errors
    for arguments in (("verify", "--no-throttle"), ("rebuild", "--yes"), ("repair", "--customer", customer_id(9))):
        refused = await operate(own_system, *arguments)
        assert (refused.code, "Repeat the erasures" in refused.err) == (1, True), refused

    first = await operate(own_system, "erase", "--customer", customer_id(9), "--yes")
    assert (first.code, "Erased 2 messages" in first.out) == (0, True), first
    assert "at least 1 messages" in (await status(own_system))[2]
    second = await operate(own_system, "erase", "--customer", customer_id(1), "--yes")
    assert (second.code, "Erased 1 message" in second.out) == (0, True), second
    assert await tally(own_system) == erasure.Tally(erased=3)
    own_system.launch("project")
    await own_system.wait_until_applied(await own_system.publish([published("customer.upserted.v1", 1, customer=2)]))
    assert (await status(own_system))[::2] == (0, "")
    assert (await operate(own_system, "verify", "--no-throttle")).code == 0

    own_system.kill("project")
    await own_system.publish(enrolments(range(20, 22)))
    await purge(own_system, f"membership.target.{customer_id(20)}.*")
    own_system.launch("project")
    await assert_projector_ends_with(own_system, "has lost 1 messages")


async def test_a_restored_loss_is_settled_by_acknowledging(own_system: System, tmp_path: Path) -> None:
    await own_system.wait_until_applied(await own_system.publish(enrolments(range(1, 6))))
    erased = await operate(own_system, "erase", "--customer", customer_id(5), "--yes")
    assert erased.code == 0, erased
    await asyncio.to_thread(copy_stream, own_system, tmp_path / "backup")
    await purge(own_system, f"membership.target.{customer_id(1)}.*")
    assert (await operate(own_system, "acknowledge-missing", *REASON, "--yes")).code == 0
    await asyncio.to_thread(restore_stream, own_system, tmp_path / "backup")
    assert (await status(own_system))[0] == 1
    shown = await operate(own_system, "acknowledge-missing", *REASON)
    assert (shown.code, "repeat those erasures" in shown.out) == (2, True), shown
    settled = await operate(own_system, "acknowledge-missing", *REASON, "--yes")
    assert (settled.code, "Recorded that 1 message" in settled.out) == (0, True), settled
    assert await tally(own_system) == erasure.Tally(erased=1)
    assert (await operate(own_system, "verify", "--no-throttle")).code == 0


@asynccontextmanager
async def prompt_to_acknowledge(system: System) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the command at a terminal up to its prompt; answer y and wait for its end after the body."""
    leader, follower = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ops", "acknowledge-missing", *REASON,
        env=system.environment, stdin=follower, stdout=follower, stderr=follower,
    )  # fmt: skip
    os.close(follower)
    output = b""
    while b"are lost?" not in output:
        output += await asyncio.to_thread(os.read, leader, 1024)
    yield process
    await asyncio.to_thread(os.write, leader, b"y\n")
    await process.wait()
    os.close(leader)


async def test_a_loss_during_the_prompt_is_not_acknowledged(own_system: System) -> None:
    await own_system.wait_until_applied(await own_system.publish(enrolments(range(1, 6))))
    await purge(own_system, f"membership.target.{customer_id(1)}.*")
    async with prompt_to_acknowledge(own_system) as process:
        await purge(own_system, f"membership.target.{customer_id(2)}.*")
    assert process.returncode == 1
    assert await tally(own_system) == erasure.Tally()


async def test_an_erasure_during_the_prompt_is_not_overwritten(
    own_system: System, postgres: PostgresServer, template: str, tmp_path: Path
) -> None:
    last = await own_system.publish(enrolments(range(1, 6)))
    await own_system.wait_until_applied(last)
    await purge(own_system, f"membership.target.{customer_id(1)}.*")
    assert (await operate(own_system, "acknowledge-missing", *REASON, "--yes")).code == 0
    async with on_a_new_database(own_system, postgres, template, tmp_path / "other") as other:
        await other.wait_until_applied(last)
        await purge(own_system, f"membership.target.{customer_id(2)}.*")
        async with prompt_to_acknowledge(own_system) as process:
            erased = await operate(other, "erase", "--customer", customer_id(3), "--yes")
            assert erased.code == 0, erased
        assert process.returncode == 0
        assert await tally(own_system) == erasure.Tally(erased=1, acknowledged=2)


async def test_status_reports_that_no_projector_leads(own_system: System) -> None:
    assert (await status(own_system))[::2] == (0, "")
    own_system.kill("project")
    code, report, errors = await status(own_system)
    assert (code, report["leader"]) == (1, False)
    assert errors.startswith("No projector leads")


async def test_status_names_an_unavailable_server_and_shows_the_rest(own_system: System) -> None:
    own_system.broker.stop()
    code, found, said = await status(own_system)
    assert (code, found["missing_events"], found["lag_events"], found["generation"]) == (1, None, None, "g1")
    assert "The broker cannot be queried" in said
    gone = own_system.environment | {"MEMBERSHIP_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    command = await membership(gone, "status")
    assert (command.code, "PostgreSQL cannot be used" in command.err) == (1, True), command


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["lines", "json"])
async def test_status_watch_prints_lines_without_a_terminal(system: System, options: tuple[str, ...]) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ops", "status", "--watch", *options,
        env=system.environment, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(30):
        lines = [(await process.stdout.readline()).decode() for _ in range(2)]
    process.send_signal(signal.SIGINT)
    assert await process.wait() == 0
    for line in lines:
        assert json.loads(line)["leader"] if options else "leader=yes missing_events=0" in line


@asynccontextmanager
async def on_a_new_database(
    system: System, postgres: PostgresServer, template: str, folder: Path
) -> AsyncIterator[System]:
    """Run a second projector and API over the same stream, on an empty database."""
    name = "test_restored"
    connection = await asyncpg.connect(postgres.url)
    await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    await asyncio.to_thread(folder.mkdir)
    other = System(system.database_url.rpartition("/")[0] + f"/{name}", system.broker, folder)
    try:
        await other.start()
        yield other
    finally:
        await other.stop()
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await connection.close()


@pytest.fixture
async def dataset(own_system: System) -> Dataset:
    """A dataset whose events are all applied."""
    dataset = Dataset(3, customers=30, campaigns=12, memberships_each=6)
    await own_system.wait_until_applied(await own_system.publish(dataset.events(duplicates=0.1)))
    return dataset


@pytest.mark.usefixtures("dataset")
async def test_a_new_database_recognises_an_earlier_erasure(
    own_system: System, postgres: PostgresServer, template: str, tmp_path: Path
) -> None:
    erased = await operate(own_system, "erase", "--customer", customer_id(3), "--yes")
    assert erased.code == 0, erased
    last = await own_system.publish([published("customer.upserted.v1", 10**9, customer=2)])
    async with on_a_new_database(own_system, postgres, template, tmp_path / "other") as other:
        await other.wait_until_applied(last)
        for arguments in (
            ("verify", "--no-throttle"),
            ("repair", "--customer", customer_id(2)),
            ("rebuild", "--yes", "--no-throttle"),
        ):
            command = await operate(other, *arguments)
            assert command.code == 0, command
        code, report, errors = await status(other)
        assert (code, report["missing_events"], errors) == (0, 0, "")


async def test_erasures_of_an_older_release_are_copied_to_the_stream(own_system: System) -> None:
    last = await own_system.publish(enrolments(range(1, 6)))
    await own_system.wait_until_applied(last)
    own_system.kill("project")
    lost = await purge(own_system, f"membership.target.{customer_id(1)}.*")
    client = await connect_once(own_system.nats_url, "test")
    state = await stream.fetch_state(client)
    await client.close()
    assert state is not None
    connection = await asyncpg.connect(own_system.database_url)
    job = await jobs.open_or_resume(connection, "erase", "purge", "test")
    await erasure.begin(connection, job, customer_id(1), state.created, 0)
    await erasure.conclude(connection, job, state.created, lost)
    await jobs.finish(connection, job, "done", "by the test")
    await connection.close()
    own_system.launch("project")

    async def copied() -> bool:
        return (await tally(own_system)).erased == lost

    await eventually(copied, "the projector copies the number of erased messages to the stream")


@asynccontextmanager
async def erasing(system: System, customer: int) -> AsyncIterator["asyncio.Task[CompletedCommand]"]:
    """Pause an erasure between its purge and its rows: it waits for the checkpoint that the test has locked."""
    connection = await asyncpg.connect(system.database_url)
    async with connection.transaction():
        await connection.execute("SELECT FROM control.checkpoint FOR UPDATE")
        task = asyncio.create_task(operate(system, "erase", "--customer", customer_id(customer), "--yes"))
        waits = (
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
            "AND application_name = 'membership-command')"
        )

        async def waiting() -> bool:
            assert not task.done(), await task
            return bool((await system.fetch(waits))[0][0])

        await eventually(waiting, "the erasure waits before its rows")
        yield task
    await connection.close()


@pytest.mark.usefixtures("dataset")
async def test_an_interrupted_erasure_is_reported_and_can_be_finished(own_system: System) -> None:
    own_system.kill("project")
    late = await own_system.publish([published("target.enrolled.v1", 10**9, customer=1, campaign=1)])
    async with erasing(own_system, 1) as task:
        own_system.broker.stop()
    command = await task
    assert command.code == 1
    assert "was begun and is not finished" in command.err
    assert f"membership erase --customer {customer_id(1)} --yes" in command.err
    again = await operate(own_system, "erase", "--customer", customer_id(1), "--yes")
    assert (again.code, "was begun and is not finished" in again.err) == (1, True), again
    own_system.broker.start()
    assert (await tally(own_system)).erasing_from == 0
    own_system.launch("project")  # it accepts the hole that the interrupted erasure left
    last = await own_system.publish([published("customer.upserted.v1", 10**9, customer=2)])
    await own_system.wait_until_applied(last)
    assert last > late
    assert (await status(own_system))[1]["missing_events"] == 0
    refused = await operate(own_system, "acknowledge-missing", *REASON, "--yes")
    assert (refused.code, "Finish it first" in refused.err) == (1, True), refused
    finished = await operate(own_system, "erase", "--customer", customer_id(1), "--yes")
    assert finished.code == 0, finished
    report = await tally(own_system)
    assert (report.erasing_from, report.erased > 0) == (None, True)
    for arguments in (("verify", "--no-throttle"), ("rebuild", "--yes", "--no-throttle")):
        command = await operate(own_system, *arguments)
        assert command.code == 0, command


@pytest.mark.usefixtures("dataset")
async def test_another_database_finishes_an_interrupted_erasure(
    own_system: System, postgres: PostgresServer, template: str, tmp_path: Path
) -> None:
    async with erasing(own_system, 1) as task:
        own_system.broker.stop()
    assert (await task).code == 1
    own_system.broker.start()
    last = await own_system.publish([published("customer.upserted.v1", 10**9, customer=2)])
    async with on_a_new_database(own_system, postgres, template, tmp_path / "other") as other:
        await other.wait_until_applied(last)
        for arguments in (("verify", "--no-throttle"), ("acknowledge-missing", *REASON, "--yes")):
            refused = await operate(other, *arguments)
            assert (refused.code, "begun with another database" in refused.err) == (1, True), refused
        for customer in (2, 999):
            refused = await operate(other, "erase", "--customer", customer_id(customer), "--yes")
            assert (refused.code, "An erasure of another customer" in refused.err) == (1, True), refused
        assert (await tally(other)).erasing_from == 0
        finished = await operate(other, "erase", "--customer", customer_id(1), "--yes")
        assert finished.code == 0, finished
        verified = await operate(other, "verify", "--no-throttle")
        assert verified.code == 0, verified
    finished = await operate(own_system, "erase", "--customer", customer_id(1), "--yes")
    assert finished.code == 0, finished
    verified = await operate(own_system, "verify", "--no-throttle")
    assert verified.code == 0, verified


async def test_erasure_removes_the_customers_malformed_messages(own_system: System) -> None:
    customer, campaign = customer_id(10), "ca000000-0000-4000-8000-000000000001"
    malformed = [
        f"membership.customer.{customer}.v2",
        f"membership.target.{customer}",
        f"membership.target.{customer}.{campaign}.again",
        f"membership.target.{customer.upper()}.{campaign}",
        f"membership.customer.{customer.upper()}",
        f"membership.customer.C{customer[1:]}",
        f"membership.target.C{customer[1:]}.{campaign}",
    ]
    others = [f"membership.customer.{customer}x", f"membership.target.{customer_id(11)}"]
    events = [*enrolments(range(10, 12)), *((subject, b"{}") for subject in malformed + others)]
    await own_system.wait_until_applied(await own_system.publish(events))
    assert len(await own_system.parked_positions()) == 9
    discarded = max(await own_system.parked_positions()) - 2  # the last of `malformed`: still in the stream
    assert (await operate(own_system, "parked", "discard", str(discarded), "--reason", "test")).code == 0
    erased = await operate(own_system, "erase", "--customer", customer, "--yes")
    assert (erased.code, "Erased 8 messages" in erased.out) == (0, True), erased
    parked = await own_system.fetch("SELECT subject FROM g1.parked_event")
    assert {row["subject"] for row in parked} == set(others)
    client = await connect_once(own_system.nats_url, "test")
    reply = await client.request(
        f"$JS.API.STREAM.INFO.{stream.STREAM}", msgspec.json.encode({"subjects_filter": "membership.>"})
    )
    await client.close()
    assert customer not in reply.data.decode().lower().replace(f"{customer}x", "")
    rebuilt = await operate(own_system, "rebuild", "--no-throttle")
    assert rebuilt.code == 0, rebuilt
    for table in ("job", "audit", "erasure", "discarded_event"):
        report = await own_system.fetch(f"SELECT t::text FROM control.{table} t")  # noqa: S608
        assert customer not in str(report).lower()
