"""What is recorded of a request: a line in the log, a span, and the ids that join them."""

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx
import pytest
import structlog
from litestar.types import Receive, Scope, Send
from opentelemetry.sdk.trace import ReadableSpan

from ops.token import sign
from projections.settings import load
from projections.tracing import Tracing
from service.access_log import SAMPLE_EVERY, AccessLog, Facts, Request, add_trace_id
from service.app import create_app
from service.cache import Cache
from service.fast_path import FastPath
from service.middleware import ResponseMiddleware
from service.paging import CursorAges
from service.problems import add_request_id
from tests.support.builders import campaign_id, customer_id, message, published
from tests.support.processes import ADMIN, JWT_SECRET, System, eventually
from tests.support.read_model import applied, empty
from tests.support.tracing import recording, traceparent

LIST = "/customers/{customer_id}/campaigns"
EVENTS = [
    published("campaign.upserted.v1", 1),
    published("customer.upserted.v1", 1),
    published("target.enrolled.v1", 1),
]
PATH = f"/customers/{customer_id(1)}/campaigns"


@pytest.fixture
async def logged(own_system: System) -> System:
    """A system whose API logs every request as JSON."""
    own_system.kill("serve")
    own_system.settings.update(MEMBERSHIP_ACCESS_LOG="on", MEMBERSHIP_LOG_FORMAT="json")
    own_system.launch("serve")
    await eventually(own_system._ready, "the API is ready")
    return own_system


def lines(system: System) -> list[dict[str, Any]]:
    """Return the access lines of listings and errors so far."""
    parsed = [json.loads(line) for line in system.log("serve").splitlines() if line.startswith("{")]
    return [line for line in parsed if line["event"] == "request" and "health" not in line["route"]]


async def test_a_line_names_the_caller_and_the_outcome_but_no_customer(logged: System) -> None:
    position = await logged.publish(EVENTS)
    await logged.wait_until_applied(position)
    for number in range(3):
        reply = await logged.get(PATH, headers={"X-Request-ID": f"request-{number}", "traceparent": traceparent(7)})
        assert reply.status_code == 200
    await logged.get(PATH, headers={"If-None-Match": reply.headers["ETag"]})
    await logged.get(f"{PATH}?limit=none")
    await logged.get(PATH, token="wrong")
    await logged.get(f"/customers/{customer_id(9)}/campaigns")
    async with httpx.AsyncClient(base_url=logged.api_url) as client:
        await client.head("/openapi.json")
    found = lines(logged)
    assert [(line["method"], line["route"], line["status"]) for line in found] == [
        ("GET", LIST, 200),
        ("GET", LIST, 200),
        ("GET", LIST, 200),
        ("GET", LIST, 304),
        ("GET", LIST, 422),
        ("GET", LIST, 401),
        ("GET", LIST, 404),
        ("HEAD", "/openapi.json", 200),
    ]
    assert [line.get("cache") for line in found[:4]] == ["miss", "hit", "hit", "hit"]
    assert [line.get("rows") for line in found[:4]] == [1, 1, 1, 1]
    assert [line.get("principal") for line in found] == [ADMIN, ADMIN, ADMIN, ADMIN, ADMIN, None, ADMIN, None]
    assert [line["request_id"] for line in found[:3]] == ["request-0", "request-1", "request-2"]
    assert {line["trace_id"] for line in found[:3]} == {f"{7:032x}"}
    assert all(line["position"] == position for line in found[:4])
    assert all(line["ms"] >= 0 for line in found)
    assert customer_id(1) not in logged.log("serve")
    assert campaign_id(1) not in logged.log("serve")


async def test_no_line_is_written_unless_the_setting_asks_for_it(own_system: System) -> None:
    await own_system.get(PATH)
    assert "request_id" not in own_system.log("serve")


def request(status: int, *headers: tuple[bytes, bytes]) -> Request:
    return Request("an id", "GET", LIST, status, 0.0, headers, [(b"membership-position", b"7")])


def test_samples_are_one_in_a_hundred_and_every_server_error() -> None:
    sampled = AccessLog("sampled", None)
    with structlog.testing.capture_logs() as logs:
        for number in range(2 * SAMPLE_EVERY):
            status = 503 if number == 5 else 200
            if selected := sampled.select(status):
                sampled.record(request(status), Facts(), selected)
    assert [line["status"] for line in logs] == [503, 200, 200]
    assert not AccessLog("off", None).enabled


@asynccontextmanager
async def client_of(
    connection: asyncpg.Connection, database_url: str, tracing: Tracing
) -> AsyncIterator[httpx.AsyncClient]:
    await applied(connection, await empty(connection), [message(n, *event) for n, event in enumerate(EVENTS, start=1)])
    await connection.execute("UPDATE control.checkpoint SET caught_up_at = now()")
    environment = {"MEMBERSHIP_DATABASE_URL": database_url, "MEMBERSHIP_JWT_SECRET": JWT_SECRET}
    app = create_app(load({"database_url", "jwt_secret"}, environment), tracing=tracing)
    headers = {"Authorization": f"Bearer {sign(JWT_SECRET, ADMIN, admin=True, ttl_s=600)}"}
    transport = httpx.ASGITransport(app.asgi)  # type: ignore[arg-type]  # Litestar's message types are narrower
    async with (
        app.lifespan(),
        httpx.AsyncClient(transport=transport, base_url="http://here", headers=headers) as client,
    ):
        yield client


async def test_spans_have_route_status_and_cache_and_the_callers_trace(
    connection: asyncpg.Connection, database_url: str
) -> None:
    tracing, exporter = recording()

    async def is_hit(client: httpx.AsyncClient) -> ReadableSpan | None:
        exporter.clear()
        await client.get(PATH, headers={"traceparent": traceparent(5)})
        (span,) = exporter.get_finished_spans()
        return span if (span.attributes or {}).get("membership.cache") == "hit" else None

    async with client_of(connection, database_url, tracing) as client:
        await client.get(f"{PATH}?sort_dir=asc", headers={"traceparent": traceparent(3)})
        await client.get(f"{PATH}?sort_dir=asc", headers={"traceparent": traceparent(4, sampled=False)})
        (miss,) = exporter.get_finished_spans()
        hit = await eventually(lambda: is_hit(client), "a cached answer is traced")
        exporter.clear()
        await client.get(PATH, headers={"Authorization": "Bearer wrong"})
        (refused,) = exporter.get_finished_spans()
    for span, trace_id in ((miss, 3), (hit, 5)):
        assert span.name == f"GET {LIST}"
        assert span.kind.name == "SERVER"
        assert span.parent is not None
        assert (span.parent.trace_id, span.parent.span_id, span.context.trace_id) == (trace_id, trace_id, trace_id)
        attributes = span.attributes or {}
        assert (attributes["http.route"], attributes["http.response.status_code"]) == (LIST, 200)
    assert (miss.attributes or {})["membership.cache"] == "miss"
    assert refused.parent is None
    assert (refused.attributes or {})["http.response.status_code"] == 401
    assert not any(customer_id(1) in str(span.to_json()) for span in (miss, hit, refused))


async def test_an_unforeseen_error_has_both_ids_in_the_log_and_one_in_the_body(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def broken(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise RuntimeError("unforeseen")

    middleware = ResponseMiddleware(
        broken,
        FastPath(Cache(), CursorAges(0)),
        AccessLog("off", None),
        query_bytes_max=1_000,
        content_bytes_max=0,
    )
    transport = httpx.ASGITransport(middleware)  # type: ignore[arg-type]  # Litestar's message types are narrower
    headers = {"X-Request-ID": "the-request", "traceparent": traceparent(6)}
    structlog.configure(
        processors=[add_request_id, add_trace_id, structlog.processors.JSONRenderer()],
        # Other tests in this process may have configured these, too.
        logger_factory=structlog.PrintLoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            reply = await client.get("/", headers=headers)
    finally:
        structlog.reset_defaults()
    assert (reply.status_code, reply.json()["request_id"]) == (500, "the-request")
    (line,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (line["event"], line["request_id"], line["trace_id"]) == ("unhandled_exception", "the-request", f"{6:032x}")
