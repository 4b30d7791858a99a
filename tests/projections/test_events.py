"""The wire contract: each type is decoded, and invalid messages of each kind are parked with their reason."""

from collections.abc import Hashable
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections.model.decode import _FAMILIES, decode
from projections.model.decode_errors import allowed_values
from projections.model.events import (
    BODY_BYTES_MAX,
    EVENT_TYPES,
    CampaignUpserted,
    CustomerUpserted,
    TargetEnrolled,
    Unreadable,
    subject_of,
)
from projections.model.membership import display_json
from tests.support.builders import ALL_TYPES, ANYONE, body_of, campaign_id, customer_id, data_of, published, subject_for

CAMPAIGN = "campaign.upserted.v1"
SUBJECT = f"membership.campaign.{campaign_id(1)}"


def campaign(**fields: Any) -> CampaignUpserted | Unreadable:
    event = decode(SUBJECT, body_of(CAMPAIGN, data_of(CAMPAIGN, 1, **fields)))
    assert isinstance(event, CampaignUpserted | Unreadable)
    return event


def displayed(**fields: object) -> dict[str, object]:
    event = campaign(**fields)
    assert isinstance(event, CampaignUpserted), event
    decoded: dict[str, object] = msgspec.json.decode("{" + display_json(event) + "}")
    return decoded


@pytest.mark.parametrize("event_type", ALL_TYPES)
def test_every_type_is_decoded_and_returns_its_subject(event_type: str) -> None:
    subject, body = published(event_type, 7)
    event = decode(subject, body)
    assert not isinstance(event, Unreadable), event
    assert event.version == 7
    assert subject_of(event) == subject


@pytest.mark.parametrize("event_type", ALL_TYPES)
def test_every_required_field_is_required(event_type: str) -> None:
    data = data_of(event_type, 1)
    subject = subject_for(event_type, data)
    for name in data:
        event = decode(subject, body_of(event_type, data_of(event_type, 1, **cast("dict[str, Any]", {name: ...}))))
        assert isinstance(event, Unreadable), name
        assert event.reason == "invalid_field"
        assert name in event.detail


@pytest.mark.parametrize("event_type", ALL_TYPES)
@pytest.mark.parametrize("attribute", ["specversion", "id", "source", "type", "time", "data"])
def test_every_cloudevents_attribute_is_required(event_type: str, attribute: str) -> None:
    data = data_of(event_type, 1)
    event = decode(subject_for(event_type, data), body_of(event_type, data, **{attribute: ...}))
    assert isinstance(event, Unreadable)
    assert event.reason == "invalid_field"
    assert attribute in event.detail


def test_unknown_attributes_and_fields_are_ignored() -> None:
    body = body_of(CAMPAIGN, data_of(CAMPAIGN, 1, colour="red"), traceparent="00-1-2-01")
    assert isinstance(decode(SUBJECT, body), CampaignUpserted)


def test_null_means_absent_only_for_optional_fields() -> None:
    assert "goal" not in displayed(goal=None)
    event = campaign(name=None)
    assert isinstance(event, Unreadable)
    assert "$.data.name" in event.detail


@pytest.mark.parametrize("version", [0, -1, 2**63, 10**30, "7", 1.0, 1.5, True, None])
def test_a_version_must_be_a_positive_int64(version: object) -> None:
    event = campaign(version=version)
    assert isinstance(event, Unreadable)
    assert event.reason == "invalid_field"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"owner_id": ANYONE.upper()}, "invalid_field"),
        ({"owner_id": ANYONE.replace("-", "")}, "invalid_field"),
        ({"agent_id": ANYONE + "\n"}, "invalid_field"),
        ({"campaign_id": campaign_id(1).upper()}, "id_mismatch"),
        ({"campaign_id": campaign_id(2)}, "id_mismatch"),
        ({"status": "archived"}, "invalid_field"),
        ({"first_contact_channel": "fax"}, "invalid_field"),
        ({"name": "nul\0here"}, "invalid_field"),
        ({"created_at": "2026-01-01T00:00:00"}, "invalid_field"),
        ({"created_at": "yesterday"}, "invalid_field"),
        ({"created_at": 1767225600}, "invalid_field"),
        ({"created_at": "0001-01-01T00:00:00+14:00"}, "invalid_field"),
        ({"call_attempt_delays": [1, "2"]}, "invalid_field"),
        ({"goal_spec": {"objectives": [{"type": "fax"}]}}, "invalid_field"),
        ({"goal_spec": {"objectives": [7]}}, "invalid_field"),
        ({"goal_spec": {"objectives": [{"type": "ai", "label_in": ["nul\0"]}]}}, "invalid_field"),
        ({"call_working_hours": {"start": "25:00:00"}}, "invalid_field"),
        ({"stages": [{}]}, "invalid_field"),
    ],
)
def test_an_invalid_field_is_parked_with_its_reason(fields: dict[str, object], reason: str) -> None:
    event = campaign(**fields)
    assert isinstance(event, Unreadable), event
    assert event.reason == reason


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**3999], ids=["above", "below", "of 4,000 digits"])
def test_every_integer_of_an_event_is_within_int64(number: int) -> None:
    stage = {
        "id": ANYONE,
        "campaign_id": campaign_id(1),
        "key": "new",
        "name": "New",
        "semantic_type": "new",
        "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-01T00:00:00Z",
    }

    def fields(value: int) -> list[dict[str, object]]:
        return [
            {"whatsapp_after_attempts": value},
            {"call_attempt_delays": [1, value]},
            {"call_working_hours": {"weekdays": [value]}},
            {"goal_spec": {"objectives": [{"type": "contact", "min_count": value}]}},
            {"goal_spec": {"objectives": [{"type": "email", "min_count": value}]}},
            {"stages": [stage | {"position": value}]},
        ]

    for within, outside in zip(fields(max(-(2**63), min(number, 2**63 - 1))), fields(number), strict=True):
        assert isinstance(campaign(**within), CampaignUpserted), within
        event = campaign(**outside)
        assert isinstance(event, Unreadable), outside
        assert event.reason == "invalid_field"
        assert len(event.detail) < 200


STAGE = {
    "id": ANYONE,
    "campaign_id": ANYONE,
    "key": "new",
    "name": "New",
    "position": 1,
    "semantic_type": "new",
    "created_at": "2026-01-01T00:00:00Z",
    "updated_at": "2026-01-01T00:00:00Z",
}


@pytest.mark.parametrize(
    ("fields", "path", "allowed"),
    [
        ({"status": "runing"}, "`$.data.status`", "done, draft, paused, running"),
        ({"first_contact_channel": "fax"}, "`$.data.first_contact_channel`", "call, whatsapp"),
        ({"stages": [STAGE | {"semantic_type": "old"}]}, "stages[0].semantic_type`", "active, lost, new, won"),
        ({"goal_spec": {"objectives": [{"type": "fax"}]}}, "`$.data.goal_spec.objectives[0]`", "contact, email, ai"),
        ({"goal_spec": {"objectives": [{"channels": ["fax"]}]}}, "`channels[0]`", "call, whatsapp"),
        (
            {"goal_spec": {"objectives": [{"type": "ai", "label_in": ["x"]}]}},
            "label_in[0]",
            "negative, neutral, positive",
        ),
    ],
)
def test_an_invalid_enum_value_is_reported_with_the_allowed_values(
    fields: dict[str, object], path: str, allowed: str
) -> None:
    event = campaign(**fields)
    assert isinstance(event, Unreadable)
    assert path in event.detail
    assert f"; allowed: {allowed}" in event.detail


def test_allowed_values_are_found_for_every_enumerated_field() -> None:
    paths_by_family = {
        name: set(allowed_values(cast("Hashable", family.decoder.type))) for name, family in _FAMILIES.items()
    }
    campaign_paths = {"$.data.status", "$.data.first_contact_channel", "$.data.stages[].semantic_type"}
    assert paths_by_family["campaign"] == campaign_paths | {"$.specversion"}
    assert all("$.specversion" in paths for paths in paths_by_family.values())


def test_the_path_of_an_objective_starts_at_the_event() -> None:
    event = campaign(goal_spec={"objectives": [{"type": "contact"}, {"type": "contact", "min_count": "7"}]})
    assert isinstance(event, Unreadable)
    assert "in `min_count` - at `$.data.goal_spec.objectives[1]`" in event.detail


def test_an_invalid_id_is_reported_without_a_pattern() -> None:
    event = campaign(owner_id="X")
    assert event == Unreadable("invalid_field", "Expected a lower-case hyphenated UUID - at `$.data.owner_id`.")


def test_an_escaped_backslash_before_u0000_is_not_nul() -> None:
    assert displayed(name="a\\u0000b")["name"] == "a\\u0000b"


@pytest.mark.parametrize(
    ("subject", "body", "reason"),
    [
        ("membership", b"{}", "unknown_subject"),
        ("membership.unknown.x", b"{}", "unknown_subject"),
        ("other.campaign.x", b"{}", "unknown_subject"),
        ("membership.campaign", b"{}", "invalid_subject"),
        (SUBJECT.upper().replace("MEMBERSHIP.CAMPAIGN", "membership.campaign"), b"{}", "invalid_subject"),
        (SUBJECT + ".more", b"{}", "invalid_subject"),
        (SUBJECT, b"", "invalid_json"),
        (SUBJECT, b"{", "invalid_json"),
        (SUBJECT, b'{"a":"\xff"}', "invalid_json"),
        (SUBJECT, b'{"id":"\\ud800"}', "invalid_json"),
        (SUBJECT, b"[" * 100_000, "invalid_field"),
        (SUBJECT, b'{"x":' + b"[" * 100_000, "invalid_json"),
        (SUBJECT, b"[]", "invalid_field"),
        (SUBJECT, b" " * (BODY_BYTES_MAX + 1), "oversize"),
        (SUBJECT, body_of("campaign.upserted.v2", {}), "unknown_type"),
        (SUBJECT, body_of("target.enrolled.v1", {}), "unknown_type"),
        (f"membership.customer.{customer_id(1)}", body_of("customer.upserted.v2", {}), "unknown_type"),
    ],
)
def test_an_unreadable_message_is_parked_with_its_reason(subject: str, body: bytes, reason: str) -> None:
    event = decode(subject, body)
    assert isinstance(event, Unreadable)
    assert event.reason == reason
    assert event.detail.endswith(".")


def test_a_body_of_maximum_size_is_decoded() -> None:
    body = body_of(CAMPAIGN, data_of(CAMPAIGN, 1))
    padded = body[:-1] + b" " * (BODY_BYTES_MAX - len(body)) + b"}"
    assert len(padded) == BODY_BYTES_MAX
    assert isinstance(decode(SUBJECT, padded), CampaignUpserted)


def test_times_are_converted_to_utc() -> None:
    subject, body = published("target.enrolled.v1", 1, enrolled_at="2026-01-01T02:30:00+02:30")
    event = decode(subject, body)
    assert isinstance(event, TargetEnrolled)
    assert event.enrolled_at == datetime(2026, 1, 1, tzinfo=UTC)
    assert event.enrolled_at.tzinfo is UTC


def test_defaults_are_filled_in_and_absent_fields_are_omitted() -> None:
    item = displayed(
        goal_spec={"objectives": [{"type": "contact"}, {"type": "email"}, {"type": "ai", "channels": 5}]},
        call_working_hours={},
        stages=[
            {
                "id": ANYONE,
                "campaign_id": campaign_id(1),
                "key": "new",
                "name": "New",
                "position": 0,
                "semantic_type": "new",
                "created_at": "2026-01-01T01:00:00+01:00",
                "updated_at": "2026-01-01T00:00:00.5Z",
            }
        ],
    )
    assert item["goal_spec"] == {
        "objectives": [
            {"type": "contact", "min_count": 1},
            {"type": "email", "min_count": 1},
            {"type": "ai", "min_score": 0},
        ]
    }
    assert item["call_working_hours"] == {"start": "09:00:00", "end": "19:00:00"}
    stages = item["stages"]
    assert isinstance(stages, list)
    assert stages[0]["is_system"] is False
    assert stages[0]["created_at"] == "2026-01-01T00:00:00Z"
    assert stages[0]["updated_at"] == "2026-01-01T00:00:00.500000Z"
    assert "color" not in stages[0]
    assert "agent_name" not in item


@pytest.mark.parametrize(
    ("objective", "kind"),
    [({}, "contact"), ({"min_count": 2}, "contact"), ({"label_in": ["positive"]}, "ai"), ({"type": None}, "contact")],
)
def test_an_objective_without_a_type_is_the_first_matching_kind(objective: dict[str, object], kind: str) -> None:
    goal_spec = displayed(goal_spec={"objectives": [objective]})["goal_spec"]
    assert isinstance(goal_spec, dict)
    assert goal_spec["objectives"][0]["type"] == kind


def test_a_deleted_customer_is_decoded() -> None:
    event = decode(*published("customer.upserted.v1", 1, deleted=True))
    assert isinstance(event, CustomerUpserted)
    assert event.deleted is True


SUBJECTS = st.one_of(
    st.text(max_size=60),
    st.sampled_from(
        [
            f"membership.customer.{customer_id(1)}",
            SUBJECT,
            f"membership.counters.{campaign_id(1)}",
            f"membership.target.{customer_id(1)}.{campaign_id(1)}",
        ]
    ),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(SUBJECTS, st.binary(max_size=200))
def test_any_bytes_on_any_subject_give_a_reason(subject: str, body: bytes) -> None:
    assert isinstance(decode(subject, body), Unreadable)


@st.composite
def near_misses(draw: st.DrawFn) -> tuple[str, bytes]:
    """Return a valid event in which one field, required or optional, contains arbitrary JSON."""
    event_type = draw(st.sampled_from(ALL_TYPES))
    family = next(types for types in EVENT_TYPES.values() if event_type in types)
    name = draw(st.sampled_from([*family[event_type].__struct_fields__, "unknown"]))
    data = data_of(event_type, 1)
    return subject_for(event_type, data), body_of(event_type, data | {name: draw(JSON)})


@given(near_misses())
def test_any_value_in_any_field_gives_an_event_or_a_reason(near_miss: tuple[str, bytes]) -> None:
    event = decode(*near_miss)
    if isinstance(event, Unreadable):
        assert event.reason in {"invalid_field", "id_mismatch", "invalid_json"}
    elif isinstance(event, CampaignUpserted):
        msgspec.json.decode("{" + display_json(event) + "}")
