"""`membership correct` removes too high versions exactly: live rows and every rebuild equal a stream without them."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from nats.errors import Error as NatsError

from consumers import stream
from consumers.client import BrokerUnavailable
from ops import correct as module
from ops.correction_plan import versioned
from projections.settings import load
from projections.store import database
from tests.support.builders import body_of, campaign_id, customer_id, data_of, owner_id, published, subject_for
from tests.support.command import CompletedCommand, membership
from tests.support.processes import System

HIGH = 10**18
LATER = 10**15
LIMIT = 2 * LATER
REASON = ("--reason", "a clock in nanoseconds")


def event(event_type: str, version: int, **fields: Any) -> tuple[str, bytes]:
    return published(event_type, version, **fields)


async def publish(system: System, *events: tuple[str, bytes]) -> int:
    position = await system.publish(events)
    await system.wait_until_applied(position)
    return position


async def correct(system: System, *options: str) -> CompletedCommand:
    return await membership(system.environment, "correct", *options, *REASON)


async def listed(system: System, customer: int) -> list[dict[str, Any]]:
    answer = await system.get(f"/customers/{customer_id(customer)}/campaigns")
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["data"]
    return items


async def assert_verified(system: System) -> None:
    """Fold the whole stream again and compare; also, nothing is missing."""
    verified = await membership(system.environment, "verify")
    assert verified.code == 0, verified.out + verified.err
    status = json.loads((await membership(system.environment, "status", "--json")).out)
    assert status["missing_events"] == 0


async def test_a_target_counts_again_after_the_correction(system: System) -> None:
    await publish(
        system,
        event("customer.upserted.v1", 1, customer=1),
        event("campaign.upserted.v1", 1, campaign=1),
        event("target.enrolled.v1", 1, customer=1, campaign=1),
        event("target.removed.v1", HIGH, customer=1, campaign=1),
        event("target.restored.v1", LATER, customer=1, campaign=1),
    )
    assert await listed(system, 1) == []
    target = ("--customer", customer_id(1), "--campaign", campaign_id(1), "--above", str(LIMIT))
    planned = await correct(system, *target, "--dry-run")
    assert planned.out.splitlines()[0].startswith(f"1 event above version {LIMIT}, up to position 5:")
    assert f"position 4  target.removed.v1  version {HIGH}" in planned.out
    assert "2 other events stored again; the highest version is 1000000000000000." in planned.out
    assert await listed(system, 1) == []
    ended = await correct(system, *target, "--yes")
    assert (ended.code, ended.err) == (0, ""), ended.err
    assert ended.out.splitlines()[-1].startswith("Removed 1 event; ")
    assert [item["id"] for item in await listed(system, 1)] == [campaign_id(1)]
    await publish(system, event("target.removed.v1", LATER + 1, customer=1, campaign=1))
    assert await listed(system, 1) == []
    await assert_verified(system)
    again = await correct(system, *target, "--yes")
    assert again.out.splitlines()[-1] == "Removed 0 events; 0 rows derived again."
    audit = await membership(system.environment, "audit")
    assert f"1 event above version {LIMIT} of one target: a clock in nanoseconds" in audit.out
    assert customer_id(1) not in audit.out


async def test_a_campaign_and_its_counters_count_again(system: System) -> None:
    await publish(
        system,
        event("customer.upserted.v1", 1, customer=2),
        event("campaign.upserted.v1", 1, campaign=2, name="old"),
        event("campaign.counters_changed.v1", 1, campaign=2),
        event("target.enrolled.v1", 1, customer=2, campaign=2),
        event("campaign.upserted.v1", HIGH, campaign=2, name="wrong", status="done"),
        event("campaign.deleted.v1", HIGH + 1, campaign=2),
        event("campaign.counters_changed.v1", HIGH, campaign=2),
        event("campaign.upserted.v1", 2, campaign=2, name="new", status="paused"),
        event("campaign.counters_changed.v1", 2, campaign=2),
        event("campaign.counters_changed.v1", 3, campaign=2),
    )
    assert await listed(system, 2) == []
    one = ("--campaign", campaign_id(2))
    assert (await correct(system, *one, "--yes", "--above", "1000")).code == 0
    counters = await correct(system, *one, "--counters", "--yes", "--above", "1000")
    assert "1 other event stored again; the highest version is 3." in counters.out
    (item,) = await listed(system, 2)
    assert (item["name"], item["status"], item["contacts_total"]) == ("new", "paused", 3)
    await assert_verified(system)


async def test_an_entity_known_from_wrong_events_alone_disappears(system: System) -> None:
    await publish(system, event("customer.upserted.v1", HIGH, customer=3))
    assert await listed(system, 3) == []
    ended = await correct(system, "--customer", customer_id(3), "--yes", "--above", "1")
    assert "the entity has no other events" in ended.out
    assert (await system.get(f"/customers/{customer_id(3)}/campaigns")).status_code == 404
    await assert_verified(system)


async def test_a_rebuild_agrees_with_the_corrected_rows(system: System) -> None:
    await publish(
        system,
        event("customer.upserted.v1", HIGH, customer=4, owner_id=owner_id(9)),
        event("customer.upserted.v1", 5, customer=4, owner_id=owner_id(4)),
    )
    assert (await correct(system, "--customer", customer_id(4), "--yes", "--above", "1000")).code == 0
    rebuilt = await membership(system.environment, "rebuild", "--no-throttle", "--json")
    assert rebuilt.code == 0, rebuilt.err
    (live,) = await system.fetch("SELECT generation FROM control.live")
    (row,) = await system.fetch(
        f"SELECT owner_id::text FROM {live['generation']}.customer WHERE customer_id = $1",  # noqa: S608
        customer_id(4),
    )
    assert row["owner_id"] == owner_id(4)


def failing(times: int, original: Callable[..., Any], *, after: bool) -> Callable[..., Any]:
    """Return a function that raises at its `times`-th call, before or after its effect, as a lost connection does."""
    calls = 0

    async def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        result = await original(*args, **kwargs) if after or calls != times else None
        if calls == times:
            raise NatsError
        return result

    return call


@pytest.mark.parametrize(
    ("name", "times", "after"),
    [
        ("purge", 1, False),
        ("purge", 1, True),
        ("update_tally", 1, False),
        ("update_tally", 1, True),
        ("update_tally", 2, False),
        ("update_tally", 2, True),
    ],
)
async def test_an_interrupted_correction_is_finished_by_the_same_command(
    system: System, monkeypatch: pytest.MonkeyPatch, name: str, times: int, after: bool
) -> None:
    number = 100 + 4 * ("purge", "update_tally").index(name) + 2 * times + after
    await publish(
        system,
        event("customer.upserted.v1", 1, customer=number),
        event("campaign.upserted.v1", 1, campaign=number),
        event("target.enrolled.v1", 1, customer=number, campaign=number),
        event("campaign.status_changed.v1", HIGH, campaign=number, status="done"),
        event("campaign.status_changed.v1", 2, campaign=number, status="paused"),
    )
    settings = load({"database_url", "nats_url"}, system.environment)
    what = versioned(None, campaign_id(number), counters=False)
    monkeypatch.setattr(stream, name, failing(times, getattr(stream, name), after=after))
    connection = await database.connect(system.database_url, "test")
    with pytest.raises(BrokerUnavailable, match="it finishes a correction"):
        await module.correct(connection, settings, what, 1_000, reason="test", dry_run=False)
    await connection.close()
    ended = await correct(system, "--campaign", campaign_id(number), "--yes", "--above", "1000")
    assert (ended.code, ended.err) == (0, "")
    (item,) = await listed(system, number)
    assert item["status"] == "paused"
    await assert_verified(system)
    again = await correct(system, "--campaign", campaign_id(number), "--yes", "--above", "1000")
    assert again.out.splitlines()[-1] == "Removed 0 events; 0 rows derived again."


async def test_what_cannot_be_corrected_exactly_is_refused(system: System) -> None:
    subject = subject_for("customer.upserted.v1", data_of("customer.upserted.v1", 1, customer=5))
    await publish(system, event("customer.upserted.v1", HIGH, customer=5), (subject, body_of("nope", {}, id="bad")))
    refused = await correct(system, "--customer", customer_id(5), "--yes", "--above", "1000")
    assert (refused.code, "are parked or discarded, at positions" in refused.err) == (1, True), refused
    unconfirmed = await correct(system, "--customer", customer_id(5))
    assert (unconfirmed.code, "look at --dry-run first" in unconfirmed.err) == (2, True)
    assert (await correct(system, "--yes")).code == 2
    assert (await correct(system, "--customer", customer_id(5), "--counters", "--yes")).code == 2
