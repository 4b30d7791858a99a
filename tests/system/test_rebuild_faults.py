"""A rebuild that is killed, or loses its broker or database, completes; readers see either the old rows or the new.

The live generation is damaged first, so that old and new responses differ and a mixture would show.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import asyncpg

from ops.devstack.servers.nats import NatsServer
from ops.devstack.servers.postgres import PostgresServer
from ops.publisher import Publication, publish_events
from projections.store import database as databases
from projections.store import notices
from projections.store.migrations import migrate
from tests.support.builders import customer_id, published
from tests.support.command import membership
from tests.support.known_outcome import Dataset
from tests.support.operations import assert_dataset_rows, live
from tests.support.processes import System, eventually

REBUILD_KILLS = int(os.environ.get("MEMBERSHIP_TEST_REBUILD_KILLS", "10"))
PROJECTOR_KILLS = int(os.environ.get("MEMBERSHIP_TEST_PROJECTOR_KILLS", "20"))
PROJECTOR_EVENTS = int(os.environ.get("MEMBERSHIP_TEST_PROJECTOR_EVENTS", "100000"))
PHASES = ("fill", "resolve", "index", "catch up", "compare", "gate", "join", "switch")
HOLD_LOCK = 4242

BARRIER = f"""
CREATE TABLE public.barrier (phase text);
CREATE FUNCTION public.wait_at_barrier() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM public.barrier WHERE phase = NEW.phase) THEN
        PERFORM pg_advisory_xact_lock({HOLD_LOCK}, hashtext(NEW.phase));
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER barrier BEFORE UPDATE OF phase ON control.job FOR EACH ROW EXECUTE FUNCTION public.wait_at_barrier();
"""
"""Blocks a job at the start of a phase for as long as a test holds the lock."""


class Barrier:
    """Blocks the next job at the start of a phase."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._holder: asyncpg.Connection | None = None

    async def close(self, phase: str) -> None:
        """Block jobs at the start of `phase`."""
        self._holder = await asyncpg.connect(self._system.database_url)
        await self._holder.execute("SELECT pg_advisory_lock($1, hashtext($2))", HOLD_LOCK, phase)
        await self._holder.execute("INSERT INTO public.barrier VALUES ($1)", phase)

    async def reached(self) -> None:
        """Return when a job is blocked."""

        async def waiting() -> bool:
            waits = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND classid = $1"
            return bool(await self._system.fetch(waits, HOLD_LOCK))

        await eventually(waiting, "the job is blocked at the barrier")

    async def open(self) -> None:
        """Release the job."""
        if self._holder is not None:
            self._holder.terminate()

    async def end_waiting_session(self) -> None:
        """End the waiting session of a killed process, which PostgreSQL notices only when it sends a response."""
        await self._system.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_locks "
            "WHERE locktype = 'advisory' AND NOT granted AND classid = $1",
            HOLD_LOCK,
        )


async def damaged(system: System, dataset: Dataset) -> tuple[Any, Any]:
    """Fill the system and damage a customer's live rows; return its response with the damage and without."""
    await system.wait_until_applied(await system.publish(dataset.events(duplicates=0.1)))
    new = await read(system)
    connection = await asyncpg.connect(system.database_url)
    await connection.execute(BARRIER)
    await connection.execute(
        "UPDATE g1.membership SET enrolled_at = enrolled_at - interval '1 year' WHERE customer_id = $1", customer_id(1)
    )
    await connection.execute(
        "UPDATE g1.customer_summary SET memberships = memberships + 5 WHERE customer_id = $1", customer_id(1)
    )
    await connection.execute(
        'UPDATE g1.campaign SET display_json = replace(display_json, \'"name":"\', \'"name":"Old \')'
    )
    await notices.notify_flush(connection)  # changes by hand send no notice
    await connection.close()

    async def changed_response() -> Any:
        response = await read(system)
        return None if response == new else response

    old = await eventually(changed_response, "the damage shows", deadline_s=5)
    return old, new


async def read(system: System) -> Any:
    path = f"/customers/{customer_id(1)}/campaigns"
    reply = await system.get(path, params={"include_deleted": True, "include_aggregations": True, "limit": 200})
    return reply.content if reply.status_code == 200 else reply.status_code


@asynccontextmanager
async def watched(system: System, allowed: set[Any]) -> AsyncIterator[None]:
    """Read continuously; every response must be exactly one of the allowed ones."""
    over = asyncio.Event()

    async def read_continuously() -> None:
        while not over.is_set():
            response = await read(system)
            assert response in allowed, response

    task = asyncio.create_task(read_continuously())
    try:
        yield
    finally:
        over.set()
        await task


def start(system: System, folder: Path, *command: str) -> subprocess.Popen[bytes]:
    with (folder / "command.log").open("ab") as log:
        return subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "ops", *command], env=system.environment, stdout=log, stderr=subprocess.STDOUT
        )


def start_rebuild(system: System, folder: Path, *more: str) -> subprocess.Popen[bytes]:
    return start(system, folder, "rebuild", "--yes", "--no-throttle", *more)


async def assert_succeeds(child: subprocess.Popen[bytes], folder: Path) -> None:
    code = await asyncio.to_thread(child.wait, 60)
    assert code == 0, (folder / "command.log").read_text(encoding="utf-8")


async def test_a_rebuild_killed_at_the_start_of_any_phase_resumes_there(own_system: System, tmp_path: Path) -> None:
    dataset = Dataset(5, customers=40, campaigns=10, memberships_each=5)
    old, new = await damaged(own_system, dataset)
    barrier = Barrier(own_system)
    for phase in PHASES:
        await barrier.close(phase)
        child = start_rebuild(own_system, tmp_path)
        await barrier.reached()
        assert await read(own_system) == old
        child.kill()
        child.wait()
        await barrier.end_waiting_session()
        await barrier.open()
        assert await live(own_system) == "g1"
    async with watched(own_system, {old, new}):
        await assert_succeeds(start_rebuild(own_system, tmp_path), tmp_path)
    assert await read(own_system) == new
    assert await live(own_system) == "g2"
    await assert_dataset_rows(own_system, dataset)
    (job,) = await own_system.fetch("SELECT kind, state FROM control.job")
    assert (job["kind"], job["state"]) == ("rebuild", "done")


async def test_a_rebuild_killed_at_random_points_completes(own_system: System, tmp_path: Path) -> None:
    dataset = Dataset(6, customers=300, campaigns=30, memberships_each=10)
    old, new = await damaged(own_system, dataset)
    rng = Random(9)
    async with watched(own_system, {old, new}):
        for _ in range(REBUILD_KILLS):
            child = start_rebuild(own_system, tmp_path, "--max-rate", "8000")
            await asyncio.sleep(rng.uniform(0.3, 1.8))
            child.kill()
            child.wait()
        await assert_succeeds(start_rebuild(own_system, tmp_path), tmp_path)
    assert await read(own_system) == new
    await assert_dataset_rows(own_system, dataset)
    namespaces = await own_system.fetch("SELECT nspname FROM pg_namespace WHERE nspname ~ '^g'")
    generations = await own_system.fetch("SELECT generation FROM control.generation WHERE state <> 'dropped'")
    assert {row["nspname"] for row in namespaces} == {row["generation"] for row in generations}


async def test_broker_restarts_in_every_phase_only_delay_a_rebuild(own_system: System, tmp_path: Path) -> None:
    dataset = Dataset(7, customers=40, campaigns=10, memberships_each=5)
    old, new = await damaged(own_system, dataset)
    barrier = Barrier(own_system)
    async with watched(own_system, {old, new}):
        child = None
        for phase in PHASES:
            next_barrier = Barrier(own_system)
            await next_barrier.close(phase)
            await barrier.open()
            child = child or start_rebuild(own_system, tmp_path)
            barrier = next_barrier
            await barrier.reached()
            os.kill(own_system.broker.pid, signal.SIGKILL)
            await asyncio.to_thread(own_system.broker.stop)
            await asyncio.to_thread(own_system.broker.start)
        await barrier.open()
        assert child is not None
        await assert_succeeds(child, tmp_path)
    assert await read(own_system) == new
    await assert_dataset_rows(own_system, dataset)


async def test_database_restarts_in_every_phase_only_delay_a_rebuild(nats: NatsServer, tmp_path: Path) -> None:
    server = PostgresServer(tmp_path / "postgres")
    server.start()
    connection = await databases.connect(server.url, "test")
    await migrate(connection)
    await connection.close()
    system = System(server.url, nats, tmp_path)
    try:
        await system.start()
        dataset = Dataset(8, customers=40, campaigns=10, memberships_each=5)
        old, new = await damaged(system, dataset)
        barrier = Barrier(system)
        async with watched(system, {old, new, 503}):
            child = None
            for phase in PHASES:
                await barrier.close(phase)
                child = child or start_rebuild(system, tmp_path)
                await barrier.reached()
                await asyncio.to_thread(server.stop)
                await asyncio.to_thread(server.start)
            assert child is not None
            await assert_succeeds(child, tmp_path)
        assert await read(system) == new
        await assert_dataset_rows(system, dataset)
    finally:
        await system.stop()
        server.stop()


async def test_a_killed_erasure_is_finished_by_the_same_command(own_system: System, tmp_path: Path) -> None:
    dataset = Dataset(9, customers=10, campaigns=5, memberships_each=3)
    await own_system.wait_until_applied(await own_system.publish(dataset.events()))
    connection = await asyncpg.connect(own_system.database_url)
    await connection.execute(BARRIER)
    await connection.close()
    barrier = Barrier(own_system)
    await barrier.close("rows")
    child = start(own_system, tmp_path, "erase", "--customer", customer_id(1), "--yes")
    await barrier.reached()
    child.kill()
    child.wait()
    await barrier.end_waiting_session()
    await barrier.open()
    other = await membership(own_system.environment, "erase", "--customer", customer_id(2), "--yes")
    assert (other.code, "was interrupted. Finish it first" in other.err) == (1, True), other
    assert (await membership(own_system.environment, "jobs", "cancel")).code == 1
    again = await membership(own_system.environment, "erase", "--customer", customer_id(1), "--yes")
    assert (again.code, "Erased 8 messages and " in again.out) == (0, True), again
    assert (await own_system.get(f"/customers/{customer_id(1)}/campaigns")).status_code == 404
    assert (await membership(own_system.environment, "rebuild", "--yes")).code == 0
    assert (await own_system.get(f"/customers/{customer_id(1)}/campaigns")).status_code == 404


async def test_an_event_read_before_an_erasure_restores_no_row(own_system: System) -> None:
    await own_system.wait_until_applied(await own_system.publish([published("target.enrolled.v1", 1, customer=1)]))
    own_system.kill("project", signal.SIGSTOP)
    await own_system.publish([published("target.enrolled.v1", n, customer=1, campaign=n) for n in range(2, 50)])
    erased = await membership(own_system.environment, "erase", "--customer", customer_id(1), "--yes")
    assert erased.code == 0, erased
    own_system.kill("project", signal.SIGCONT)
    await own_system.wait_until_applied(await own_system.publish([published("customer.upserted.v1", 1, customer=2)]))
    assert await own_system.fetch("SELECT FROM g1.membership") == []


async def test_kill_9_of_the_projector_leads_to_the_datasets_rows(own_system: System) -> None:
    customers = PROJECTOR_EVENTS * 10 // 11 // 20  # 20 events each: 2 of its own, 2 per membership; a tenth repeated
    dataset = Dataset(10, customers=customers, campaigns=200, memberships_each=9)
    publications = [
        Publication(subject, f"event-{n}", body) for n, (subject, body) in enumerate(dataset.events(duplicates=0.1))
    ]
    rng = Random(10)

    async def publish() -> int:
        return max([receipt.position async for receipt in publish_events(own_system.nats_url, publications)])

    publishing = asyncio.create_task(publish())
    for _ in range(PROJECTOR_KILLS):
        await asyncio.sleep(rng.uniform(0.05, 0.9))
        own_system.kill("project")
        own_system.launch("project")
    await own_system.wait_until_applied(await publishing)

    async def copied() -> bool:
        return not await own_system.fetch("SELECT FROM control.fan_out")

    await eventually(copied, "the campaigns' keys are copied to their memberships")
    await assert_dataset_rows(own_system, dataset)
