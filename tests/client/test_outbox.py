"""The outbox on a real PostgreSQL and broker: with the transaction or not at all, and no loss when a relay dies."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import nats as nats_py
import pytest

from campaign_membership_client import BrokerUnavailable, Event, InvalidEvent, Publisher, Recorder, events
from campaign_membership_client.outbox import TABLE, Outbox, statement
from campaign_membership_client.relay import Relay, backlog
from campaign_membership_client.relay_command import main
from campaign_membership_client.table_load import publish_table
from consumers import stream
from ops.devstack.servers.nats import NatsServer
from tests.support.builders import campaign_id, customer_id, owner_id
from tests.support.processes import eventually

AT = datetime(2026, 1, 5, 9, tzinfo=UTC)


def enrolments(first: int, last: int) -> list[Event]:
    return [events.enrolled(customer_id(n), campaign_id(1), version=1, at=AT) for n in range(first, last + 1)]


async def stored_ids(broker: NatsServer) -> list[str]:
    """Return the customers of the stream's events, in order."""
    client = await nats_py.connect(broker.url)
    subscription = await client.jetstream().subscribe("membership.>", ordered_consumer=True)
    count = (await client.jetstream().stream_info(stream.STREAM)).state.messages
    bodies = [json.loads((await subscription.next_msg(5)).data) for _ in range(count)]
    await client.close()
    return [body["data"]["customer_id"] for body in bodies]


@contextmanager
def relay_process(url: str, broker: NatsServer, folder: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "campaign_membership_client.relay_command"]
    addresses = ["--database-url", url, "--nats-url", broker.url]
    with (folder / "relay.log").open("ab") as log:
        process = subprocess.Popen([*command, *addresses, *options], stderr=log)  # noqa: S603
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def test_an_event_is_enqueued_with_the_transaction_or_not(producer: asyncpg.Connection) -> None:
    publisher = Publisher("nats://127.0.0.1:1", source="crm")  # not connected: the broker may be down
    transaction = producer.transaction()
    await transaction.start()
    await publisher.enqueue(producer, *enrolments(1, 2))
    await transaction.rollback()
    assert await backlog(producer) == (0, 0, timedelta(0))
    async with producer.transaction():
        await publisher.enqueue(producer, *enrolments(1, 2))
    waiting = await backlog(producer)
    assert (waiting.waiting, waiting.refused, waiting.oldest > timedelta(0)) == (2, 0, True)


async def test_an_invalid_event_is_not_enqueued(producer: asyncpg.Connection) -> None:
    with pytest.raises(InvalidEvent):
        await Outbox("crm").enqueue(producer, *enrolments(1, 1), events.campaign_deleted("x", version=1))
    assert (await backlog(producer)).waiting == 0
    await Outbox("crm").enqueue(producer)
    with pytest.raises(ValueError, match="is not the name of a table"):
        statement("{table}", 'a"; DROP TABLE x')


async def test_a_recorder_records_what_is_enqueued(producer: asyncpg.Connection) -> None:
    recorder = Recorder()
    await recorder.enqueue(producer, *enrolments(1, 2))
    assert len(recorder.events) == 2
    assert (await backlog(producer)).waiting == 0


async def test_relays_in_parallel_publish_each_event_once(
    producer: asyncpg.Connection, producer_url: str, broker: NatsServer
) -> None:
    await Outbox("crm").enqueue(producer, *enrolments(1, 6_500))
    async with (
        Publisher(broker.url, source="relay") as one,
        Publisher(broker.url, source="relay") as two,
        Publisher(broker.url, source="relay") as three,
    ):
        counts = await asyncio.gather(
            *(Relay(producer_url, publisher).run_until_empty() for publisher in (one, two, three))
        )
    assert sum(counts) == 6_500
    assert sum(count > 0 for count in counts) > 1
    assert sorted(await stored_ids(broker)) == [customer_id(n) for n in range(1, 6_501)]


async def test_a_relay_killed_before_it_deletes_loses_nothing(
    producer: asyncpg.Connection, producer_url: str, broker: NatsServer, tmp_path: Path
) -> None:
    """A lock lets the relay read and publish a batch, and makes it wait before it deletes the rows."""
    await Outbox("crm").enqueue(producer, *enrolments(1, 2_300))
    locking = await asyncpg.connect(producer_url)
    async with locking.transaction():
        await locking.execute(f"LOCK TABLE {TABLE} IN SHARE MODE")
        with relay_process(producer_url, broker, tmp_path) as relay:
            await eventually(lambda: is_waiting_for_lock(producer), "the relay waits with a published batch")
            relay.send_signal(signal.SIGKILL)
            relay.wait()
    await locking.close()
    assert (await backlog(producer)).waiting == 2_300
    assert len(await stored_ids(broker)) == 1_000
    with relay_process(producer_url, broker, tmp_path, "--until-empty") as relay:
        assert await asyncio.to_thread(relay.wait, 60) == 0
    assert (await backlog(producer)).waiting == 0
    assert sorted(await stored_ids(broker)) == [customer_id(n) for n in range(1, 2_301)]


async def is_waiting_for_lock(connection: asyncpg.Connection) -> bool:
    return bool(await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))


async def test_a_relay_survives_restarts_of_the_broker(
    producer: asyncpg.Connection, producer_url: str, broker: NatsServer, tmp_path: Path
) -> None:
    with relay_process(producer_url, broker, tmp_path) as relay:
        await Outbox("crm").enqueue(producer, *enrolments(1, 1_500))
        await asyncio.to_thread(broker.stop)
        await Outbox("crm").enqueue(producer, *enrolments(1_501, 1_600))
        await asyncio.to_thread(broker.start)
        await eventually(lambda: is_empty(producer), "the outbox is empty")
        relay.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(relay.wait, 20) == 0
    assert set(await stored_ids(broker)) == {customer_id(n) for n in range(1, 1_601)}


async def is_empty(connection: asyncpg.Connection) -> bool:
    return (await backlog(connection)).waiting == 0


async def test_a_refused_row_is_kept_and_delays_no_other(
    producer: asyncpg.Connection, producer_url: str, nats: NatsServer
) -> None:
    client = await nats_py.connect(nats.url)
    config = stream.configuration(1) | {"max_msg_size": 600}
    await client.request(f"$JS.API.STREAM.CREATE.{stream.STREAM}", json.dumps(config).encode())
    await client.close()
    big = events.removed(customer_id(9), campaign_id(1), version=1, reason="x" * 1_000)
    again = events.customer_upserted(customer_id(1), owner_id(2), version=1)
    await Outbox("crm").enqueue(producer, *enrolments(1, 3), big, *enrolments(4, 5))
    async with Publisher(nats.url, source="crm") as publisher:
        await publisher.customer_upserted(customer_id(1), owner_id(1), version=1)
        await Outbox("crm").enqueue(producer, again)
        await Relay(producer_url, publisher).run_until_empty()
    assert (await backlog(producer))[:2] == (0, 2)
    reasons = [row["refused"] for row in await producer.fetch("SELECT refused FROM membership_outbox ORDER BY number")]
    assert "message size exceeds maximum allowed" in reasons[0]
    assert "another event with this id is stored" in reasons[1]
    assert len(await stored_ids(nats)) == 6


async def test_a_relay_reports_a_broker_that_is_down(
    producer: asyncpg.Connection, producer_url: str, broker: NatsServer, tmp_path: Path
) -> None:
    await Outbox("crm").enqueue(producer, *enrolments(1, 1))
    await asyncio.to_thread(broker.stop)
    with relay_process(producer_url, broker, tmp_path, "--until-empty") as relay:
        assert await asyncio.to_thread(relay.wait, 60) == 1
    assert "does not answer" in (tmp_path / "relay.log").read_text(encoding="utf-8")
    with pytest.raises(BrokerUnavailable):
        async with Publisher(broker.url, source="crm"):
            pytest.fail("it connected")
    assert (await backlog(producer)).waiting == 1


def test_the_command_prints_the_documented_table(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--print-table", "--table", "crm.outbox"])
    printed = capsys.readouterr().out
    assert printed.startswith("CREATE TABLE IF NOT EXISTS crm.outbox (\n")
    readme = (Path(__file__).parents[2] / "client" / "README.md").read_text(encoding="utf-8")
    assert printed.replace("crm.outbox", TABLE) in readme


# --- The initial load ------------------------------------------------------------------------------------------------


async def test_a_table_is_loaded_and_reconciled(producer: asyncpg.Connection, broker: NatsServer) -> None:
    await producer.execute("CREATE TABLE enrolment (customer uuid, since timestamptz, left_at timestamptz, rev bigint)")
    await producer.execute(
        "INSERT INTO enrolment SELECT ('c0000000-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, "
        "'2026-01-05T09:00:00Z', CASE WHEN n % 10 = 0 THEN now() END, 1 FROM generate_series(1, 2500) AS n"
    )

    def event(row: asyncpg.Record) -> Event | None:
        if row["left_at"]:
            return None
        return events.enrolled(row["customer"], campaign_id(1), version=row["rev"], at=row["since"])

    async with Publisher(broker.url, source="crm") as publisher:
        loaded = await publish_table(publisher, producer, "SELECT * FROM enrolment", event=event)
        assert loaded == (2_250, 0, 0, 2_250)
        await producer.execute("UPDATE enrolment SET rev = 2 WHERE customer = $1", customer_id(1))
        query = "SELECT * FROM enrolment WHERE rev >= $1"
        assert await publish_table(publisher, producer, query, 2, event=event) == (1, 0, 0, 2_251)
        again = await publish_table(publisher, producer, "SELECT * FROM enrolment", event=event)
        assert again == (0, 2_250, 0, 2_251)
    assert set(await stored_ids(broker)) == {customer_id(n) for n in range(1, 2_501) if n % 10}
