"""A hole in the stream is explained by erasures and acknowledgements, or refused; other settings are preserved."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import msgspec
import pytest
from nats.aio.client import Client

from consumers import loss_check, stream
from consumers.client import TolerantClient
from consumers.stream import StreamState
from ops.devstack.servers.nats import NatsServer
from projections.errors import StreamLostMessages, StreamRefused
from projections.maintenance.erasure import Tally


@pytest.fixture
async def client(nats: NatsServer) -> AsyncIterator[Client]:
    client = TolerantClient()
    await client.connect(nats.url)
    yield client
    await client.close()


async def state_of(client: Client) -> StreamState:
    state = await stream.fetch_state(client)
    assert state is not None
    return state


async def publish(client: Client, positions: int) -> None:
    await stream.create(client, replicas=1)
    for number in range(1, positions + 1):
        await client.jetstream().publish(f"membership.test.{number}", b"x")


async def config(client: Client) -> dict[str, Any]:
    reply = await client.request("$JS.API.STREAM.INFO.MEMBERSHIP")
    stream_config: dict[str, Any] = msgspec.json.decode(reply.data)["config"]
    return stream_config


async def test_recording_a_tally_preserves_all_other_settings(client: Client, nats: NatsServer) -> None:
    await publish(client, 3)
    before, created = await config(client), (await state_of(client)).created
    before["metadata"]["owner"] = "the team"
    await client.request("$JS.API.STREAM.UPDATE.MEMBERSHIP", msgspec.json.encode(before))
    await stream.record_tally(client, Tally(5, 2, 7))
    await stream.record_tally(client, Tally(6, 2))
    after = await config(client)
    other_metadata = {name: value for name, value in after["metadata"].items() if not name.startswith("membership-")}
    assert after | {"metadata": other_metadata} == before
    nats.stop()
    nats.start()
    again = TolerantClient()
    await again.connect(nats.url)
    state = await state_of(again)
    assert (state.tally, state.created, state.messages) == (Tally(6, 2), created, 3)
    await again.close()


async def test_an_invalid_tally_in_the_metadata_is_refused(client: Client) -> None:
    await publish(client, 1)
    invalid = await config(client)
    invalid["metadata"][stream.ERASED_KEY] = "many"
    await client.request("$JS.API.STREAM.UPDATE.MEMBERSHIP", msgspec.json.encode(invalid))
    with pytest.raises(StreamRefused, match="not a tally"):
        await stream.fetch_state(client)


@pytest.mark.parametrize(
    ("tally", "missing", "lost"),
    [
        (Tally(), 0, 0),
        (Tally(), 4, 4),
        (Tally(erased=3), 4, 1),
        (Tally(erased=3, acknowledged=1), 4, 0),
        (Tally(erased=9), 4, 0),
        (Tally(erased=3, erasing_from=3), 9, 0),
        (Tally(erased=1, erasing_from=3), 9, 2),
        (Tally(erasing_from=9), 4, 4),
    ],
)
def test_messages_missing_beyond_the_tally_are_unexplained(tally: Tally, missing: int, lost: int) -> None:
    assert tally.unexplained(missing) == lost


async def test_only_an_explained_hole_is_accepted(client: Client, connection: asyncpg.Connection) -> None:
    await publish(client, 6)
    await stream.purge(client, "membership.test.4")
    await loss_check.require_no_loss_within(client, connection, 0, 3, 3)
    with pytest.raises(StreamLostMessages, match=r"has lost 1 messages .* between positions 3 and 6") as refused:
        await loss_check.require_no_loss_within(client, connection, 3, 6, 2)
    assert (refused.value.lost, refused.value.after, refused.value.before) == (1, 3, 6)
    for tally in (Tally(erased=1), Tally(acknowledged=1), Tally(erasing_from=0)):
        await stream.record_tally(client, tally)
        await loss_check.require_no_loss_within(client, connection, 3, 6, 2)


async def test_a_hole_at_the_end_shows_in_the_pending_count(client: Client, connection: asyncpg.Connection) -> None:
    await publish(client, 6)
    for number in (5, 6):
        await stream.purge(client, f"membership.test.{number}")
    state = await state_of(client)
    assert state.last_position == 6
    pending = await stream.count_after(client, 3)
    assert pending == 1
    with pytest.raises(StreamLostMessages, match="has lost 2 messages"):
        await loss_check.require_no_loss_ahead(client, connection, state, 3, pending)
    await loss_check.require_no_loss_ahead(client, connection, state, 6, 0)  # losses up to 6 were applied
