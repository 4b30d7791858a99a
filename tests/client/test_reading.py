"""`Reader` and `AsyncReader` on a real API: pages, tags, retries and problems."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from campaign_membership_client import Publisher, events
from campaign_membership_client.reading import (
    AsyncReader,
    CustomerNotFound,
    InvalidParameters,
    MembershipNotFound,
    PositionNotReached,
    RateLimited,
    Reader,
    Retry,
    Unauthenticated,
    UnexpectedAnswer,
    Unreachable,
)
from campaign_membership_client.reading.answers import Response
from campaign_membership_client.reading.exchange import NoResponse, Pause, Send, Steps, exchange
from campaign_membership_client.reading.memory import ENTRY_BYTES, Memory, Remembered
from campaign_membership_client.reading.models import Outcome
from campaign_membership_client.reading.requests import Credentials, Request
from tests.support.builders import ANYONE, campaign_id, customer_id, owner_id
from tests.support.processes import System

CUSTOMER = uuid.UUID(customer_id(1))
AT = datetime(2026, 1, 5, 9, tzinfo=UTC)
CAMPAIGNS = 23
ONCE = Retry(attempts_max=1)


async def publish_campaigns(system: System) -> int:
    """Publish a customer in CAMPAIGNS campaigns; return the position of the last event."""

    def many() -> Any:
        yield events.customer_upserted(CUSTOMER, owner_id(1), version=1)
        for number in range(1, CAMPAIGNS + 1):
            yield events.campaign_upserted(
                campaign_id(number),
                owner_id(1),
                version=1,
                name=f"Campaign {number:02}",
                status="running",
                agent_id=ANYONE,
                first_contact_channel="call",
                whatsapp_after_attempts=2,
                goal_spec={"objectives": [{"type": "ai", "label_in": ["positive"]}, {"type": "contact"}]},
                call_working_hours={"start": "10:00:00"},
                created_at=AT,
            )
            yield events.enrolled(
                CUSTOMER, campaign_id(number), version=1, at=AT + timedelta(minutes=number), source="test"
            )
        yield events.removed(CUSTOMER, campaign_id(CAMPAIGNS), version=2, reason="left")

    async with Publisher(system.nats_url, source="test") as publisher:
        return [receipt.position async for receipt in publisher.publish_many(many())][-1]


@asynccontextmanager
async def reading(system: System, **options: Any) -> AsyncIterator[AsyncReader]:
    async with AsyncReader(system.api_url, token=system.admin_token, **options) as reader:
        yield reader


async def test_pages_and_campaigns_are_complete_from_the_position(system: System) -> None:
    position = await publish_campaigns(system)
    async with reading(system) as reader:
        first = await reader.page(CUSTOMER, min_position=position, wait_s=10, include_aggregations=True)
        assert (first.meta.total, len(first.data), first.parked) == (CAMPAIGNS - 1, 10, None)
        assert first.position >= position
        assert first.aggregations is not None
        assert first.aggregations.quick_filters == {
            "all": CAMPAIGNS - 1, "draft": 0, "running": CAMPAIGNS - 1, "paused": 0, "done": 0,
        }  # fmt: skip
        assert first.data[0].goal_spec is not None
        names = [campaign.name async for campaign in reader.campaigns(CUSTOMER, sort_field="name", sort_dir="asc")]
        pages = [page.meta.limit async for page in reader.pages(CUSTOMER, limit=20)]
    assert names == [f"Campaign {number:02}" for number in range(1, CAMPAIGNS)]
    assert pages == [20, 20]


async def test_the_blocking_reader_reads_the_same(system: System) -> None:
    position = await publish_campaigns(system)

    def read() -> tuple[list[uuid.UUID], list[uuid.UUID], str, list[Outcome]]:
        with Reader(system.api_url, token=lambda: system.admin_token) as reader:
            campaigns = list(reader.campaigns(CUSTOMER, min_position=position, limit=7, q="campaign"))
            page = reader.page(CUSTOMER, date_from=date(2026, 1, 5), date_to=AT + timedelta(minutes=3), limit=200)
            history = reader.history(CUSTOMER, campaign_id(CAMPAIGNS))
            outcomes = [event.outcome for event in reader.history_events(CUSTOMER, campaign_id(CAMPAIGNS))]
        return [one.id for one in campaigns], [one.id for one in page.data], history.reason, outcomes

    ids, early, reason, outcomes = await asyncio.to_thread(read)
    async with reading(system) as reader:
        assert ids == [campaign.id async for campaign in reader.campaigns(CUSTOMER)]
        events_read = [event async for event in reader.history_events(CUSTOMER, campaign_id(CAMPAIGNS))]
    assert {str(one) for one in early} == {campaign_id(number) for number in (1, 2, 3)}
    assert reason == "target_removed"
    assert outcomes == [event.outcome for event in events_read]
    assert "applied" in outcomes


async def test_an_unchanged_page_is_not_sent_again(system: System) -> None:
    position = await publish_campaigns(system)
    sizes: list[tuple[int, int]] = []

    async def note(response: Any) -> None:
        await response.aread()
        sizes.append((response.status_code, len(response.content)))

    async with reading(system, options={"event_hooks": {"response": [note]}}) as reader:
        pages = [await reader.page(CUSTOMER, min_position=position) for _ in range(3)]
    assert [status for status, _ in sizes] == [200, 304, 304]
    assert sizes[1][1] == 0
    assert pages[0].data == pages[2].data


async def test_problems_are_exceptions(system: System) -> None:
    await publish_campaigns(system)
    async with reading(system) as reader:
        with pytest.raises(CustomerNotFound) as missing:
            await reader.page(customer_id(999))
        with pytest.raises(MembershipNotFound):
            await reader.history(CUSTOMER, customer_id(999))
        with pytest.raises(InvalidParameters) as invalid:
            await reader.page("no id", limit=0)
        with pytest.raises(InvalidParameters):
            await reader.page(CUSTOMER, cursor="tampered")
        with pytest.raises(CustomerNotFound, match="no such customer"):
            await reader.page(f"{customer_id(999)}")
    assert (missing.value.code, missing.value.status) == ("customer_not_found", 404)
    assert missing.value.request_id
    assert {error.loc[-1] for error in invalid.value.errors} == {"customer_id", "limit"}
    async with AsyncReader(system.api_url) as anonymous:
        with pytest.raises(Unauthenticated):
            await anonymous.page(CUSTOMER)
    async with AsyncReader(system.api_url, api_key="mk_wrong") as wrong:
        with pytest.raises(Unauthenticated):
            await wrong.page(CUSTOMER)


async def test_a_position_that_is_not_reached_is_an_exception(system: System) -> None:
    async with reading(system, retry=Retry(attempts_max=2)) as reader:
        with pytest.raises(PositionNotReached):
            await reader.page(CUSTOMER, min_position=10**9, wait_s=0)


async def test_a_reader_of_a_parked_events_position_learns_so(system: System) -> None:
    await publish_campaigns(system)
    position = await system.publish([(f"membership.customer.{CUSTOMER}", b"{")])
    async with reading(system) as reader:
        page = await reader.page(CUSTOMER, min_position=position, wait_s=10)
    assert page.parked == "invalid_json"


async def test_a_limited_caller_is_delayed_and_then_answered(own_system: System) -> None:
    await publish_campaigns(own_system)
    own_system.kill("serve")
    own_system.settings["MEMBERSHIP_RATE_LIMIT"] = "3/second"
    own_system.launch("serve")
    async with reading(own_system, retry=Retry(attempts_max=30)) as reader:
        pages = [await reader.page(CUSTOMER) for _ in range(7)]
    assert all(page.meta.total == CAMPAIGNS - 1 for page in pages)
    async with reading(own_system, retry=ONCE) as reader:
        outcomes = await asyncio.gather(*(reader.page(CUSTOMER) for _ in range(7)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes if isinstance(outcome, Exception)} == {RateLimited}


async def test_no_answer_is_an_exception_after_the_attempts() -> None:
    async with AsyncReader("http://127.0.0.1:1", retry=Retry(attempts_max=3, backoff_s=0.01)) as reader:
        with pytest.raises(Unreachable, match=r"does not answer \(3 attempts\)"):
            await reader.page(CUSTOMER)
    with Reader("http://127.0.0.1:1", retry=ONCE) as blocking, pytest.raises(Unreachable):
        blocking.page(CUSTOMER)


# --- The steps of a read ---------------------------------------------------------------------------------------------

BODY = b'{"data":[],"meta":{"total":0,"limit":10,"offset":0},"query":{}}'
FOUND = Response(200, {"membership-position": "7", "etag": '"a"'}, BODY)
BUSY = Response(503, {"retry-after": "1"}, b'{"code":"overloaded"}')


def read_with(memory: Memory, *outcomes: Response | NoResponse, retry: Retry | None = None) -> list[Send | Pause]:
    """Perform a read whose requests get these outcomes, and return its steps."""
    steps: Steps = exchange(Request("/x", {}), Credentials("t"), memory, retry or Retry())
    performed: list[Send | Pause] = [next(steps)]
    remaining = iter(outcomes)
    body = b""
    try:
        while True:
            performed.append(steps.send(next(remaining) if isinstance(performed[-1], Send) else None))
    except StopIteration as end:
        body = end.value.body
    assert body == BODY
    return performed


def test_only_what_may_pass_is_repeated() -> None:
    steps = read_with(Memory(0), BUSY, NoResponse("reset"), FOUND)
    assert [type(step) for step in steps] == [Send, Pause, Send, Pause, Send]
    assert isinstance(steps[1], Pause)
    assert steps[1].seconds >= 1
    for outcome in (
        Response(503, {}, b'{"code":"page_too_large"}'),
        Response(503, {"retry-after": "60"}, b'{"code":"overloaded"}'),
        Response(500, {"retry-after": "1"}, b'{"code":"internal_error"}'),
    ):
        with pytest.raises(Exception, match="request") as raised:
            read_with(Memory(0), outcome, FOUND)
        assert raised.type is not StopIteration


def test_answers_of_something_else_are_told_apart() -> None:
    page = Response(502, {"content-type": "text/html"}, b"<html>bad gateway")
    with pytest.raises(UnexpectedAnswer, match="502"):
        read_with(Memory(0), page, retry=ONCE)
    with pytest.raises(UnexpectedAnswer, match="not one of this API"):
        read_with(Memory(0), Response(200, {}, b"{}"))
    with pytest.raises(UnexpectedAnswer, match="304"):
        read_with(Memory(0), Response(304, {"membership-position": "7"}, b""))


def test_a_tag_is_sent_and_a_304_gives_the_remembered_body() -> None:
    memory = Memory(10_000)
    read_with(memory, FOUND)
    (step,) = read_with(memory, Response(304, {"membership-position": "8"}, b""))
    assert isinstance(step, Send)
    assert step.request.headers["If-None-Match"] == '"a"'


def test_the_memory_keeps_its_limit_and_what_was_used_last() -> None:
    memory = Memory(3 * (ENTRY_BYTES + 100))
    for number in range(3):
        memory.put(f"/{number}", Remembered('"t"', b"x" * 90))
    assert memory.get("/0") is not None
    memory.put("/3", Remembered('"t"', b"x" * 90))
    assert [memory.get(f"/{number}") is not None for number in range(4)] == [True, False, True, True]
    memory.put("/big", Remembered('"t"', b"x" * 100_000))
    assert memory.get("/big") is None
    assert memory.size <= 3 * (ENTRY_BYTES + 100)
    memory.put("/0", Remembered('"u"', b""))
    assert memory.size < 3 * (ENTRY_BYTES + 100)
