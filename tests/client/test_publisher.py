"""`Publisher` on a real broker: receipts, duplicates, restarts, and a broker that cannot store."""

import asyncio
import json
import logging
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nats as nats_py
import pytest
from nats.aio.client import Client

from campaign_membership_client import (
    BrokerFull,
    BrokerUnavailable,
    Deadlines,
    Event,
    EventRefused,
    InvalidEvent,
    JetStreamOff,
    NotPermitted,
    Publisher,
    Receipt,
    Recorder,
    StreamNotFound,
    VersionReused,
    events,
    now_us,
)
from consumers import stream
from ops.devstack.servers import nats as embedded
from ops.devstack.servers.nats import NatsServer
from tests.support.builders import campaign_id, customer_id, owner_id
from tests.support.processes import System
from tests.support.tls_servers import SecureNatsServer

AT = datetime(2026, 1, 5, 9, tzinfo=UTC)
CUSTOMER, CAMPAIGN = uuid.UUID(customer_id(1)), uuid.UUID(campaign_id(1))
SHORT = Deadlines(ack_s=0.5, retry_s=0.5)


@pytest.fixture
async def client(nats: NatsServer) -> AsyncIterator[Client]:
    client = await nats_py.connect(nats.url, error_cb=_quiet)
    await stream.create(client, replicas=1)
    yield client
    await client.close()


async def _quiet(_problem: Exception) -> None:
    """Suppress what nats-py prints while the broker is down."""


async def stored(client: Client) -> int:
    return (await client.jetstream().stream_info(stream.STREAM)).state.messages


def enrolments(first: int, last: int) -> list[Event]:
    return [events.enrolled(customer_id(n), CAMPAIGN, version=1, at=AT) for n in range(first, last + 1)]


async def test_an_event_is_sent_on_its_subject_with_its_id(client: Client, nats: NatsServer) -> None:
    async with Publisher(nats.url, source="crm") as publisher:
        receipt = await publisher.enrolled(CUSTOMER, CAMPAIGN, version=1, at=AT, source="import")
        again = await publisher.enrolled(CUSTOMER, CAMPAIGN, version=1, at=AT, source="import")
    assert (receipt.position, receipt.duplicate, again) == (1, False, receipt._replace(duplicate=True))
    message = await client.jetstream().get_msg(stream.STREAM, seq=1)
    assert message.subject == f"membership.target.{CUSTOMER}.{CAMPAIGN}"
    assert (message.headers or {})["Nats-Msg-Id"] == receipt.msg_id
    body = json.loads(message.data or b"")
    assert (body["id"], body["source"], body["type"]) == (receipt.msg_id, "crm", "target.enrolled.v1")
    assert body["data"]["enrolled_at"] == "2026-01-05T09:00:00Z"
    assert await stored(client) == 1


async def test_a_reused_version_is_an_error_and_not_a_silent_loss(client: Client, nats: NatsServer) -> None:
    async with Publisher(nats.url, source="crm") as publisher:
        await publisher.customer_upserted(CUSTOMER, owner_id(1), version=1)
        with pytest.raises(VersionReused, match="is stored at position 1") as caught:
            await publisher.customer_upserted(CUSTOMER, owner_id(2), version=1)
        assert caught.value.position == 1
        assert (await publisher.customer_upserted(CUSTOMER, owner_id(2), version=2)).position == 2
    assert await stored(client) == 2


async def test_nothing_invalid_reaches_the_broker(client: Client, nats: NatsServer) -> None:
    async with Publisher(nats.url, source="crm") as publisher:
        with pytest.raises(InvalidEvent):
            await publisher.removed(CUSTOMER, "no id", version=-1)
    assert await stored(client) == 0


@pytest.mark.parametrize("count", [0, 1, 1_000, 2_500])
async def test_many_events_get_receipts_in_order(client: Client, nats: NatsServer, count: int) -> None:
    async with Publisher(nats.url, source="crm") as publisher:
        receipts = [receipt async for receipt in publisher.publish_many(enrolments(1, count))]
    assert [receipt.position for receipt in receipts] == list(range(1, count + 1))
    assert await stored(client) == count


async def test_a_batch_with_a_duplicate_is_sent_one_by_one(client: Client, nats: NatsServer) -> None:
    async def many() -> AsyncIterator[Event]:
        for event in enrolments(1, 400):
            yield event

    async with Publisher(nats.url, source="crm") as publisher:
        await publisher.publish(enrolments(200, 200)[0])
        receipts = [receipt async for receipt in publisher.publish_many(many())]
    assert [receipt.position for receipt in receipts if receipt.duplicate] == [1]
    assert not any(receipt.differs for receipt in receipts)
    assert await stored(client) == 400


async def test_an_invalid_event_ends_many_after_earlier_receipts(client: Client, nats: NatsServer) -> None:
    receipts: list[Receipt] = []
    invalid = events.campaign_deleted("x", version=0)
    async with Publisher(nats.url, source="crm") as publisher:
        many = publisher.publish_many([*enrolments(1, 2_500), invalid])
        receipts += [await anext(many) for _ in range(2_000)]
        with pytest.raises(InvalidEvent):
            await anext(many)
    assert [receipt.position for receipt in receipts] == list(range(1, 2_001))
    assert await stored(client) == 2_000


async def test_receipts_may_be_abandoned(client: Client, nats: NatsServer) -> None:
    async with Publisher(nats.url, source="crm") as publisher:
        receipts = publisher.publish_many(enrolments(1, 5_000))
        assert (await anext(receipts)).position == 1
        await receipts.aclose()
        assert (await publisher.removed(CUSTOMER, CAMPAIGN, version=1)).position > 1_000
    assert await stored(client) < 5_001


async def test_a_restart_of_the_broker_loses_and_repeats_nothing(client: Client, nats: NatsServer) -> None:
    receipts: list[Receipt] = []
    async with Publisher(nats.url, source="crm") as publisher:
        async for receipt in publisher.publish_many(enrolments(1, 5_000)):
            receipts.append(receipt)
            if receipt.position == 2_500:
                await asyncio.to_thread(nats.stop)
                await asyncio.to_thread(nats.start)
    assert sorted(receipt.position for receipt in receipts) == list(range(1, 5_001))
    assert await stored(client) == 5_000


async def test_a_receipt_is_a_readers_minimum_position(system: System) -> None:
    async with Publisher(system.nats_url, source="crm") as publisher:
        await publisher.customer_upserted(CUSTOMER, owner_id(1), version=1)
        await publisher.campaign_upserted(
            CAMPAIGN,
            owner_id(1),
            version=1,
            name="Spring",
            status="running",
            agent_id=owner_id(3),
            first_contact_channel="call",
            whatsapp_after_attempts=2,
        )
        receipt = await publisher.enrolled(CUSTOMER, CAMPAIGN, version=1, at=AT)
    answer = await system.get(
        f"/customers/{CUSTOMER}/campaigns",
        headers={"Membership-Min-Position": str(receipt.position), "Prefer": "wait=10"},
    )
    assert (answer.status_code, answer.json()["meta"]["total"]) == (200, 1)


async def test_an_implausible_version_is_logged_once_a_minute(
    client: Client, nats: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with Publisher(nats.url, source="crm") as publisher:
        with caplog.at_level(logging.WARNING, "campaign_membership_client"):
            for number in range(3):
                await publisher.campaign_deleted(CAMPAIGN, version=1_000 * now_us() + number)
    assert [record.getMessage().count("looks like nanoseconds") for record in caplog.records] == [1]
    assert await stored(client) == 3


# --- A broker that cannot store --------------------------------------------------------------------------------------


async def connect_error(url: str, **options: Any) -> Exception:
    try:
        async with Publisher(url, source="crm", deadlines=SHORT, options=options):
            pytest.fail("it connected")
    except Exception as problem:  # noqa: BLE001 - the test compares its type
        return problem


async def test_a_missing_stream_is_reported_at_connect(nats: NatsServer) -> None:
    problem = await connect_error(nats.url)
    assert type(problem) is StreamNotFound
    assert "No stream owns subject membership." in str(problem)
    assert "membership project" in str(problem)


async def test_a_stream_of_another_name_is_reported_at_connect(nats: NatsServer) -> None:
    client = await nats_py.connect(nats.url)
    await client.jetstream().add_stream(name="OTHER", subjects=["membership.>"])
    await client.close()
    problem = await connect_error(nats.url)
    assert type(problem) is StreamNotFound
    assert "belongs to stream OTHER, not to MEMBERSHIP" in str(problem)


async def test_the_check_at_connect_stores_nothing(client: Client, nats: NatsServer) -> None:
    async with Publisher(nats.url, source="crm"):
        pass
    assert await stored(client) == 0


async def test_a_broker_without_jetstream_is_reported_at_connect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_CONFIGURATION", "host: 127.0.0.1\nport: {port}\n# {store_dir}{monitoring_port}\n")
    server = NatsServer(tmp_path / "nats")
    await asyncio.to_thread(server.start)
    try:
        assert type(await connect_error(server.url)) is JetStreamOff
    finally:
        await asyncio.to_thread(server.stop)


async def test_a_broker_that_does_not_answer_is_reported_without_its_password() -> None:
    problem = await connect_error("nats://me:hunter2@127.0.0.1:1")
    assert type(problem) is BrokerUnavailable
    assert "127.0.0.1:1 does not answer" in str(problem)
    assert "hunter2" not in str(problem)


PASSWORD = "secret"
USERS = """\
accounts {{ M {{ jetstream: enabled, users: [
  {{ user: admin, password: secret }}
  {{ user: none, password: secret, permissions {{ publish: ["elsewhere.>"], subscribe: ["_INBOX.>"] }} }}
  {{ user: crm, password: secret, permissions {{ publish: ["membership.target.>"], subscribe: ["_INBOX.>"] }} }}
] }} }}
"""


@contextmanager
def with_users(folder: Path) -> Iterator[NatsServer]:
    server = SecureNatsServer(folder / "nats", USERS.replace("{{", "{").replace("}}", "}"))
    server.start()
    try:
        yield server
    finally:
        server.stop()


def as_user(server: NatsServer, user: str, password: str = PASSWORD) -> str:
    return f"nats://{user}:{password}@127.0.0.1:{server.port}"


async def test_missing_rights_are_told_from_wrong_credentials(tmp_path: Path) -> None:
    with with_users(tmp_path) as server:
        admin = await nats_py.connect(as_user(server, "admin"))
        await stream.create(admin, replicas=1)
        refused = await connect_error(as_user(server, "none"))
        assert type(refused) is NotPermitted
        assert "may not publish on membership.customer." in str(refused)
        wrong = await connect_error(as_user(server, "crm", "wrong"))
        assert type(wrong) is BrokerUnavailable
        assert "rejects the credentials" in str(wrong)
        async with Publisher(as_user(server, "crm"), source="crm", deadlines=SHORT) as publisher:
            assert (await publisher.enrolled(CUSTOMER, CAMPAIGN, version=1, at=AT)).position == 1
            with pytest.raises(NotPermitted, match=r"may not publish on membership\.customer\."):
                await publisher.customer_upserted(CUSTOMER, owner_id(1), version=1)
        await admin.close()


async def fill(publisher: Publisher, count: int) -> None:
    """Publish `count` events at a time, until a stream of 1,000 bytes must be full."""
    for number in range(1, 10):
        many = enrolments(10 * number, 10 * number + count - 1)
        _ = [receipt async for receipt in publisher.publish_many(many)]


@pytest.mark.parametrize("count", [1, 3])
async def test_a_full_stream_is_told_apart(nats: NatsServer, count: int) -> None:
    client = await nats_py.connect(nats.url)
    config = stream.configuration(1) | {"max_bytes": 1_000, "discard": "new"}
    await client.request(f"$JS.API.STREAM.CREATE.{stream.STREAM}", json.dumps(config).encode())
    async with Publisher(nats.url, source="crm", deadlines=SHORT) as publisher:
        with pytest.raises(BrokerFull, match="maximum bytes exceeded"):
            await fill(publisher, count)
    await client.close()


async def test_a_broker_that_dies_is_reported_when_the_publisher_closes(client: Client, nats: NatsServer) -> None:
    async def publish_to_a_stopped_broker() -> None:
        async with Publisher(nats.url, source="crm", deadlines=SHORT) as publisher:
            await asyncio.to_thread(nats.stop)
            await publisher.enrolled(CUSTOMER, CAMPAIGN, version=1, at=AT)

    assert await stored(client) == 0
    with pytest.raises(BrokerUnavailable, match="does not answer"):
        await publish_to_a_stopped_broker()


async def test_a_closed_publisher_does_not_retry(client: Client, nats: NatsServer) -> None:
    async with Publisher(nats.url, source="crm") as publisher:
        pass
    async with asyncio.timeout(Deadlines().retry_s / 2):
        with pytest.raises(BrokerUnavailable, match="connection closed"):
            await publisher.enrolled(CUSTOMER, CAMPAIGN, version=1, at=AT)
    assert await stored(client) == 0


async def test_an_event_that_the_broker_refuses_is_named(nats: NatsServer) -> None:
    client = await nats_py.connect(nats.url)
    config = stream.configuration(1) | {"max_msg_size": 500}
    await client.request(f"$JS.API.STREAM.CREATE.{stream.STREAM}", json.dumps(config).encode())
    async with Publisher(nats.url, source="crm", deadlines=SHORT) as publisher:
        big = events.removed(CUSTOMER, CAMPAIGN, version=1, reason="x" * 1_000, event_id="big")
        with pytest.raises(EventRefused, match=r"event big on membership\.target\.") as caught:
            _ = [receipt async for receipt in publisher.publish_many([*enrolments(1, 2), big])]
    assert caught.value.msg_id == "big"
    await client.close()


async def test_a_stream_that_disappears_is_reported(client: Client, nats: NatsServer) -> None:
    async with Publisher(nats.url, source="crm", deadlines=SHORT) as publisher:
        await client.jetstream().delete_stream(stream.STREAM)
        with pytest.raises(StreamNotFound):
            await publisher.enrolled(CUSTOMER, CAMPAIGN, version=1, at=AT)


# --- Tests of a producer ---------------------------------------------------------------------------------------------


async def test_a_recorder_behaves_like_a_publisher(client: Client, nats: NatsServer) -> None:
    async def produce(publisher: Publisher | Recorder) -> list[tuple[int, bool, bool | None]]:
        receipts = [await publisher.enrolled(CUSTOMER, CAMPAIGN, version=1, at=AT)]
        receipts += [receipt async for receipt in publisher.publish_many(enrolments(1, 3))]
        with pytest.raises(InvalidEvent):
            await publisher.campaign_deleted("x", version=0)
        with pytest.raises(VersionReused):
            await publisher.enrolled(CUSTOMER, CAMPAIGN, version=1, at=AT, source="other")
        return [receipt[1:] for receipt in receipts]

    recorder = Recorder("crm")
    async with Publisher(nats.url, source="crm") as publisher, recorder:
        assert await produce(publisher) == await produce(recorder)
    assert [event.data["version"] for event in recorder.events] == [1, 1, 1]
    assert await stored(client) == len(recorder.publications) == 3
