"""Histories need the broker, lists do not: without it a history is 503 within a second, and lists are unaffected."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from ops.devstack.servers.nats import NatsServer
from projections.model.events import BODY_BYTES_MAX
from projections.store.membership_history import BYTES_MAX
from tests.support.builders import body_of, campaign_id, data_of, subject_for
from tests.support.processes import System, eventually
from tests.support.scenario import Scenario, bearer, client_of, code_of, names, path_of

WITHIN_S = 1.0
UNAVAILABLE = (503, "broker_unavailable")
ANSWER_DELAY_S = 0.3
"""Below the limit of one step; a history takes more than five steps."""


async def timed(client: httpx.AsyncClient, path: str, headers: dict[str, str]) -> tuple[httpx.Response, float]:
    began = time.monotonic()
    reply = await client.get(path, headers=headers)
    return reply, time.monotonic() - began


@asynccontextmanager
async def api_with_broker(system: System, nats_url: str, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a second API over the same read model, with another broker's URL or none."""
    api = System(system.database_url, system.broker, folder)
    api.nats_url = nats_url
    api.launch("serve")
    try:
        await eventually(api._ready, "the second API is ready")
        async with client_of(api.api_url) as client:
            yield client
    finally:
        await api.stop()


@contextmanager
def silent(broker: NatsServer) -> Iterator[None]:
    """Suspend a broker without ending it: its connections stay open, and new ones are accepted by the kernel."""
    assert broker.pid is not None
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(broker.pid, signal.SIGCONT)


async def membership_path(scenario: Scenario) -> str:
    campaign = scenario.campaign("kept")
    customer = scenario.member_of(campaign)
    await scenario.publish_and_wait()
    return f"{path_of(customer)}/{campaign_id(campaign)}/history"


async def assert_listed(client: httpx.AsyncClient, path: str, headers: dict[str, str]) -> None:
    reply, took_s = await timed(client, path.rpartition("/campaigns/")[0] + "/campaigns", headers)
    assert (reply.status_code, names(reply.json())) == (200, ["kept"])
    assert took_s <= WITHIN_S


async def test_without_a_configured_broker_only_histories_are_refused(
    system: System, scenario: Scenario, tmp_path: Path
) -> None:
    path = await membership_path(scenario)
    async with api_with_broker(system, "", tmp_path) as client:
        reply = await client.get(path, headers=scenario.as_admin())
        assert code_of(reply) == (503, "broker_not_configured")
        assert "MEMBERSHIP_NATS_URL" in reply.json()["detail"]
        assert "retry-after" not in reply.headers
        foreign = await client.get(path, headers=bearer(2))
        assert code_of(foreign) == (404, "membership_not_found")
        await assert_listed(client, path, scenario.as_admin())


async def test_an_api_starts_without_a_broker_and_reads_histories_once_it_runs(
    system: System, scenario: Scenario, tmp_path: Path
) -> None:
    path = await membership_path(scenario)
    port = system.broker.port
    await asyncio.to_thread(system.broker.stop)
    try:
        async with api_with_broker(system, system.nats_url, tmp_path) as client:
            for _ in range(3):
                reply, took_s = await timed(client, path, scenario.as_admin())
                assert code_of(reply) == UNAVAILABLE
                assert int(reply.headers["retry-after"]) >= 1
                assert took_s <= WITHIN_S
            assert code_of(await client.get(path, headers=bearer(2))) == (404, "membership_not_found")
            await assert_listed(client, path, scenario.as_admin())
            await asyncio.to_thread(system.broker.start)
            assert system.broker.port == port
            reply = await client.get(path, headers=scenario.as_admin())
            assert reply.status_code == 200, reply.text
    finally:
        if not system.broker.running:
            await asyncio.to_thread(system.broker.start)


async def test_a_restarted_broker_is_found_again_by_the_next_request(
    system: System, scenario: Scenario, client: httpx.AsyncClient
) -> None:
    path = await membership_path(scenario)
    before = await client.get(path, headers=scenario.as_admin())
    await asyncio.to_thread(system.broker.stop)
    reply, took_s = await timed(client, path, scenario.as_admin())
    assert code_of(reply) == UNAVAILABLE
    assert took_s <= WITHIN_S
    await asyncio.to_thread(system.broker.start)
    after = await client.get(path, headers=scenario.as_admin())
    assert (after.status_code, after.json()) == (200, before.json())


async def test_a_silent_broker_delays_a_history_for_less_than_a_second(
    system: System, scenario: Scenario, client: httpx.AsyncClient
) -> None:
    path = await membership_path(scenario)
    assert (await client.get(path, headers=scenario.as_admin())).status_code == 200
    with silent(system.broker):
        for _ in range(2):  # on the open connection, then on a new one
            replies = await asyncio.gather(*(timed(client, path, bearer(owner)) for owner in (1, 1, 1, 1)))
            assert {code_of(reply)[0] for reply, _ in replies} == {503}
            assert max(took_s for _, took_s in replies) <= WITHIN_S + 0.5
        await assert_listed(client, path, scenario.as_admin())
    await eventually(lambda: _answers(client, path, scenario.as_admin()), "histories are read again")


async def _answers(client: httpx.AsyncClient, path: str, headers: dict[str, str]) -> bool:
    return (await client.get(path, headers=headers)).status_code == 200


async def test_another_stream_of_the_same_name_is_not_read(system: System, scenario: Scenario, tmp_path: Path) -> None:
    path = await membership_path(scenario)
    other = NatsServer(tmp_path / "other")
    await asyncio.to_thread(other.start)
    try:
        async with api_with_broker(system, other.url, tmp_path) as client:
            assert code_of(await client.get(path, headers=scenario.as_admin())) == UNAVAILABLE
    finally:
        other.stop()


async def test_a_history_of_too_many_bytes_is_refused_whole(scenario: Scenario, client: httpx.AsyncClient) -> None:
    campaign = scenario.campaign("kept")
    customer = scenario.member_of(campaign)
    for version in range(1, BYTES_MAX // BODY_BYTES_MAX + 2):
        data = data_of("campaign.counters_changed.v1", version, campaign=campaign)
        body = body_of("campaign.counters_changed.v1", data, padding="")
        body = body_of("campaign.counters_changed.v1", data, padding="x" * (BODY_BYTES_MAX - len(body) - 10))
        scenario.unpublished.append((subject_for("campaign.counters_changed.v1", data), body))
    await scenario.publish_and_wait()
    path = f"{path_of(customer)}/{campaign_id(campaign)}/history"
    assert (await client.get(path, headers=scenario.as_admin())).status_code == 200
    reply = await client.get(path, headers=scenario.as_admin(), params={"include": "counters"})
    assert code_of(reply) == (503, "history_too_long")
    assert "retry-after" not in reply.headers


@asynccontextmanager
async def slow(broker_url: str) -> AsyncIterator[str]:
    """The URL of a broker whose every answer arrives late."""
    host, port = broker_url.removeprefix("nats://").split(":")
    tasks: set[asyncio.Task[None]] = set()
    writers: set[asyncio.StreamWriter] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
        while data := await reader.read(65_536):
            await asyncio.sleep(delay_s)
            writer.write(data)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_broker, to_broker = await asyncio.open_connection(host, int(port))
        writers.update((writer, to_broker))
        tasks.add(asyncio.create_task(copy(reader, to_broker, 0)))
        tasks.add(asyncio.create_task(copy(from_broker, writer, ANSWER_DELAY_S)))

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


async def test_a_broker_that_answers_each_step_late_is_the_brokers_failure(
    system: System, scenario: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMBERSHIP_READ_TIMEOUT_S", "0.5")
    path = await membership_path(scenario)
    async with slow(system.nats_url) as nats_url, api_with_broker(system, nats_url, tmp_path) as client:
        assert code_of(await client.get(path, headers=scenario.as_admin())) == UNAVAILABLE
        await assert_listed(client, path, scenario.as_admin())
