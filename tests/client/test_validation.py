"""An event is refused before it is sent, with every wrong field, its value and what is allowed."""

import json
import math
import random
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from campaign_membership_client import Event, InvalidEvent, events, implausible_version, now_us, prepare
from campaign_membership_client.field_errors import ERRORS_MAX, find_errors
from projections.model.decode import decode
from projections.model.events import BODY_BYTES_MAX, Unreadable
from tests.support.builders import ALL_TYPES, body_of, campaign_id, customer_id, data_of, subject_for

UUID_TEXT = "a lower-case hyphenated UUID"
INT64 = "an integer from 1 to 9223372036854775807"


def errors_of(event: Event, source: str = "crm") -> dict[str, tuple[str, str]]:
    with pytest.raises(InvalidEvent) as caught:
        prepare(event, source)
    assert caught.value.code == "invalid_event"
    return {error.field: (error.value, error.allowed) for error in caught.value.errors}


def campaign(**fields: Any) -> Event:
    return Event("campaign.upserted.v1", data_of("campaign.upserted.v1", 1, **fields))


def test_all_wrong_fields_are_reported_together() -> None:
    wrong = campaign(
        version=0,
        status="archived",
        agent_id="A0000000-0000-4000-8000-000000000000",
        whatsapp_after_attempts="2",
        name=...,
        created_at="yesterday",
        stages=[{"id": "x", "position": 1.5}],
        call_attempt_delays=[60, "240"],
        goal="a\0b",
    )
    found = errors_of(wrong)
    assert found["data.version"] == ("0", INT64)
    assert found["data.status"] == ('"archived"', "one of draft, running, paused, done")
    assert found["data.agent_id"][1] == UUID_TEXT
    assert found["data.whatsapp_after_attempts"][0] == '"2"'
    assert found["data.name"] == ("", "a text without NUL")
    assert found["data.created_at"][1].startswith("an RFC 3339 date-time with an offset")
    assert found["data.stages[0].id"] == ('"x"', UUID_TEXT)
    assert found["data.stages[0].position"][0] == "1.5"
    assert found["data.stages[0].semantic_type"] == ("", "one of new, active, won, lost")
    assert found["data.call_attempt_delays[1]"][0] == '"240"'
    assert found["data.goal"] == ('"a\\u0000b"', "a text without NUL")


def test_the_message_names_field_value_and_what_is_allowed() -> None:
    with pytest.raises(InvalidEvent) as caught:
        prepare(events.campaign_status_changed("x", "over", version=True), "crm")  # type: ignore[arg-type]
    assert str(caught.value) == (
        f'campaign.status_changed.v1 was not sent: data.campaign_id: "x" is not allowed; expected {UUID_TEXT}. '
        f"data.version: true is not allowed; expected {INT64}. "
        'data.status: "over" is not allowed; expected one of draft, running, paused, done.'
    )


@pytest.mark.parametrize(
    ("event", "source", "field"),
    [
        (Event("target.moved.v1", {}), "crm", "type"),
        (events.campaign_deleted(campaign_id(1), version=1), "", "source"),
        (events.campaign_deleted(campaign_id(1), version=1, event_id="x" * 129), "crm", "id"),
        (events.campaign_deleted(campaign_id(1), version=2**63), "crm", "data.version"),
        (events.campaign_deleted(campaign_id(1), version=2**70), "crm", "data.version"),
        (campaign(goal="\ud800"), "crm", "data.goal"),
        (campaign(goal=object()), "crm", "data.goal"),
        (campaign(goal_spec={"objectives": [{"type": "fax"}]}), "crm", "data.goal_spec.objectives[0]"),
        (campaign(goal="x" * BODY_BYTES_MAX), "crm", "event"),
        (
            events.enrolled(customer_id(1), campaign_id(1), version=1, at=datetime(2026, 1, 1)),  # noqa: DTZ001
            "crm",
            "data.enrolled_at",
        ),
    ],
    ids=["type", "source", "id", "int64", "bigger", "surrogate", "object", "objective", "size", "no offset"],
)
def test_what_no_field_can_hold_is_refused_too(event: Event, source: str, field: str) -> None:
    assert list(errors_of(event, source)) == [field]


def test_a_number_that_is_not_finite_is_refused() -> None:
    data = data_of("campaign.counters_changed.v1", 1, progress=math.nan)
    assert errors_of(Event("campaign.counters_changed.v1", data))["data.progress"] == ("null", "a finite number")


def test_the_errors_of_one_event_are_limited() -> None:
    assert len(errors_of(campaign(call_attempt_delays=["x"] * 1_000))) == ERRORS_MAX


@pytest.mark.parametrize("event_type", ALL_TYPES)
def test_every_refused_field_is_explained_and_every_explained_one_refused(event_type: str) -> None:
    """Both directions, on single damaged fields: the explanation agrees with the code that reads the stream."""
    values = [None, True, 0, -1, 1, 2**63, 1.5, "", "x", "a\0", [], {}, ["x"], {"x": 1}, "2026-01-01T00:00:00Z"]
    good = data_of(event_type, 1)
    subject = subject_for(event_type, good)
    damaged = random.Random(1).choices(
        [(name, value) for name in [*good, "goal_spec", "stages"] for value in values], k=400
    )
    for name, value in damaged:
        body = body_of(event_type, good | {name: value})
        refused = isinstance(result := decode(subject, body), Unreadable)
        explained = bool(find_errors(json.loads(body)))
        assert refused == explained or (isinstance(result, Unreadable) and result.reason == "id_mismatch"), (
            name,
            value,
        )


def test_versions_ahead_of_the_clock_are_implausible() -> None:
    clock = now_us()
    assert abs(clock - time.time() * 1e6) < 60e6
    assert not implausible_version(1, clock)
    assert not implausible_version(clock + 3600 * 10**6, clock)
    assert "ahead of the clock" in implausible_version(clock + 3 * 24 * 3600 * 10**6, clock)
    assert "it looks like nanoseconds" in implausible_version(clock * 1_000, clock)
    assert "nanoseconds" not in implausible_version(2**63 - 1, clock)
    assert datetime.fromtimestamp(clock / 1e6, UTC).year > 2025
