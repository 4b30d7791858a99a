"""The live stream of the operators' API: what it sends, and everything that ends it."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

import asyncpg
import httpx
import pytest
from litestar.types import Message

from ops.token import sign
from projections import api_keys
from service.operations import live
from service.operations.live_feed import STREAMS_PER_OPERATOR_MAX
from service.representation import CallerTooSlow
from tests.support.builders import owner_id
from tests.support.processes import ADMIN, JWT_SECRET, System, eventually
from tests.support.scenario import bearer, code_of

EVENT_WITHIN_S = 15.0
Event = tuple[str, dict[str, Any]]


@asynccontextmanager
async def opened(system: System, headers: dict[str, str] | None = None) -> AsyncIterator["Stream"]:
    """Open a stream, as an admin unless `headers` are given."""
    credentials = headers or {"Authorization": f"Bearer {system.admin_token}"}
    async with (
        httpx.AsyncClient(base_url=system.api_url, timeout=EVENT_WITHIN_S) as client,
        client.stream("GET", "/ops/live", headers=credentials) as reply,
    ):
        yield Stream(reply)


class Stream:
    """The events of a response, one after the other."""

    def __init__(self, reply: httpx.Response) -> None:
        self.reply = reply
        self._lines = reply.aiter_lines()

    async def next(self) -> Event:
        """Return the next event; raises StopAsyncIteration at the end of the stream."""
        async with asyncio.timeout(EVENT_WITHIN_S):
            name = await anext(self._lines)
            data = await anext(self._lines)
            assert await anext(self._lines) == ""
        assert name.startswith("event: "), name
        return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))

    async def until(self, name: str) -> Event:
        """Return the first event of this name."""
        async with asyncio.timeout(EVENT_WITHIN_S):
            while (event := await self.next())[0] != name:
                pass
        return event


async def test_a_stream_shows_the_overview_and_what_has_changed(system: System) -> None:
    async with opened(system) as stream:
        assert stream.reply.headers["content-type"] == "text/event-stream"
        assert stream.reply.headers.get_list("cache-control") == ["no-store"]
        name, overview = await stream.next()
        assert (name, overview["generation"], overview["leader"]) == ("overview", "g1", True)
        await system.fetch("INSERT INTO control.audit (actor, action, detail) VALUES ('me', 'test', '')")
        assert await stream.until("changed") == ("changed", {"what": "audit"})
        last = await system.publish([("membership.unknown", b"{}")])
        assert await stream.until("changed") == ("changed", {"what": "parked"})
        assert (await stream.next())[1]["position"] == last


async def test_nothing_is_reported_as_changed_without_a_change(system: System) -> None:
    async with opened(system) as stream:
        names = [(await stream.next())[0] for _ in range(3)]
    assert names == ["overview", "overview", "overview"]


async def test_a_stream_ends_when_its_token_expires(system: System) -> None:
    expires_at = time.time() + 3
    token = sign(JWT_SECRET, ADMIN, admin=True, ttl_s=3)
    async with opened(system, {"Authorization": f"Bearer {token}"}) as stream:
        assert (await stream.next())[0] == "overview"
        assert await stream.until("end") == ("end", {"code": "token_expired"})
        assert time.time() < expires_at + 2
        with pytest.raises(StopAsyncIteration):
            await stream.next()


async def test_a_stream_ends_when_its_key_is_revoked(system: System) -> None:
    connection = await asyncpg.connect(system.database_url)
    scopes: tuple[api_keys.Scope, ...] = ("operate",)
    key = await api_keys.create(connection, owner_id(1), is_admin=False, label="", actor="test", scopes=scopes)
    async with opened(system, {"X-API-Key": key}) as stream:
        assert (await stream.next())[0] == "overview"
        await api_keys.revoke(connection, key.split("_")[1], actor="test")
        assert await stream.until("end") == ("end", {"code": "api_key_revoked"})
    await connection.close()


async def test_a_stream_ends_when_its_key_loses_the_scope(system: System) -> None:
    connection = await asyncpg.connect(system.database_url)
    scopes: tuple[api_keys.Scope, ...] = ("operate",)
    key = await api_keys.create(
        connection, owner_id(1), is_admin=False, label="", actor="test", scopes=scopes, ttl=timedelta(hours=1)
    )
    async with opened(system, {"X-API-Key": key}) as stream:
        assert (await stream.next())[0] == "overview"
        await connection.execute("UPDATE control.api_key SET scopes = '{read}' WHERE key_id = $1", key.split("_")[1])
        assert await stream.until("end") == ("end", {"code": "insufficient_scope"})
    await connection.close()


async def test_an_operator_has_a_bounded_number_of_streams(system: System) -> None:
    headers = bearer(77, admin=True)
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(opened(system, headers)) for _ in range(STREAMS_PER_OPERATOR_MAX)]
        assert {stream.reply.status_code for stream in streams} == {200}
        async with opened(system, headers) as refused:
            assert refused.reply.status_code == 503
            await refused.reply.aread()
            assert code_of(refused.reply) == (503, "too_many_streams")
        async with opened(system) as of_another:
            assert of_another.reply.status_code == 200

    async def admitted() -> bool:
        async with opened(system, headers) as stream:
            return stream.reply.status_code == 200

    # The disconnected streams have left room.
    for _ in range(STREAMS_PER_OPERATOR_MAX):
        await eventually(admitted, "a stream is admitted again")


async def test_a_head_request_for_the_stream_ends(system: System) -> None:
    async with httpx.AsyncClient(base_url=system.api_url, timeout=EVENT_WITHIN_S) as client:
        for _ in range(STREAMS_PER_OPERATOR_MAX + 1):
            reply = await client.head("/ops/live", headers=bearer(78, admin=True))
            assert (reply.status_code, reply.headers["content-type"]) == (200, "text/event-stream")


async def test_a_stream_ends_with_its_process(own_system: System) -> None:
    async with opened(own_system) as stream:
        assert (await stream.next())[0] == "overview"
        own_system.children["serve"].send_signal(signal.SIGTERM)
        assert await stream.until("end") == ("end", {"code": "draining"})
    assert await asyncio.to_thread(own_system.children["serve"].wait, 20) == 0
    assert "requests_aborted" not in own_system.log("serve")


async def test_a_stream_says_that_the_database_cannot_be_read_and_goes_on(own_system: System) -> None:
    async with opened(own_system) as stream:
        assert (await stream.next())[0] == "overview"
        await own_system.fetch("ALTER TABLE control.live RENAME TO hidden")
        assert await stream.until("unavailable") == ("unavailable", {"code": "database_unavailable"})
        await own_system.fetch("ALTER TABLE control.hidden RENAME TO live")
        assert (await stream.until("overview"))[1]["generation"] == "g1"


async def test_each_worker_serves_streams(own_system: System) -> None:
    own_system.kill("serve", signal.SIGTERM)
    own_system.launch("serve", None, "--workers", "2")
    await eventually(own_system._ready, "the API is ready")
    await eventually(lambda: len(own_system.worker_pids()) == 2, "two workers run")
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(opened(own_system)) for _ in range(6)]
        assert [(await stream.next())[0] for stream in streams] == ["overview"] * 6
        for pid in own_system.worker_pids():
            os.kill(pid, 0)
        await own_system.fetch("INSERT INTO control.audit (actor, action, detail) VALUES ('me', 'test', '')")
        for stream in streams:
            assert await stream.until("changed") == ("changed", {"what": "audit"})


async def test_a_caller_that_takes_no_event_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "TAKE_MAX_S", 0.05)

    async def never_taken(_message: Message) -> None:
        await asyncio.Event().wait()

    with suppress(TimeoutError), pytest.raises(CallerTooSlow):
        async with asyncio.timeout(10):
            await live._write(never_taken, b"event: overview\n\n")
