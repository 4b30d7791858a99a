"""A batch is traced if the producer of one of its events is, by a span linked to the producers' spans."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import asyncpg
import nats as nats_client
import pytest

from consumers.client import LazyHeaders
from consumers.projection_runner import run
from consumers.spans import batch_span, sampled_producers
from ops.devstack.servers.nats import NatsServer
from projections.errors import SettingsInvalid
from projections.model.events import Message, Position
from projections.settings import load
from projections.tracing import FLUSH_S, LINKS_MAX, Span, TraceParent, Tracing, configured
from tests.support.builders import batch_of, message, published
from tests.support.processes import eventually
from tests.support.tracing import recording, traceparent


@asynccontextmanager
async def projecting(database_url: str, nats_url: str, tracing: Tracing) -> AsyncIterator[None]:
    settings = load(set(), {"MEMBERSHIP_DATABASE_URL": database_url, "MEMBERSHIP_NATS_URL": nats_url})
    task = asyncio.create_task(run(settings, tracing))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def publish(nats_url: str, headers: list[Mapping[str, str] | None]) -> int:
    client = await nats_client.connect(nats_url)
    stream = client.jetstream()
    last = 0
    for number, header in enumerate(headers, start=1):
        subject, body = published("customer.upserted.v1", 1, customer=number)
        last = (await stream.publish(subject, body, headers=dict(header) if header else None)).seq
    await client.close()
    return last


async def test_the_span_of_a_batch_is_linked_to_each_sampled_producer(
    database_url: str, nats: NatsServer, connection: asyncpg.Connection
) -> None:
    tracing, exporter = recording()

    async def applied(position: int) -> bool:
        return bool(await connection.fetchval("SELECT position FROM control.checkpoint") >= position)

    async with projecting(database_url, nats.url, tracing):
        await eventually(lambda: connection.fetchval("SELECT caught_up_at FROM control.checkpoint"), "it reads")
        last = await publish(nats.url, [None, {"traceparent": traceparent(9, sampled=False)}, {"traceparent": "bad"}])
        await eventually(lambda: applied(last), "the untraced events are applied")
        assert exporter.get_finished_spans() == ()
        last = await publish(
            nats.url, [{"Nats-Msg-Id": "a", "Traceparent": traceparent(1)}, None, {"traceparent": traceparent(2)}]
        )
        await eventually(lambda: applied(last), "the traced events are applied")
        await eventually(
            lambda: sum(len(span.links) for span in exporter.get_finished_spans()) == 2, "both producers are linked"
        )
    spans = exporter.get_finished_spans()
    assert {link.context.trace_id for span in spans for link in span.links} == {1, 2}
    assert all(link.context.is_remote for span in spans for link in span.links)
    for span in spans:
        attributes = span.attributes or {}
        assert span.kind.name == "CONSUMER"
        assert span.end_time is not None
        assert span.start_time is not None
        assert span.end_time >= span.start_time
        assert attributes["messaging.system"] == "nats"
        assert isinstance(attributes["membership.position"], int)
        assert 3 < attributes["membership.position"] <= last


def traced(position: int, value: str) -> Message:
    return Message(
        Position(position), "s", b"{}", 0, LazyHeaders(f"NATS/1.0\r\nX: y\r\ntraceparent: {value}\r\n\r\n".encode())
    )


def test_links_are_distinct_and_bounded() -> None:
    messages = [traced(number, traceparent(1 + number // 2)) for number in range(4 * LINKS_MAX)]
    assert len(set(sampled_producers(messages))) == len(sampled_producers(messages)) == LINKS_MAX


@pytest.mark.parametrize(
    "value",
    ["", "00", "00-" + "0" * 32 + "-" + "1" * 16 + "-01", "ff" + traceparent(1)[2:], traceparent(1).upper() + "Z", "é"],
)
def test_an_invalid_traceparent_is_ignored(value: str) -> None:
    assert TraceParent.parse(value) is None
    assert sampled_producers([traced(1, value)]) == []


def test_a_batch_that_fails_is_reported_as_failed() -> None:
    tracing, exporter = recording()
    batch = batch_of([message(1, *published("customer.upserted.v1", 1))])
    batch.messages[:] = [traced(1, traceparent(1))]
    with pytest.raises(ConnectionError), batch_span(tracing, batch):
        raise ConnectionError
    (span,) = exporter.get_finished_spans()
    assert span.status.status_code.name == "ERROR"


@pytest.mark.parametrize(
    ("variable", "value"), [("OTEL_TRACES_EXPORTER", "zipkin"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]
)
def test_an_unsupported_exporter_or_protocol_is_refused(variable: str, value: str) -> None:
    with pytest.raises(SettingsInvalid, match=variable):
        configured("tests", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", variable: value})


def test_an_unreachable_collector_does_not_delay_the_end_of_a_process() -> None:
    tracing = configured("tests", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"})
    assert tracing is not None
    tracing.report_batch(Span("a span", 1, 2, {}), [])
    started = time.monotonic()
    tracing.close()
    assert time.monotonic() - started < 2 * FLUSH_S


def test_a_missing_extra_is_logged_and_nothing_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "opentelemetry.sdk.trace.export", None)
        assert configured("tests", {"OTEL_TRACES_EXPORTER": "console"}) is None
    assert "campaign-membership[otel]" in capsys.readouterr().out


def test_nothing_of_opentelemetry_is_imported_unless_it_is_configured() -> None:
    script = (
        "import json, sys, os; import consumers.projector_process, service.server;"
        "from projections.tracing import configured;"
        "tracing = configured('t', os.environ);"
        "print(json.dumps([tracing is not None, any(m.split('.')[0] == 'opentelemetry' for m in sys.modules)]))"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}

    def outcome(**variables: str) -> list[bool]:
        done = subprocess.run(  # noqa: S603 - our own interpreter
            [sys.executable, "-c", script], env=clean | variables, capture_output=True, text=True, check=True
        )
        result: list[bool] = json.loads(done.stdout)
        return result

    assert outcome() == outcome(OTEL_TRACES_EXPORTER="none") == [False, False]
    assert outcome(OTEL_SDK_DISABLED="true", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9") == [False, False]
    assert outcome(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9") == [True, True]
