"""The Python example in docs/events.md, run as it stands there on a real broker: it survives a retry."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats as nats_py
import pytest
from nats.aio.client import Client

from consumers import stream
from ops.devstack.servers.nats import NatsServer
from projections.model.decode import decode
from projections.model.events import Unreadable
from tests.support.builders import published

PAGE = Path(__file__).parent.parent / "docs" / "events.md"


def example() -> Any:
    """Return `publish_batch` as the page defines it."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    defined: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), defined)  # noqa: S102 - our own documentation
    return defined["publish_batch"]


def events(first: int, last: int) -> list[tuple[str, dict[str, Any]]]:
    bodies = [published("customer.upserted.v1", 1, customer=number) for number in range(first, last + 1)]
    return [(subject, json.loads(body)) for subject, body in bodies]


@pytest.fixture
async def client(nats: NatsServer) -> AsyncIterator[Client]:
    client = await nats_py.connect(nats.url)
    await stream.create(client, replicas=1)
    yield client
    await client.close()


async def stored(client: Client) -> int:
    return (await client.jetstream().stream_info(stream.STREAM)).state.messages


async def test_the_documented_batch_is_stored_and_survives_an_identical_retry(client: Client) -> None:
    publish_batch = example()
    assert await publish_batch(client, []) == []
    batch = events(1, 1_000)
    assert await publish_batch(client, batch) == list(range(1, 1_001))
    assert await publish_batch(client, batch) == list(range(1, 1_001))
    assert await publish_batch(client, events(1_001, 1_001)) == [1_001]
    assert await stored(client) == 1_001
    message = await client.jetstream().get_msg(stream.STREAM, seq=1_000)
    assert not isinstance(decode(message.subject or "", message.data or b""), Unreadable)


async def test_the_documented_batch_stores_what_a_partial_retry_lacks(client: Client) -> None:
    publish_batch = example()
    first = events(1, 2)
    more = events(3, 4)
    assert await publish_batch(client, first) == [1, 2]
    assert await publish_batch(client, [*first, *more]) == [1, 2, 3, 4]
    assert await publish_batch(client, [*more, more[0]]) == [3, 4, 3]
    assert await stored(client) == 4
