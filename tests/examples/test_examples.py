"""The Python and CSV examples, run by the command in their README on a stack of this test."""

import asyncio
import importlib.util
import json
import re
import subprocess
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from campaign_membership_client import Publisher, Recorder, events
from tests.support.builders import ANYONE, campaign_id, customer_id, owner_id
from tests.support.processes import System

ROOT = Path(__file__).parents[2]
AT = datetime(2026, 1, 5, tzinfo=UTC)


def command_of(example: str) -> list[str]:
    """Return the command in an example's README, with the interpreter of the tests."""
    text = (ROOT / "examples" / example / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^\$ (.+)$", text, re.MULTILINE)
    return [sys.executable if word == ".venv/bin/python" else word for word in command.split()]


async def run(system: System, *command: str) -> str:
    ended = await asyncio.to_thread(
        subprocess.run,
        command,
        cwd=ROOT,
        env=system.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture
def stack(system: System, tmp_path: Path) -> str:
    """A file like the dev stack's, for the system of this module."""
    addresses = {
        "api_url": system.api_url,
        "nats_url": system.nats_url,
        "database_url": system.database_url,
        "admin_token": system.admin_token,
    }
    file = tmp_path / "dev.json"
    file.write_text(json.dumps(addresses), encoding="utf-8")
    return str(file)


async def test_a_producer_publishes_through_its_outbox(system: System, stack: str) -> None:
    lines = (await run(system, *command_of("outbox-producer"), "--stack", stack)).splitlines()
    assert lines[:2] == ["4 events wait in the outbox.", "The relay published 4; 0 wait."]
    assert lines[3] == "The customer is in 2 campaigns: Example 2, Example 3."
    assert lines[4].startswith('Not in "Example 1": enrolled on ')


async def test_the_producers_use_cases_are_tested_with_a_recorder(connection: asyncpg.Connection) -> None:
    crm = module("outbox-producer", "crm")
    recorder = Recorder()
    customer, campaign = uuid.uuid4(), uuid.uuid4()
    await crm.create_tables(connection)
    use_cases = crm.Crm(recorder)
    assert not await use_cases.leave(connection, customer, campaign)
    await use_cases.join(connection, customer, campaign)
    assert await use_cases.leave(connection, customer, campaign)
    await use_cases.join(connection, customer, campaign)
    assert [(event.type, event.data["version"]) for event in recorder.events] == [
        ("target.enrolled.v1", 1),
        ("target.removed.v1", 2),
        ("target.enrolled.v1", 3),
    ]


async def test_a_csv_import_is_repeatable(system: System) -> None:
    first = (await run(system, *command_of("csv-import"))).splitlines()
    assert [re.sub(r"position \d+", "position N", line) for line in first] == [
        "Published 2 new events, 0 duplicates, the last of them at position N.",
        "Published 3 new events, 0 duplicates, the last of them at position N.",
    ]
    again = (await run(system, *command_of("csv-import"))).splitlines()
    assert again == ["Published 0 new events, 2 duplicates.", "Published 0 new events, 3 duplicates."]
    position = int(re.findall(r"position (\d+)", first[1])[0])
    answer = await system.get(
        "/customers/c0000000-0000-4000-8000-0000000c5001/campaigns",
        headers={"Membership-Min-Position": str(position), "Prefer": "wait=10"},
    )
    assert [campaign["name"] for campaign in answer.json()["data"]] == ["Café loyalty", "Spring renewals"]


async def test_a_reader_lists_and_explains(system: System, stack: str) -> None:
    async with Publisher(system.nats_url, source="test") as publisher:
        for number in range(1, 103):
            await publisher.campaign_upserted(
                campaign_id(number),
                owner_id(1),
                version=1,
                name=f"Campaign {number:03}",
                status="running" if number % 2 else "done",
                agent_id=ANYONE,
                first_contact_channel="call",
                whatsapp_after_attempts=2,
            )
        receipts = publisher.publish_many(
            events.enrolled(customer_id(1), campaign_id(n), version=1, at=AT) for n in range(1, 103)
        )
        last = max([receipt.position async for receipt in receipts])
    await system.wait_until_applied(last)
    printed = (
        await run(system, *command_of("python-reader"), "--stack", stack, "--customer", customer_id(1))
    ).splitlines()
    assert printed[0].startswith("In 102 campaigns (51 running, 51 done), complete up to position ")
    assert printed[1:103] == [
        f"  {'running ' if number % 2 else 'done    '} Campaign {number:03}" for number in range(1, 103)
    ]
    assert printed[103].startswith('In "Campaign ')


def module(example: str, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / example / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded
