"""Several workers of one API: one port, one supervisor, no request lost when workers come and go."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest

from ops.token import sign
from service.workers.metrics import UNANSWERED_MAX
from service.workers.restarts import PAUSE_MAX_S, RESTARTS_MAX, RESTARTS_WINDOW_S, RestartLimit
from tests.support.api_process import connect, request_of, response_on, running
from tests.support.command import membership
from tests.support.processes import ADMIN, System, eventually
from tests.support.scenario import Scenario, bearer, client_of, path_of

STOPPED_WITHIN_S = 10.0
CONNECTIONS = 64
LISTINGS = "/customers/{customer_id}/campaigns"
STUCK_WITHIN_S = 3.0 * UNANSWERED_MAX


def exists(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except FileNotFoundError:
        return False


def sockets_of(pid: int) -> int:
    names = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            names.append(str(descriptor.readlink()))
    return sum(name.startswith("socket:") for name in names)


async def answered(api: System, path: str, think_s: float = 0.0) -> int:
    """Send one request on a connection of its own, `think_s` after it was opened; return the status."""
    reader, writer = await connect(api)
    await asyncio.sleep(think_s)
    writer.write(request_of(api, path))
    status, _ = await response_on(reader)
    writer.close()
    return status


async def metric(api: System, series: str) -> float:
    """Return the value of one time series of `/metrics`; 0 without it."""
    async with client_of(api.api_url) as client:
        text = (await client.get("/metrics")).text
    match = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    return float(match[1]) if match else 0.0


async def listings_answered(api: System) -> float:
    return await metric(api, f'membership_http_requests_total{{route="{LISTINGS}",status="200"}}')


@pytest.fixture
async def customer(scenario: Scenario) -> int:
    customer = scenario.member_of(scenario.campaign("listed"))
    await scenario.publish_and_wait()
    return customer


@pytest.fixture
async def two(system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[System]:
    """An API with two workers that do not drain."""
    monkeypatch.setenv("MEMBERSHIP_DRAIN_S", "0")
    monkeypatch.setenv("MEMBERSHIP_HTTP_WORKERS", "2")
    async with running(system, tmp_path) as api:
        await eventually(lambda: _all_accept(api, 2), "both workers accept connections")
        yield api


async def _all_accept(api: System, count: int) -> bool:
    return await metric(api, "membership_workers") == count


async def test_the_option_wins_and_all_workers_share_one_port(
    system: System, customer: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMBERSHIP_HTTP_WORKERS", "1")
    async with running(system, tmp_path, "--workers", "3") as api:
        await eventually(lambda: _all_accept(api, 3), "all workers accept connections")
        before = {pid: sockets_of(pid) for pid in api.worker_pids()}
        assert len(before) == 3
        opened = await asyncio.gather(*(connect(api) for _ in range(CONNECTIONS)))
        for reader, writer in opened:
            writer.write(request_of(api, path_of(customer)))
            assert (await response_on(reader))[0] == 200
        assert min(sockets_of(pid) - count for pid, count in before.items()) >= CONNECTIONS / 3 / 4
        for _, writer in opened:
            writer.close()


@pytest.mark.parametrize("count", ["0", "-1", "x", "65", "1000", "1.5", ""])
async def test_an_impossible_number_of_workers_is_refused(system: System, count: str) -> None:
    ended = await membership(system.environment, "serve", "--workers", count)
    assert (ended.code, "whole number from 1 to 64, or auto" in " ".join(ended.err.split())) == (2, True), ended.err
    variable = {"MEMBERSHIP_HTTP_WORKERS": count or "none"}
    ended = await membership(system.environment | variable, "serve")
    assert (ended.code, "MEMBERSHIP_HTTP_WORKERS" in ended.err) == (2, True)


async def test_several_workers_refuse_a_port_in_use(system: System, two: System) -> None:
    for taken in (system, two):
        ended = await membership(taken.environment, "serve", "--workers", "2")
        assert (ended.code, "MEMBERSHIP_HTTP_PORT" in ended.err) == (1, True)


@asynccontextmanager
async def callers(count: int, call: Callable[[], Awaitable[object]]) -> AsyncIterator[list[int]]:
    """Run callers that repeat a call; yield the number of calls of each; any failure fails the test."""
    calls = [0] * count
    stop = asyncio.Event()

    async def repeat(number: int) -> None:
        while not stop.is_set():
            await call()
            calls[number] += 1

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(repeat(number))
        try:
            yield calls
        finally:
            stop.set()


async def test_a_killed_worker_is_replaced_while_others_answer(two: System, customer: int) -> None:
    killed, other = two.worker_pids()
    cut_off = 0

    async def call() -> None:
        nonlocal cut_off
        try:
            async with asyncio.timeout(STOPPED_WITHIN_S):
                assert await answered(two, path_of(customer)) == 200
        except (ConnectionError, asyncio.IncompleteReadError):  # the killed worker had accepted it
            cut_off += 1

    async with callers(4, call) as calls:
        os.kill(killed, signal.SIGKILL)
        await eventually(lambda: not exists(killed), "the worker is dead")
        before = min(calls)
        await eventually(lambda: min(calls) >= before + 10, "the other worker answers everybody")
        await eventually(lambda: len(two.worker_pids() - {killed}) == 2, "the worker is replaced")
        await eventually(lambda: _all_accept(two, 2), "its successor accepts connections")
    assert cut_off <= 4, "only the requests in flight were lost"
    assert other in two.worker_pids()
    assert await metric(two, "membership_worker_restarts_total") == 1


async def test_a_stuck_worker_is_killed_and_replaced(two: System, customer: int) -> None:
    stuck, _ = two.worker_pids()
    os.kill(stuck, signal.SIGSTOP)
    await eventually(lambda: not exists(stuck), "the stuck worker is killed", STUCK_WITHIN_S)
    await eventually(lambda: _all_accept(two, 2), "it is replaced")
    assert await answered(two, path_of(customer)) == 200
    assert "worker_stuck" in two.log("serve")


async def test_killing_the_supervisor_leaves_no_worker(two: System, customer: int) -> None:
    workers = two.worker_pids()
    two.kill("serve")
    await eventually(lambda: not any(map(exists, workers)), "no worker is left")
    two.launch("serve")
    await eventually(two._ready, "the port can be used again")
    assert await answered(two, path_of(customer)) == 200


async def test_restarts_are_limited_in_time() -> None:
    limit = RestartLimit()
    pauses = [limit.next_pause_s() for _ in range(RESTARTS_MAX + 1)]
    assert pauses[:4] == [0, 0.25, 0.5, 1]
    assert pauses[RESTARTS_MAX - 1] == PAUSE_MAX_S
    assert RESTARTS_WINDOW_S - 1 < pauses[RESTARTS_MAX] <= RESTARTS_WINDOW_S


UNABLE = """
import asyncio, sys
from service.workers.supervisor import supervise_workers

unable = (sys.executable, "-c", "raise SystemExit(3)")
sys.exit(asyncio.run(supervise_workers(unable, "127.0.0.1", 0, 2, 0.0)))
"""
"""An API whose workers end as soon as they are started."""


async def test_workers_that_cannot_start_end_the_supervisor() -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", UNABLE)
    async with asyncio.timeout(STOPPED_WITHIN_S):
        assert await process.wait() == 3


async def answered_until_closed(api: System, path: str) -> None:
    """Repeat a request on one connection until a response closes it."""
    reader, writer = await connect(api)
    closed = False
    while not closed:
        writer.write(request_of(api, path))
        status, head = await response_on(reader)
        assert status == 200
        closed = b"\r\nconnection: close\r\n" in head.lower()
    writer.close()


async def test_a_rolling_restart_loses_no_request(
    system: System, customer: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMBERSHIP_DRAIN_S", "2")
    path = path_of(customer)

    async def call() -> None:
        assert await answered(api, path) == 200
        assert await answered(api, "/health/ready") == 200

    async def call_slowly() -> None:
        """Send the request only some time after the connection was accepted."""
        assert await answered(api, path, think_s=0.3) == 200

    async with running(system, tmp_path, "--workers", "2") as api:
        await eventually(lambda: _all_accept(api, 2), "both workers accept connections")
        first = api.worker_pids()
        kept = [asyncio.create_task(answered_until_closed(api, path)) for _ in range(8)]
        async with callers(4, call) as calls, callers(16, call_slowly) as slow_calls:
            for restart in (1, 2):
                before = min(calls + slow_calls)
                api.kill("serve", signal.SIGHUP)
                await _restarted(api, restart)
                assert min(calls + slow_calls) > before
            await asyncio.gather(*kept)
        assert len(api.worker_pids()) == 2
        assert not api.worker_pids() & first
        assert "worker_ended" not in api.log("serve")


async def _restarted(api: System, times: int) -> None:
    await eventually(lambda: api.log("serve").count("restarted") == times, f"all were replaced {times} times")


class WithSecretFile(System):
    """An API whose JWT secret is in a file."""

    secret: Path

    @property
    def environment(self) -> dict[str, str]:
        environment = super().environment | {"MEMBERSHIP_JWT_SECRET_FILE": str(self.secret)}
        del environment["MEMBERSHIP_JWT_SECRET"]
        return environment


async def test_a_rolling_restart_reads_secrets_again_or_changes_nothing(
    system: System, customer: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMBERSHIP_DRAIN_S", "0")
    api = WithSecretFile(system.database_url, system.broker, tmp_path)
    api.secret = tmp_path / "secret"
    api.secret.write_text(api.jwt_secret)
    api.launch("serve")
    try:
        await eventually(api._ready, "the API is ready")
        workers = api.worker_pids()
        api.secret.write_text("too short")
        api.kill("serve", signal.SIGHUP)
        await eventually(lambda: "restart_aborted" in api.log("serve"), "the restart is given up")
        assert "MEMBERSHIP_JWT_SECRET_FILE" in api.log("serve")
        assert api.worker_pids() == workers
        assert await answered(api, path_of(customer)) == 200
        api.secret.write_text("another secret that is long enough for HS256")
        api.kill("serve", signal.SIGHUP)
        await eventually(lambda: "restarted" in api.log("serve"), "the worker is replaced")
        token = sign(api.secret.read_text(), ADMIN, admin=True, ttl_s=60)
        async with httpx.AsyncClient(base_url=api.api_url) as client:
            reply = await client.get(path_of(customer), headers={"Authorization": f"Bearer {token}"})
            assert reply.status_code == 200
            assert (await client.get(path_of(customer), headers=bearer(1, admin=True))).status_code == 401
    finally:
        await api.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_all_workers_and_loses_no_request(
    system: System, customer: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setenv("MEMBERSHIP_DRAIN_S", "0.7")
    async with running(system, tmp_path, "--workers", "2") as api:
        await eventually(lambda: _all_accept(api, 2), "both workers accept connections")
        workers = api.worker_pids()
        kept: list[asyncio.Task[None]] = []
        if number == signal.SIGTERM:  # SIGINT does not drain
            kept = [asyncio.create_task(answered_until_closed(api, path_of(customer))) for _ in range(8)]
            await eventually(lambda: _listed(api, len(kept)), "all have begun")
        api.children["serve"].send_signal(number)
        async with asyncio.timeout(STOPPED_WITHIN_S):
            await asyncio.gather(*kept)
            assert await asyncio.to_thread(api.children["serve"].wait, STOPPED_WITHIN_S) == 0
        assert not any(map(exists, workers))
        assert "Traceback" not in api.log("serve")


async def _listed(api: System, count: int) -> bool:
    """Return whether so many answers were counted; one is counted just after its last byte is sent."""
    return await listings_answered(api) >= count


async def test_metrics_add_up_over_all_workers(two: System, customer: int) -> None:
    for _ in range(CONNECTIONS):
        assert await answered(two, path_of(customer)) == 200
    await eventually(lambda: _listed(two, CONNECTIONS), "the last answer is counted")
    for _ in range(8):  # by either worker
        assert await listings_answered(two) == CONNECTIONS
        count = f'membership_http_request_duration_seconds_count{{route="{LISTINGS}"}}'
        assert await metric(two, count) == CONNECTIONS
        hits = await metric(two, 'membership_cache_requests_total{kind="answer",outcome="hit"}')
        assert hits + await metric(two, 'membership_cache_requests_total{kind="answer",outcome="miss"}') == CONNECTIONS
    assert await metric(two, "membership_position") > 0


async def test_the_counts_of_ended_workers_are_kept(two: System, customer: int) -> None:
    for _ in range(CONNECTIONS):
        assert await answered(two, path_of(customer)) == 200
    two.kill("serve", signal.SIGHUP)  # in good order
    await eventually(lambda: "restarted" in two.log("serve"), "all are replaced")
    assert await listings_answered(two) == CONNECTIONS
    for _ in range(CONNECTIONS):
        assert await answered(two, path_of(customer)) == 200
    await eventually(lambda: _listed(two, 2 * CONNECTIONS), "the last answer is counted")
    os.kill(min(two.worker_pids()), signal.SIGKILL)  # its counts were read above
    await eventually(lambda: "worker_ended" in two.log("serve"), "the worker is dead")
    await eventually(lambda: _all_accept(two, 2), "it is replaced")
    assert await listings_answered(two) == 2 * CONNECTIONS
