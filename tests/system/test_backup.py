"""A backup restored into a new broker and a new database gives the same rows; a damaged or misplaced one is refused."""

import json
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest

from consumers import stream
from consumers.client import connect_once
from consumers.replicas import Replication
from ops.backup.control_tables import DERIVED, TABLES
from ops.devstack.servers.nats import NatsServer
from ops.devstack.servers.postgres import PostgresServer
from projections.store import database as databases
from projections.store.migrations import migrate
from tests.support.builders import customer_id, published
from tests.support.command import CompletedCommand, membership
from tests.support.known_outcome import Dataset
from tests.support.operations import assert_dataset_rows
from tests.support.processes import System
from tests.support.read_model import rows

BAD = ("membership.customer.x", b"{}")
CONTROL = "job_id, kind, state, phase, started_by, outcome FROM control.job ORDER BY 1"


@pytest.fixture
async def target(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[System]:
    """A new broker and a new, migrated database; no process runs yet."""
    name = f"restored_{tmp_path.name[:30].replace('-', '_')}".lower()
    admin = await asyncpg.connect(postgres.url)
    await admin.execute(f'CREATE DATABASE "{name}"')
    url = f"{postgres.url.rpartition('/')[0]}/{name}"
    connection = await databases.connect(url, "test")
    await migrate(connection)
    await connection.close()
    folder = tmp_path / "target"
    broker = NatsServer(folder / "nats")
    broker.start()
    system = System(url, broker, folder)
    yield system
    await system.stop()
    broker.stop()
    await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await admin.close()


async def run(system: System, *arguments: str | Path | int) -> CompletedCommand:
    return await membership(system.environment, *map(str, arguments))


async def succeed(system: System, *arguments: str | Path | int) -> CompletedCommand:
    outcome = await run(system, *arguments)
    assert outcome.code == 0, (arguments, outcome.err)
    return outcome


async def all_rows(system: System) -> dict[str, list[dict[str, Any]]]:
    connection = await asyncpg.connect(system.database_url)
    try:
        return await rows(connection)
    finally:
        await connection.close()


async def state_of(system: System) -> stream.StreamState | None:
    client = await connect_once(system.nats_url, "test")
    try:
        state = await stream.fetch_state(client)
    finally:
        await client.close()
    # Which server has the stream, and that it came from a backup, may differ.
    return state and msgspec.structs.replace(state, replication=Replication(), restored=None)


async def status_with_key(api_url: str, key: str) -> int:
    async with httpx.AsyncClient(base_url=api_url) as client:
        path = f"/customers/{customer_id(1)}/campaigns?include_deleted=true"
        return (await client.get(path, headers={"X-API-Key": key})).status_code


async def untouched(target: System) -> bool:
    """Return whether nothing was written to the target."""
    counts = await target.fetch("SELECT count(*) AS rows FROM control.audit")
    return await state_of(target) is None and counts[0]["rows"] == 0


async def test_a_restored_stream_and_an_empty_database_give_the_same_rows(
    own_system: System, target: System, tmp_path: Path
) -> None:
    dataset = Dataset(5, customers=40, campaigns=15, memberships_each=6)
    erased = customer_id(41)
    events = [*dataset.events(duplicates=0.1), published("customer.upserted.v1", 1, customer=41), BAD, BAD]
    position = await own_system.publish(events)
    await own_system.wait_until_applied(position)
    await succeed(own_system, "erase", "--customer", erased, "--yes")
    await succeed(own_system, "parked", "discard", position, "--reason", "a test's event")
    created = await succeed(own_system, "api-key", "create", "--user", customer_id(1), "--admin", "--label", "crm")
    await succeed(own_system, "verify")
    key = next(word for word in created.out.split() if "_" in word)
    folder = tmp_path / "backup"

    await succeed(own_system, "backup", folder)
    before, expected = await state_of(own_system), await all_rows(own_system)
    control = await own_system.fetch(f"SELECT {CONTROL}")
    audit = await own_system.fetch("SELECT * FROM control.audit ORDER BY audit_id")
    await own_system.stop()
    own_system.broker.stop()
    shutil.rmtree(own_system.broker.store_dir)

    outcome = await run(target, "restore", folder)
    assert outcome.code == 0, repr(outcome.err)
    assert f"up to position {position}" in outcome.out
    assert await state_of(target) == before, "positions, identity and tally are those of the lost stream"
    await target.start()
    await target.wait_until_applied(position)

    assert await all_rows(target) == expected
    await assert_dataset_rows(target, dataset)
    assert [tuple(row) for row in await target.fetch(f"SELECT {CONTROL}")] == [tuple(row) for row in control]
    restored = await target.fetch("SELECT * FROM control.audit ORDER BY audit_id")
    assert restored[:-1] == audit
    assert restored[-1]["action"] == "restore"
    assert (await status_with_key(target.api_url, "wrong")) == httpx.codes.UNAUTHORIZED
    assert (await status_with_key(target.api_url, key)) == httpx.codes.OK, "the restored key is accepted"
    status = json.loads((await succeed(target, "status", "--json")).out)
    assert (status["missing_events"], status["lag_events"], status["parked"]) == (0, 0, 1)
    for command in (
        ("verify",),
        ("rebuild", "--yes", "--no-throttle"),
        ("erase", "--customer", customer_id(1), "--yes"),
    ):
        await succeed(target, *command)
    later = await target.publish([published("customer.upserted.v1", 9, customer=50)])
    assert later == position + 1
    await target.wait_until_applied(later)


async def test_the_database_continues_after_its_lost_stream_is_restored(own_system: System, tmp_path: Path) -> None:
    position = await own_system.publish([published("customer.upserted.v1", n, customer=n) for n in range(1, 20)])
    await own_system.wait_until_applied(position)
    await succeed(own_system, "backup", tmp_path / "backup", "--only", "stream")
    own_system.kill("project")
    own_system.broker.stop()
    shutil.rmtree(own_system.broker.store_dir)
    own_system.broker.start()

    outcome = await succeed(own_system, "restore", tmp_path / "backup", "--only", "stream")
    assert outcome.err.strip() == ""
    own_system.launch("project")
    later = await own_system.publish([published("customer.upserted.v1", 1, customer=99)])
    assert later == position + 1
    await own_system.wait_until_applied(later)


async def test_a_checkpoint_ahead_of_the_restored_stream_is_reported_at_once(
    own_system: System, tmp_path: Path
) -> None:
    first = await own_system.publish([published("customer.upserted.v1", 1, customer=1)])
    await own_system.wait_until_applied(first)
    await succeed(own_system, "backup", tmp_path / "backup", "--only", "stream")
    later = await own_system.publish([published("customer.upserted.v1", 1, customer=2)])
    await own_system.wait_until_applied(later)
    own_system.kill("project")
    own_system.broker.stop()
    shutil.rmtree(own_system.broker.store_dir)
    own_system.broker.start()

    outcome = await succeed(own_system, "restore", tmp_path / "backup", "--only", "stream")

    ends = f"was restored from a backup that ends at position {first}, but the read model has applied position {later}"
    assert ends in outcome.err
    own_system.launch("project", "refusing")
    assert own_system.children["refusing"].wait(30) == 1
    assert ends in own_system.log("refusing")


async def test_a_restore_into_a_used_broker_or_database_writes_nothing(
    own_system: System, target: System, tmp_path: Path
) -> None:
    position = await own_system.publish([published("customer.upserted.v1", 1, customer=1)])
    await own_system.wait_until_applied(position)
    await succeed(own_system, "backup", tmp_path / "backup")

    outcome = await run(own_system, "restore", tmp_path / "backup")
    assert (outcome.code, "A projector leads" in outcome.err) == (1, True)
    own_system.kill("project")
    outcome = await run(own_system, "restore", tmp_path / "backup")
    assert outcome.code == 1
    assert f"The database is not empty: events up to position {position} are applied" in outcome.err
    outcome = await run(own_system, "restore", tmp_path / "backup", "--only", "stream")
    assert (outcome.code, "only into a broker without it" in outcome.err) == (1, True)

    connection = await asyncpg.connect(target.database_url)
    await connection.execute("INSERT INTO control.audit (actor, action, detail) VALUES ('a', 'b', 'c')")
    outcome = await run(target, "restore", tmp_path / "backup")
    assert (outcome.code, "control.audit has rows" in outcome.err) == (1, True)
    assert await state_of(target) is None
    await connection.close()


async def test_a_partly_restored_stream_is_refused_until_it_is_restored_again(
    own_system: System, tmp_path: Path
) -> None:
    position = await own_system.publish([published("customer.upserted.v1", 1, customer=n) for n in range(5)])
    await own_system.wait_until_applied(position)
    await succeed(own_system, "backup", tmp_path / "backup", "--only", "stream")
    own_system.kill("project")
    own_system.broker.stop()
    shutil.rmtree(own_system.broker.store_dir)
    own_system.broker.start()
    # What nats-server leaves when a restore is cut off: the stream with its first messages.
    client = await connect_once(own_system.nats_url, "test")
    config = stream.configuration(1) | {"metadata": {stream.RESTORING_KEY: "2026-11-24T00:00:00Z"}}
    await client.request("$JS.API.STREAM.CREATE.MEMBERSHIP", json.dumps(config).encode())
    await client.close()
    await own_system.publish([published("customer.upserted.v1", 1, customer=0)])

    own_system.launch("project", "refusing")
    assert own_system.children["refusing"].wait(30) == 1
    for outcome in (await run(own_system, "status"), await run(own_system, "backup", tmp_path / "other")):
        assert (outcome.code, "is being restored from a backup" in outcome.err) == (1, True)
    await succeed(own_system, "restore", tmp_path / "backup", "--only", "stream")
    own_system.launch("project")
    later = await own_system.publish([published("customer.upserted.v1", 1, customer=99)])
    assert later == position + 1
    await own_system.wait_until_applied(later)


def cut(folder: Path) -> None:
    file = folder / "stream.snapshot"
    file.write_bytes(file.read_bytes()[:-1])


def alter(folder: Path) -> None:
    file = folder / "stream.snapshot"
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)


def alter_table(folder: Path) -> None:
    file = folder / "audit.csv"
    file.write_bytes(file.read_bytes().replace(b"discard", b"DISCARD", 1))


def lose(folder: Path) -> None:
    (folder / "api_key.csv").unlink()


def alter_manifest(folder: Path) -> None:
    file = folder / "manifest.json"
    file.write_bytes(file.read_bytes().replace(b'"messages": ', b'"messages": 1', 1))


def lose_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


@pytest.fixture(scope="module")
async def made(system: System, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of some events and an audit entry."""
    position = await system.publish([published("customer.upserted.v1", 1, customer=1), BAD])
    await system.wait_until_applied(position)
    await succeed(system, "parked", "discard", position, "--reason", "for the audit")
    folder = tmp_path_factory.mktemp("made") / "backup"
    await succeed(system, "backup", folder)
    return folder


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut, "bytes instead of"),
        (alter, "stream.snapshot was altered"),
        (alter_table, "audit.csv was altered"),
        (lose, "api_key.csv cannot be read"),
        (alter_manifest, "manifest.json is truncated or was altered"),
        (lose_manifest, "manifest.json cannot be read"),
    ],
)
async def test_a_damaged_backup_is_refused_before_anything_is_written(
    made: Path, target: System, tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    damage(copy)
    for arguments in ((), ("--check",)):
        outcome = await run(target, "restore", copy, *arguments)
        assert (outcome.code, outcome.out) == (1, "")
        assert reason in outcome.err
    assert await untouched(target)


def modes(folder: Path) -> list[int]:
    return [path.stat().st_mode for path in (folder, *folder.iterdir())]


async def test_an_unchanged_backup_passes_the_check(made: Path, target: System) -> None:
    assert "Unchanged: stream MEMBERSHIP" in (await succeed(target, "restore", made, "--check")).out
    assert await untouched(target)
    assert not any(mode & 0o077 for mode in modes(made)), "a backup is readable by its owner only"


async def test_a_backup_never_replaces_another_one(system: System, made: Path) -> None:
    outcome = await run(system, "backup", made)
    assert (outcome.code, "a backup never replaces another one" in outcome.err) == (1, True)


async def test_a_broker_without_the_stream_makes_no_backup(target: System, tmp_path: Path) -> None:
    outcome = await run(target, "backup", tmp_path / "backup")
    assert (outcome.code, "there is nothing to back up" in outcome.err) == (1, True)
    assert not (tmp_path / "backup").exists()
    assert not (tmp_path / "backup.unfinished").exists()


async def test_every_control_table_is_in_a_backup_or_derived(connection: asyncpg.Connection) -> None:
    existing = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'control'")
    assert {row["tablename"] for row in existing} == {table.name for table in TABLES} | DERIVED.keys()
