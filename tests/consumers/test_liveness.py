"""The projector keeps running: large texts, a slow broker and failing tables may slow it down but do not stop it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from random import Random

import asyncpg
import pytest
from structlog.testing import capture_logs

from consumers import prefetch, projection_runner, stream
from consumers.batch_limits import GROW_AFTER, BatchLimits
from consumers.client import TolerantClient
from consumers.projection_runner import run
from ops.devstack.servers.nats import NatsServer
from projections.settings import Settings, load
from projections.store import database, generations
from projections.store.projector import REFUSED_PER_BATCH_MAX
from projections.store.queries import Generation
from tests.support.builders import published
from tests.support.processes import eventually

G1, G2 = Generation("g1"), Generation("g2")
ONE_WAY_DELAY_S = 0.6
"""Delay of the slow broker; a term starts with several requests in sequence."""
SILENCE_MAX_S = 1
"""How long the leader may be silent in these tests: less than two responses of the slow broker take."""


def settings_of(database_url: str, nats_url: str) -> Settings:
    return load(
        {"database_url", "nats_url"},
        {"MEMBERSHIP_DATABASE_URL": database_url, "MEMBERSHIP_NATS_URL": nats_url},
    )


@asynccontextmanager
async def projecting(database_url: str, nats_url: str) -> AsyncIterator[None]:
    """Run a projector in this process; raises the exception that ends it."""
    running = asyncio.create_task(run(settings_of(database_url, nats_url)))
    try:
        yield
        assert not running.done(), running.exception()
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def publish(nats: NatsServer, events: list[tuple[str, bytes]]) -> None:
    client = TolerantClient()
    await client.connect(nats.url)
    await stream.create(client, replicas=1)
    for subject, body in events:
        await client.publish(subject, body)
    await client.flush()
    await client.close()


def applied(connection: asyncpg.Connection, position: int, name: str = "g1") -> Callable[[], Awaitable[bool]]:
    async def is_applied() -> bool:
        reached = await connection.fetchval("SELECT position FROM control.checkpoint WHERE generation = $1", name)
        return bool(reached >= position)

    return is_applied


@asynccontextmanager
async def delayed(nats: NatsServer) -> AsyncIterator[str]:
    """Simulate a slow network: the broker's data arrive late, in order and complete."""
    host, port = nats.url.removeprefix("nats://").split(":")
    tasks: set[asyncio.Task[None]] = set()
    writers: set[asyncio.StreamWriter] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
        loop = asyncio.get_running_loop()
        while data := await reader.read(65_536):
            loop.call_later(delay_s, writer.write, data)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_broker, to_broker = await asyncio.open_connection(host, int(port))
        writers.update((writer, to_broker))
        tasks.add(asyncio.create_task(copy(reader, to_broker, 0)))
        tasks.add(asyncio.create_task(copy(from_broker, writer, ONE_WAY_DELAY_S)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        for writer in writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def test_a_slow_broker_does_not_cost_the_leader_its_session(
    connection: asyncpg.Connection, database_url: str, nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await generations.create(connection, G2)
    await publish(nats, [published("customer.upserted.v1", 1)])
    async with projecting(database_url, nats.url):
        await eventually(applied(connection, 1, "g2"), "both generations have applied the event")
    monkeypatch.setattr(database, "LEADER_SILENCE_MAX_S", SILENCE_MAX_S)
    monkeypatch.setattr(projection_runner, "TICK_S", SILENCE_MAX_S / 4)
    await publish(nats, [published("customer.upserted.v1", 2)])
    epoch = await connection.fetchval("SELECT max(epoch) FROM control.checkpoint")
    async with delayed(nats) as slow_url, projecting(database_url, slow_url):
        await eventually(applied(connection, 2, "g2"), "both generations have applied the second event", 20)
    assert await connection.fetchval("SELECT max(epoch) FROM control.checkpoint") == epoch + 1, "terms were lost"


async def test_a_backlog_of_large_texts_is_applied_in_one_term(
    connection: asyncpg.Connection, database_url: str, nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LEADER_SILENCE_MAX_S", SILENCE_MAX_S)
    monkeypatch.setattr(prefetch, "GATHER_S", SILENCE_MAX_S / 4)
    rng = Random(2)
    korean = "".join(chr(rng.randint(0xAC00, 0xD7A3)) for _ in range(80_000))
    await publish(
        nats, [published("campaign.upserted.v1", 1, campaign=n, goal=korean[n:] + korean[:n]) for n in range(1, 41)]
    )
    longest_s = 0.0
    async with projecting(database_url, nats.url):
        is_applied, loop = applied(connection, 40), asyncio.get_running_loop()
        async with asyncio.timeout(60):
            while not await is_applied():
                started = loop.time()
                await asyncio.sleep(0.01)
                longest_s = max(longest_s, loop.time() - started)
    assert await connection.fetchval("SELECT epoch FROM control.checkpoint") == 1, "terms were lost"
    assert longest_s < SILENCE_MAX_S, "the event loop was blocked"


async def test_a_corrected_live_generation_is_followed_again(
    connection: asyncpg.Connection, database_url: str, nats: NatsServer
) -> None:
    await connection.execute("ALTER TABLE g1.membership RENAME present TO oops")
    with capture_logs() as logs:
        async with projecting(database_url, nats.url):
            await publish(nats, [published("target.enrolled.v1", 1)])
            await eventually(lambda: _logged(logs, "waiting_for_tables"), "the projector logs that it waits")
            assert (await generations.statuses(connection))[0].state == "broken"
            await connection.execute("ALTER TABLE g1.membership RENAME oops TO present")
            await eventually(applied(connection, 1), "the event is applied")
            await eventually(lambda: _logged(logs, "generation_recovered"), "the generation is followed again")
    assert (await generations.statuses(connection))[0].state == "following"


async def test_tables_that_reject_every_row_park_nothing(
    connection: asyncpg.Connection, database_url: str, nats: NatsServer
) -> None:
    await connection.execute("ALTER TABLE g1.customer ADD CONSTRAINT by_hand CHECK (version < 1)")
    # Published before the projector starts, so that they form one batch.
    events = [published("customer.upserted.v1", 1, customer=n) for n in range(REFUSED_PER_BATCH_MAX + 5)]
    await publish(nats, events)
    with capture_logs() as logs:
        async with projecting(database_url, nats.url):
            await eventually(lambda: _logged(logs, "waiting_for_tables"), "the projector logs that it waits")
    assert await connection.fetchval("SELECT count(*) FROM g1.parked_event") == 0


async def test_a_clean_stop_logs_no_lost_connection(database_url: str, nats: NatsServer) -> None:
    with capture_logs() as logs:
        async with projecting(database_url, nats.url):
            await eventually(lambda: _logged(logs, "caught_up"), "the projector has caught up")
    assert not _logged(logs, "broker_disconnected")


def _logged(logs: Sequence[Mapping[str, object]], event: str) -> list[Mapping[str, object]]:
    return [entry for entry in logs if entry["event"] == event]


def test_limits_halve_after_a_failure_and_grow_back() -> None:
    limits = BatchLimits(8_000, 1_000_000)
    limits.halve(300, 600_000)
    assert (limits.events_max, limits.bytes_max) == (150, 300_000)
    limits.halve(1, 1)
    assert (limits.events_max, limits.bytes_max) == (1, 1)
    for _ in range(GROW_AFTER - 1):
        limits.succeed()
    assert limits.events_max == 1
    for _ in range(30 * GROW_AFTER):
        limits.succeed()
    assert (limits.events_max, limits.bytes_max) == (8_000, 1_000_000)


async def test_a_batch_that_fails_is_retried_at_half_its_size(
    connection: asyncpg.Connection, database_url: str, nats: NatsServer
) -> None:
    # Simulates a database that is lost in every transaction of more than ten events.
    await connection.execute(
        "CREATE FUNCTION g1.end_large() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF (SELECT count(*) FROM written) > 10 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF; "
        "RETURN NULL; END $$;"
        "CREATE TRIGGER end_large AFTER INSERT ON g1.customer REFERENCING NEW TABLE AS written "
        "FOR EACH STATEMENT EXECUTE FUNCTION g1.end_large()"
    )
    await publish(nats, [published("customer.upserted.v1", 1, customer=n) for n in range(60)])
    async with projecting(database_url, nats.url):
        await eventually(applied(connection, 60), "all events are applied")
    assert await connection.fetchval("SELECT count(*) FROM g1.customer") == 60
