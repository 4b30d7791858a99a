"""Rolling restarts of API and projectors under load: no request fails, no event is lost, every process exits with 0."""

import asyncio
import itertools
import os
import signal

import pytest

from tests.support.api_process import connect, request_of, response_on
from tests.support.builders import published
from tests.support.processes import System, eventually
from tests.support.scenario import client_of, new_number, path_of

RESTARTS = int(os.environ.get("MEMBERSHIP_TEST_RESTARTS", "3"))
CALLERS = 8
ENROLMENTS_AT_ONCE = 20
STOPPED_WITHIN_S = 10.0
PROJECTORS = ("project", "second projector")


class Load:
    """Callers that read one customer all the time, and a producer that enrols it in further campaigns."""

    def __init__(self, system: System, customer: int) -> None:
        self._system = system
        self._customer = customer
        self._versions = itertools.count(1)
        self.answers = 0
        self.enrolled = 0

    async def read(self) -> None:
        """Repeat reads until cancelled, on another connection whenever a response closes the one in use."""
        while True:
            reader, writer = await connect(self._system)
            try:
                while await self._is_kept(reader, writer):
                    pass
            finally:
                writer.close()

    async def _is_kept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Send a request; return whether its response keeps the connection."""
        writer.write(request_of(self._system, f"{path_of(self._customer)}?read={self.answers}"))
        status, head = await response_on(reader)
        assert status == 200
        self.answers += 1
        return b"\r\nconnection: close\r\n" not in head.lower()

    async def publish(self) -> int:
        """Publish some enrolments; return the last position."""
        messages: list[tuple[str, bytes]] = []
        for _ in range(ENROLMENTS_AT_ONCE):
            campaign = new_number()
            messages.append(published("campaign.upserted.v1", next(self._versions), campaign=campaign))
            messages.append(
                published("target.enrolled.v1", next(self._versions), customer=self._customer, campaign=campaign)
            )
        position = await self._system.publish(messages)
        self.enrolled += ENROLMENTS_AT_ONCE
        return position

    async def has_answered(self, more: int) -> None:
        """Return once the callers have received so many further answers."""
        enough = self.answers + more
        await eventually(lambda: self.answers >= enough, "callers are answered")


async def stop(system: System, name: str) -> None:
    """End a process by SIGTERM, which must take less than ten seconds and exit with 0."""
    system.children[name].send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(system.children[name].wait, STOPPED_WITHIN_S) == 0, system.log(name)


async def start_projector(system: System, name: str) -> None:
    """Start a projector and wait for its first line of log: before, a signal ends Python as it ends any program."""
    before = len(system.log(name)) if name in system.children else 0
    system.launch("project", name)
    await eventually(lambda: len(system.log(name)) > before, "the projector has started")


async def test_rolling_restarts_lose_no_request_and_no_event(
    own_system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMBERSHIP_DRAIN_S", "1")
    system = own_system
    await stop(system, "serve")
    system.launch("serve", None, "--workers", "2")
    await eventually(system._ready, "both workers are ready")
    customer = new_number()
    await system.wait_until_applied(await system.publish([published("customer.upserted.v1", 1, customer=customer)]))
    await start_projector(system, PROJECTORS[1])
    load = Load(system, customer)
    async with asyncio.TaskGroup() as group:
        callers = [group.create_task(load.read()) for _ in range(CALLERS)]
        for restart in range(1, RESTARTS + 1):
            system.kill("serve", signal.SIGHUP)
            for name in PROJECTORS:
                position = await load.publish()
                await stop(system, name)  # with events on their way
                await start_projector(system, name)
                await system.wait_until_applied(position)
            await eventually(lambda: system.log("serve").count("restarted") == restart, "the workers are replaced")  # noqa: B023 - called at once
            await load.has_answered(2 * CALLERS)
        for caller in callers:
            caller.cancel()
    await system.wait_until_applied(await load.publish())
    async with client_of(system.api_url) as client:
        reply = await client.get(path_of(customer), headers={"Authorization": f"Bearer {system.admin_token}"})
    assert reply.json()["meta"]["total"] == load.enrolled == ENROLMENTS_AT_ONCE * (2 * RESTARTS + 1)
    assert await system.parked_positions() == set()
    for name in ("serve", *PROJECTORS):
        assert "Traceback" not in system.log(name)
        await stop(system, name)
