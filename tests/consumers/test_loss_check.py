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
from projections.errors import StreamLostMessages, StreamRefused, StreamRestored
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


async def set_tally(client: Client, tally: Tally) -> None:
    await stream.update_tally(client, lambda _state: tally)


async def test_recording_a_tally_preserves_all_other_settings(client: Client, nats: NatsServer) -> None:
    await publish(client, 3)
    before, created = await config(client), (await state_of(client)).created
    before["metadata"]["owner"] = "the team"
    await client.request("$JS.API.STREAM.UPDATE.MEMBERSHIP", msgspec.json.encode(before))
    await set_tally(client, Tally(5, 2, 7, "fingerprint"))
    await set_tally(client, Tally(6, 2))
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
        await set_tally(client, tally)
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


@pytest.mark.parametrize(
    ("tally", "missing", "returned"),
    [
        (Tally(), 4, 0),
        (Tally(erased=3, acknowledged=1), 4, 0),
        (Tally(erased=9), 4, 5),
        (Tally(erased=3, acknowledged=2), 0, 5),
    ],
)
def test_a_tally_above_what_is_missing_shows_a_restore(tally: Tally, missing: int, returned: int) -> None:
    assert tally.returned(missing) == returned
    assert tally.lowered(missing).returned(missing) == 0


@pytest.mark.parametrize(
    ("begun", "missing", "erased"),
    [
        (Tally(erased=3, erasing_from=3), 8, 8),
        (Tally(erased=10, erasing_from=0), 10, 10),  # repeated after a restore
        (Tally(erased=30, erasing_from=0), 10, 30),  # the first of several to repeat
        (Tally(erased=10, erasing_from=4), 12, 12),  # one that is partly new
    ],
)
def test_a_repeated_erasure_is_not_counted_twice(begun: Tally, missing: int, erased: int) -> None:
    assert begun.completed(missing) == Tally(erased)


async def test_a_restored_stream_is_refused(client: Client, connection: asyncpg.Connection) -> None:
    await publish(client, 6)
    await stream.purge(client, "membership.test.4")
    await set_tally(client, Tally(erased=3))
    state = await state_of(client)
    with pytest.raises(StreamRestored, match="at least 2 messages"):
        await loss_check.require_no_loss_ahead(client, connection, state, 3, 2)
    with pytest.raises(StreamRestored, match="Repeat the erasures"):
        await loss_check.require_no_loss_within(client, connection, 3, 6, 2)


async def test_a_tally_overwritten_in_between_is_changed_again(client: Client) -> None:
    await publish(client, 1)
    calls = 0

    def change(state: StreamState) -> Tally:
        nonlocal calls
        calls += 1
        return state.tally.raised(Tally(acknowledged=2))

    written = stream._write_tally

    async def write_and_overwrite(client: Client, config: dict[str, Any], tally: Tally) -> None:
        await written(client, config, tally)
        if calls == 1:  # another process, which read before this one wrote
            await written(client, config, Tally(erased=5))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "_write_tally", write_and_overwrite)
        assert await stream.update_tally(client, change) == Tally(5, 2)
    assert (await state_of(client)).tally == Tally(5, 2)
    assert calls == 3


async def test_changes_of_the_tally_are_attempted_a_limited_number_of_times(client: Client) -> None:
    await publish(client, 1)
    with pytest.raises(StreamRefused, match="being changed by other processes"):
        await stream.update_tally(client, lambda state: Tally(state.tally.erased + 1))
    assert (await state_of(client)).tally.erased == stream.UPDATES_MAX + 1
