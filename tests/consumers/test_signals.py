"""A projector's own port: its metrics agree with what was published, a standby is healthy, callers are bounded."""

import asyncio
import math
import signal
from collections.abc import AsyncIterator
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from consumers import metrics, signals_server
from consumers.metrics import ProjectorState
from consumers.signals_server import CONNECTIONS_MAX, HEAD_BYTES_MAX, SignalsServer
from projections.model.events import Reason
from tests.support.builders import ALL_TYPES, published
from tests.support.outcomes import expected
from tests.support.processes import System, eventually, free_port

Samples = dict[tuple[str, str], float]
"""By name and the value of the first label."""


async def scraped(url: str) -> Samples:
    async with httpx.AsyncClient(base_url=url, timeout=15) as client:
        reply = await client.get("/metrics")
    assert reply.status_code == httpx.codes.OK
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(reply.text)
        for sample in family.samples
    }


async def health(url: str, path: str = "/health") -> tuple[int, dict[str, Any]]:
    async with httpx.AsyncClient(base_url=url) as client:
        reply = await client.get(path)
    return reply.status_code, reply.json()


async def is_standby(url: str) -> bool:
    try:
        return bool((await health(url))[1]["role"] == "standby")
    except httpx.TransportError:
        return False


async def test_metrics_count_every_event_that_was_published(own_system: System) -> None:
    random = Random(20)
    events = [
        published(random.choice(ALL_TYPES), random.randint(1, 20), customer=random.randint(1, 5), campaign=1)
        for _ in range(600)
    ]
    invalid = [("membership.customer.nobody", b"{}"), ("membership.unknown.subject", b"{}")] * 2
    position = await own_system.publish([*events, *invalid])
    await own_system.wait_until_applied(position)
    samples = await scraped(own_system.projector_url)
    applied, superseded = expected(events)
    assert {kind: samples["membership_events_applied_total", kind] for kind in ALL_TYPES} == applied
    assert {kind: samples["membership_events_superseded_total", kind] for kind in ALL_TYPES} == superseded
    assert sum(superseded.values()) > 100
    for metric in ("membership_parked", "membership_events_parked_total"):
        assert samples[metric, "invalid_subject"] == samples[metric, "unknown_subject"] == 2
        assert samples[metric, "oversize"] == 0
    assert samples["membership_batch_events_sum", ""] == 604
    assert samples["membership_batch_events_count", ""] == samples["membership_batches_total", ""] > 0
    assert samples["membership_batch_duration_seconds_count", ""] == samples["membership_batches_total", ""]
    expected_gauges = {
        "membership_lag_events": 0,
        "membership_lag_seconds": 0,
        "membership_position": position,
        "membership_stream_position": position,
        "membership_stream_first_position": 1,
        "membership_missing_events": 0,
        "membership_leader": 1,
        "membership_broker_connected": 1,
        "membership_database_connected": 1,
        "membership_fan_outs": 0,
    }
    assert {name: samples[name, ""] for name in expected_gauges} == expected_gauges
    assert samples["membership_generations", "live"] == 1


async def test_a_standby_is_healthy_and_reports_the_lag_of_the_leader(own_system: System) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    own_system.launch("project", "standby", signals_url=url)
    await eventually(lambda: is_standby(url), "the second projector stands by")
    assert (await health(url))[0] == (await health(url, "/health/live"))[0] == 200
    await own_system.wait_until_applied(await own_system.publish([published("customer.upserted.v1", 1)]))
    before = await scraped(url)
    assert (before["membership_leader", ""], before["membership_lag_events", ""]) == (0, 0)

    own_system.kill("project", signal.SIGSTOP)
    await own_system.publish([published("customer.upserted.v1", version) for version in (2, 3, 4)])

    async def lags() -> bool:
        samples = await scraped(url)
        return samples["membership_lag_events", ""] == 3 and samples["membership_lag_seconds", ""] > 0

    await eventually(lags, "the standby reports three events of lag")
    own_system.kill("project")

    async def leads() -> bool:
        return (await scraped(url))["membership_leader", ""] == 1

    await eventually(leads, "the standby leads")
    await own_system.wait_until_applied(4)
    after = await scraped(url)
    assert after["membership_epoch", ""] > before["membership_epoch", ""]
    assert after["membership_leadership_terms_total", ""] == 1
    assert after["membership_events_applied_total", "customer.upserted.v1"] == 3
    assert after["membership_lag_events", ""] == 0


async def test_what_cannot_be_read_is_unknown_rather_than_repeated(own_system: System) -> None:
    await own_system.wait_until_applied(await own_system.publish([published("customer.upserted.v1", 1)]))
    assert (await scraped(own_system.projector_url))["membership_lag_events", ""] == 0
    own_system.broker.stop()

    async def is_unready() -> bool:
        return (await health(own_system.projector_url))[0] == 503

    await eventually(is_unready, "the projector reports the lost broker")
    samples = await scraped(own_system.projector_url)
    assert samples["membership_broker_connected", ""] == 0
    assert math.isnan(samples["membership_lag_events", ""])
    assert math.isnan(samples["membership_stream_position", ""])
    assert samples["membership_position", ""] == 1
    assert (await health(own_system.projector_url, "/health/live"))[0] == 200


async def test_a_projector_whose_port_is_taken_says_so_and_ends(own_system: System) -> None:
    child = own_system.launch("project", "second", signals_url=own_system.projector_url)
    assert await asyncio.to_thread(child.wait, 30) == 1
    assert "MEMBERSHIP_PROJECTOR_HTTP_PORT" in own_system.log("second")


def test_every_parking_reason_has_a_sample_before_it_occurs() -> None:
    metrics.forget_stores()
    reasons = {sample.labels["reason"] for sample in next(iter(metrics.PARKED.collect())).samples}
    assert reasons == set(Reason.__args__)  # type: ignore[attr-defined]  # of a Literal


class NoStores:
    """A reading of stores that are not needed to test the server."""

    async def refresh(self) -> None:
        """Read nothing."""


@pytest.fixture
async def server() -> AsyncIterator[SignalsServer]:
    state = ProjectorState(role="standby", client=cast("Any", SimpleNamespace(is_connected=True)))
    async with SignalsServer("127.0.0.1", 0, cast("Any", NoStores()), state) as server:
        yield server


async def received(port: int, sent: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    try:
        return await asyncio.wait_for(reader.read(), 20)
    except ConnectionError:
        return b"reset"
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET /health", 200),
        ("GET /health/ready?verbose", 200),
        ("GET /metrics", 200),
        ("HEAD /metrics", 200),
        ("GET /", 404),
        ("POST /health", 405),
    ],
)
async def test_requests_are_answered_with_their_status(server: SignalsServer, request_line: str, status: int) -> None:
    reply = await received(server.port, f"{request_line} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
    head, _, body = reply.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert (b"Allow: GET, HEAD" in head) == (status == 405)
    assert (body == b"") == request_line.startswith("HEAD")


async def test_an_oversize_head_is_refused(server: SignalsServer) -> None:
    assert await received(server.port, b"GET /" + b"a" * (4 * HEAD_BYTES_MAX)) in {b"", b"reset"}


async def test_silent_callers_are_disconnected_and_do_not_block_others(
    server: SignalsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals_server, "EXCHANGE_S", 1.0)
    silent = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(CONNECTIONS_MAX - 1)]
    complete = b"GET /health HTTP/1.1\r\n\r\n"
    assert (await received(server.port, complete)).startswith(b"HTTP/1.1 200 ")
    silent.append(await asyncio.open_connection("127.0.0.1", server.port))
    refused = await received(server.port, complete)
    assert refused in {b"", b"reset"}
    for reader, writer in silent:
        assert await asyncio.wait_for(_until_closed(reader), 20) in {b"", b"reset"}
        writer.close()
    assert (await received(server.port, complete)).startswith(b"HTTP/1.1 200 ")


async def _until_closed(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b"reset"
