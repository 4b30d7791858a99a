"""The Python code in the client's README, run as it stands there."""

import asyncio
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nats as nats_py

from campaign_membership_client import Event, EventMethods, Publisher, errors, reading
from consumers import stream
from ops.devstack.servers.nats import NatsServer
from projections.api_keys import PREFIX
from tests.support.builders import campaign_id, customer_id, data_of, owner_id
from tests.support.command import membership
from tests.support.processes import System

README = (Path(__file__).parents[2] / "client" / "README.md").read_text(encoding="utf-8")


def defined() -> dict[str, Any]:
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(code, "client/README.md", "exec"), names)  # noqa: S102 - our own documentation
    return names


async def test_the_example_publishes_an_enrolment(nats: NatsServer) -> None:
    client = await nats_py.connect(nats.url)
    await stream.create(client, replicas=1)
    assert await defined()["enrol"](nats.url, customer_id(1), campaign_id(1)) == 1
    await client.close()


async def test_the_example_of_a_producers_test_runs() -> None:
    async def sign_up(publisher: EventMethods) -> None:
        await publisher.customer_upserted(customer_id(1), owner_id(1), version=1)

    await defined()["test_a_new_customer_is_published"](sign_up)


async def test_the_examples_of_reading_run(system: System) -> None:
    names = defined()
    async with Publisher(system.nats_url, source="readme") as publisher:
        await publisher.customer_upserted(customer_id(1), owner_id(1), version=1)
        await publisher.publish(
            Event("campaign.upserted.v1", data_of("campaign.upserted.v1", 1, name="Spring", status="running"))
        )
        receipt = await publisher.enrolled(customer_id(1), campaign_id(1), version=1, at=datetime.now(UTC))
    read = await names["running_campaigns"](system.api_url, system.admin_token, customer_id(1), receipt)
    assert read == (1, 1, ["Spring"])
    key = await membership(system.environment, "api-key", "create", "--user", owner_id(1), "--admin")
    (api_key,) = re.findall(rf"{PREFIX}_[0-9a-f]+_[0-9a-f]+", key.out)
    detail = await asyncio.to_thread(names["why"], system.api_url, api_key, customer_id(1), campaign_id(1))
    assert detail.startswith('In "Spring" since ')


def test_exactly_the_existing_read_errors_are_documented() -> None:
    table = README.partition("| exception | answer |")[2].partition("\n\n")[0]
    kinds = {name for name in reading.__all__ if issubclass(getattr(reading, name), reading.ReadError)}
    first_cells = re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(first_cells))) == kinds - {"Problem", "ReadError"}


def test_exactly_the_existing_errors_are_documented() -> None:
    table = README.partition("| exception | the broker |")[2].partition("\n\n")[0]
    subclasses = {kind.__name__ for kind in errors.PublishError.__subclasses__()}
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == subclasses
