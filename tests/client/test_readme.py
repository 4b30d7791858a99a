"""The Python code in the client's README, run as it stands there."""

import re
from pathlib import Path
from typing import Any

import nats as nats_py

from campaign_membership_client import EventMethods, errors
from consumers import stream
from ops.devstack.servers.nats import NatsServer
from tests.support.builders import campaign_id, customer_id, owner_id

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


def test_exactly_the_existing_errors_are_documented() -> None:
    table = README.partition("| exception |")[2].partition("\n\n")[0]
    subclasses = {kind.__name__ for kind in errors.PublishError.__subclasses__()}
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == subclasses
