"""An API process as seen from outside: connections, memory, log and shutdown."""

import asyncio
import json
import re
import signal
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import httpx
import pytest

from projections.settings import DEFAULTS
from service.server import ABORT_S, STOP_S
from tests.support.api_process import Connection, connect, request_of, response_on, running
from tests.support.processes import System, eventually
from tests.support.scenario import Scenario, client_of, code_of, path_of

SILENT_CONNECTIONS = 1_200
ANSWERED_WITHIN_S = 1.0
IDLE_TIMEOUT_S = float(DEFAULTS["http_idle_timeout_s"])
CLOSED_WITHIN_S = IDLE_TIMEOUT_S + 10
STOPPED_WITHIN_S = 10.0
HEADER_CONNECTIONS = 400
HEADER_BYTES = 400_000
GROWTH_BYTES_MAX = 60_000_000
"""What 400 connections may add; with a buffer of 400 KB per connection they added 160 MB."""
CLIENTS = 8
FAR_BEYOND = 2**62


def resident_bytes(api: System) -> int:
    (process_id,) = api.worker_pids()
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process_id}/status").read_text(encoding="utf-8"))
    assert match
    return int(match[1]) * 1024


# --- Connections and memory ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("many_descriptors")
async def test_idle_connections_do_not_block_callers_and_are_closed(system: System) -> None:
    openings = {"silent": b"", "half a preface": b"PRI * HTTP/2.0\r\n\r\n", "idle": request_of(system, "/health/live")}
    opened: list[Connection] = []
    for opening in openings.values():
        for _ in range(SILENT_CONNECTIONS // 100):
            some = await asyncio.gather(*(connect(system) for _ in range(100)))
            for _, writer in some:
                writer.write(opening)
            opened += some
    began = time.monotonic()
    async with client_of(system.api_url) as client:  # on a separate connection
        assert (await client.get("/health/live")).status_code == 200
    assert time.monotonic() - began < ANSWERED_WITHIN_S
    async with asyncio.timeout(CLOSED_WITHIN_S):
        await asyncio.gather(*(_closed(reader) for reader, _ in opened))
    for _, writer in opened:
        writer.close()


async def _closed(reader: asyncio.StreamReader) -> None:
    with suppress(ConnectionError):
        await reader.read()


async def test_a_body_that_never_arrives_blocks_nothing(system: System) -> None:
    reader, writer = await connect(system)
    writer.write(b"POST /health/live HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
    async with asyncio.timeout(ANSWERED_WITHIN_S):
        assert (await response_on(reader))[0] == 405
        assert await reader.read() == b""
    writer.close()


SLOW_BODIES = {
    "a GET without its content": ("GET {path}?slow=1", "Content-Length: 5", b""),
    "a GET whose content trickles": ("GET {path}?slow=2", "Content-Length: 5000", b"x"),
    "a GET with endless chunks": ("GET {path}?slow=3", "Transfer-Encoding: chunked", b"1\r\nx\r\n"),
    "a POST that trickles": ("POST {path}", "Content-Length: 5000", b"x"),
    "a GET with too much content": ("GET {path}?slow=4", "Content-Length: 100000000", b"x"),
}
SLOW_CONNECTIONS = 500
TRICKLE_S = 0.2
GOOD_REQUESTS = 20


async def _send_slowly(system: System, path: str, kind: str) -> int:
    """Send a request whose content never ends; return the status once the connection was closed."""
    line, field, part = SLOW_BODIES[kind]
    reader, writer = await connect(system)
    writer.write(request_of(system, "X", field).replace(b"GET X", line.format(path=path).encode()))
    answered = asyncio.create_task(_answer(reader))
    with suppress(ConnectionError):
        while part and not answered.done():
            writer.write(part)
            await asyncio.wait({answered}, timeout=TRICKLE_S)
    status = await answered
    writer.close()
    return status


async def _answer(reader: asyncio.StreamReader) -> int:
    status, _ = await response_on(reader)
    with suppress(ConnectionError):
        assert await reader.read() == b"", "one response, then the end"
    return status


@pytest.mark.usefixtures("many_descriptors")
async def test_slow_contents_are_answered_and_closed_at_once(scenario: Scenario, system: System) -> None:
    customer = scenario.member_of(scenario.campaign("listed"))
    await scenario.publish_and_wait()
    path = path_of(customer)
    before = resident_bytes(system)
    kinds = list(SLOW_BODIES) * (SLOW_CONNECTIONS // len(SLOW_BODIES))
    slow = [asyncio.create_task(_send_slowly(system, path, kind)) for kind in kinds]
    for number in range(GOOD_REQUESTS):
        reply = await scenario.client.get(f"{path}?good={number}", headers=scenario.as_admin())
        assert reply.status_code == 200
    async with asyncio.timeout(CLOSED_WITHIN_S):
        statuses = await asyncio.gather(*slow)
    assert dict(zip(kinds, statuses, strict=True)) == dict(zip(SLOW_BODIES, (200, 200, 200, 405, 413), strict=True))
    assert resident_bytes(system) - before < GROWTH_BYTES_MAX


@pytest.mark.usefixtures("many_descriptors")
async def test_slow_heads_are_closed_within_the_configured_time(
    scenario: Scenario, system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMBERSHIP_HTTP_IDLE_TIMEOUT_S", "2")
    customer = scenario.customer()
    await scenario.publish_and_wait()
    async with running(system, tmp_path) as api, client_of(api.api_url) as client:
        slow = [asyncio.create_task(_trickle_head(api)) for _ in range(SLOW_CONNECTIONS)]
        for number in range(GOOD_REQUESTS):
            reply = await client.get(f"{path_of(customer)}?good={number}", headers=scenario.as_admin())
            assert reply.status_code == 200
        async with asyncio.timeout(CLOSED_WITHIN_S):
            lasted_s = await asyncio.gather(*slow)
    assert 1 < min(lasted_s) < IDLE_TIMEOUT_S, "the setting counts, not its default"


async def _trickle_head(system: System) -> float:
    """Send a head that never ends, a few bytes at a time; return how long the connection lasted."""
    reader, writer = await connect(system)
    began = time.monotonic()
    closed = asyncio.create_task(_closed(reader))
    with suppress(ConnectionError):
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: x\r\n")
        while not closed.done():
            writer.write(b"X-Slow: x\r\n")
            await asyncio.wait({closed}, timeout=TRICKLE_S)
    await closed
    writer.close()
    return time.monotonic() - began


@pytest.mark.usefixtures("many_descriptors")
async def test_huge_headers_are_not_buffered(scenario: Scenario, system: System) -> None:
    before = resident_bytes(system)
    opened = await asyncio.gather(*(connect(system) for _ in range(HEADER_CONNECTIONS)))
    for _, writer in opened:
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Header: " + b"x" * HEADER_BYTES)
    assert (await scenario.client.get("/health/live")).status_code == 200
    await asyncio.gather(*(_closed(reader) for reader, _ in opened))
    assert resident_bytes(system) - before < GROWTH_BYTES_MAX
    for _, writer in opened:
        writer.close()


# --- Request ids in the log ------------------------------------------------------------------------------------------


def lines_of(api: System, event: str) -> list[str | None]:
    """Return the request ids of the log lines of an event."""
    lines = [json.loads(line) for line in api.log("serve").splitlines() if line.startswith("{")]
    return [line.get("request_id") for line in lines if line["event"] == event]


@pytest.fixture
async def logging_api(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[System, httpx.AsyncClient]]:
    """An API that logs JSON and has a short read timeout, with a client."""
    monkeypatch.setenv("MEMBERSHIP_LOG_FORMAT", "json")
    monkeypatch.setenv("MEMBERSHIP_READ_TIMEOUT_S", "0.3")
    async with running(system, tmp_path) as api, client_of(api.api_url) as client:
        yield api, client


async def test_the_log_of_an_unavailable_database_has_the_request_id(
    scenario: Scenario, system: System, logging_api: tuple[System, httpx.AsyncClient]
) -> None:
    customer = scenario.customer()
    await scenario.publish_and_wait()
    api, client = logging_api
    blocker = await asyncpg.connect(system.database_url)
    try:
        async with blocker.transaction():
            await blocker.execute("LOCK TABLE g1.customer IN ACCESS EXCLUSIVE MODE")
            reply = await client.get(path_of(customer), headers=scenario.as_admin(**{"X-Request-ID": "the-lock"}))
    finally:
        await blocker.close()
    assert code_of(reply) == (503, "database_unavailable")
    assert reply.json()["request_id"] == "the-lock"
    assert lines_of(api, "database_unavailable") == ["the-lock"]


async def test_the_log_of_an_unhandled_exception_has_the_request_id(
    scenario: Scenario, system: System, logging_api: tuple[System, httpx.AsyncClient]
) -> None:
    customer = scenario.customer()
    await scenario.publish_and_wait()
    api, client = logging_api
    await system.fetch("ALTER TABLE g1.customer RENAME COLUMN owner_id TO no_owner_id")
    try:
        replies = await asyncio.gather(
            *(
                client.get(path_of(customer), headers=scenario.as_admin(**{"X-Request-ID": name}), params={"q": name})
                for name in ("first", "second")
            )
        )
    finally:
        await system.fetch("ALTER TABLE g1.customer RENAME COLUMN no_owner_id TO owner_id")
    assert [code_of(reply) for reply in replies] == [(500, "internal_error")] * 2
    assert [reply.json()["request_id"] for reply in replies] == ["first", "second"]
    assert sorted(map(str, lines_of(api, "unhandled_exception"))) == ["first", "second"]


# --- Stopping --------------------------------------------------------------------------------------------------------


async def repeat_until_closed(api: System, path: str) -> int:
    """Repeat a request on one connection until a response closes it; return the number of responses."""
    reader, writer = await connect(api)
    answered = 0
    while True:
        writer.write(request_of(api, path))
        status, head = await response_on(reader)
        assert status == 200
        answered += 1
        if b"\r\nconnection: close\r\n" in head.lower():
            writer.close()
            return answered


@pytest.mark.parametrize("stop", range(3))
async def test_a_stopping_process_loses_no_request_on_open_connections(
    scenario: Scenario, system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    monkeypatch.setenv("MEMBERSHIP_DRAIN_S", "0.7")
    customer = scenario.member_of(scenario.campaign(f"listed {stop}"))
    await scenario.publish_and_wait()
    async with running(system, tmp_path) as api, client_of(api.api_url) as client:
        path = path_of(customer)
        kept = [asyncio.create_task(repeat_until_closed(api, path)) for _ in range(CLIENTS)]
        assert (await client.get(path, headers=scenario.as_admin())).status_code == 200
        api.children["serve"].send_signal(signal.SIGTERM)
        async with asyncio.timeout(STOPPED_WITHIN_S):
            assert min(await asyncio.gather(*kept)) > 0
            code = await eventually(lambda: _readiness(client), "the process is draining")
            assert code == (503, "draining")
            assert await asyncio.to_thread(api.children["serve"].wait, STOPPED_WITHIN_S) == 0


async def _readiness(client: httpx.AsyncClient) -> tuple[int, str]:
    reply = await client.get("/health/ready")
    assert reply.headers["connection"] == "close"
    assert reply.headers["x-request-id"]
    return code_of(reply)


async def test_a_stop_answers_slow_requests_but_ignores_slow_callers(
    scenario: Scenario, system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMBERSHIP_DRAIN_S", "0")
    customer = scenario.customer()
    await scenario.publish_and_wait()
    async with running(system, tmp_path) as api:
        _, slow = await connect(api)
        slow.write(b"GET /health/live HTTP/1.1\r\nHos")
        reader, writer = await connect(api)
        headers = (f"Membership-Min-Position: {FAR_BEYOND}", "Prefer: wait=10")
        writer.write(request_of(api, path_of(customer), *headers))
        await _two_connections_are_open(api)
        began = time.monotonic()
        api.children["serve"].send_signal(signal.SIGTERM)
        status, head = await response_on(reader)
        assert (status, b"connection: close" in head.lower()) == (503, True)
        assert await asyncio.to_thread(api.children["serve"].wait, STOPPED_WITHIN_S) == 0
        assert STOP_S - 0.5 < time.monotonic() - began < STOP_S + 3 * ABORT_S
        assert "Traceback" not in api.log("serve")
        slow.close()
        writer.close()


async def _two_connections_are_open(api: System) -> None:
    """Return when the process has read what was sent: it has answered later requests."""
    async with client_of(api.api_url) as client:
        for _ in range(3):
            assert (await client.get("/health/ready")).status_code == 200


async def test_an_interrupt_stops_the_process_immediately(system: System, tmp_path: Path) -> None:
    async with running(system, tmp_path) as api:
        began = time.monotonic()
        api.children["serve"].send_signal(signal.SIGINT)
        assert await asyncio.to_thread(api.children["serve"].wait, STOPPED_WITHIN_S) == 0
        assert time.monotonic() - began < 2.5
