"""The wire contract: each type is read, each kind of ill-formed message is parked for its reason, any bytes are."""

from datetime import UTC, datetime

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


def campaign(**fields: object) -> CampaignUpserted | Unreadable:
    event = decode(SUBJECT, body_of(CAMPAIGN, data_of(CAMPAIGN, 1, **fields)))
    assert isinstance(event, CampaignUpserted | Unreadable)
    return event


def shown(**fields: object) -> dict[str, object]:
    event = campaign(**fields)
    assert isinstance(event, CampaignUpserted), event
    decoded: dict[str, object] = msgspec.json.decode("{" + display_json(event) + "}")
    return decoded


@pytest.mark.parametrize("event_type", ALL_TYPES)
def test_every_type_is_read_from_its_subject_and_knows_it(event_type: str) -> None:
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
        found = decode(subject, body_of(event_type, data_of(event_type, 1, **{name: ...})))
        assert isinstance(found, Unreadable), name
        assert found.reason == "invalid_field"
        assert name in found.detail


@pytest.mark.parametrize("event_type", ALL_TYPES)
@pytest.mark.parametrize("attribute", ["specversion", "id", "source", "type", "time", "data"])
def test_every_cloudevents_attribute_is_required(event_type: str, attribute: str) -> None:
    data = data_of(event_type, 1)
    found = decode(subject_for(event_type, data), body_of(event_type, data, **{attribute: ...}))
    assert isinstance(found, Unreadable)
    assert found.reason == "invalid_field"
    assert attribute in found.detail


def test_unknown_attributes_and_fields_are_ignored() -> None:
    body = body_of(CAMPAIGN, data_of(CAMPAIGN, 1, colour="red"), traceparent="00-1-2-01")
    assert isinstance(decode(SUBJECT, body), CampaignUpserted)


def test_null_means_absent_for_optional_fields_and_is_ill_typed_for_others() -> None:
    assert "goal" not in shown(goal=None)
    found = campaign(name=None)
    assert isinstance(found, Unreadable)
    assert "$.data.name" in found.detail


@pytest.mark.parametrize("version", [0, -1, 2**63, 10**30, "7", 1.0, 1.5, True, None])
def test_a_version_is_a_positive_int64_and_nothing_like_one(version: object) -> None:
    found = campaign(version=version)
    assert isinstance(found, Unreadable)
    assert found.reason == "invalid_field"


@pytest.mark.parametrize(
    ("fields", "wanted"),
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
def test_an_ill_typed_field_is_parked_for_its_reason(fields: dict[str, object], wanted: str) -> None:
    found = campaign(**fields)
    assert isinstance(found, Unreadable), found
    assert found.reason == wanted


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
        found = campaign(**outside)
        assert isinstance(found, Unreadable), outside
        assert found.reason == "invalid_field"
        assert len(found.detail) < 200


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
def test_a_value_outside_an_enum_is_answered_with_the_allowed_ones(
    fields: dict[str, object], path: str, allowed: str
) -> None:
    found = campaign(**fields)
    assert isinstance(found, Unreadable)
    assert path in found.detail
    assert f"; allowed: {allowed}" in found.detail


def test_every_field_that_allows_only_some_values_is_known_with_them() -> None:
    found = {name: set(allowed_values(family.decoder.type)) for name, family in _FAMILIES.items()}
    lists = {"$.data.status", "$.data.first_contact_channel", "$.data.stages[].semantic_type"}
    assert found["campaign"] == lists | {"$.specversion"}
    assert all("$.specversion" in paths for paths in found.values())


def test_the_path_of_an_objective_begins_at_the_event() -> None:
    found = campaign(goal_spec={"objectives": [{"type": "contact"}, {"type": "contact", "min_count": "7"}]})
    assert isinstance(found, Unreadable)
    assert "in `min_count` - at `$.data.goal_spec.objectives[1]`" in found.detail


def test_an_ill_formed_id_is_described_and_not_given_as_a_pattern() -> None:
    found = campaign(owner_id="X")
    assert found == Unreadable("invalid_field", "Expected a lower-case hyphenated UUID - at `$.data.owner_id`.")


def test_an_escaped_backslash_before_u0000_is_no_nul() -> None:
    assert shown(name="a\\u0000b")["name"] == "a\\u0000b"


@pytest.mark.parametrize(
    ("subject", "body", "wanted"),
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
def test_what_is_no_event_is_parked_for_its_reason(subject: str, body: bytes, wanted: str) -> None:
    found = decode(subject, body)
    assert isinstance(found, Unreadable)
    assert found.reason == wanted
    assert found.detail.endswith(".")


def test_a_body_of_the_largest_size_is_read() -> None:
    body = body_of(CAMPAIGN, data_of(CAMPAIGN, 1))
    padded = body[:-1] + b" " * (BODY_BYTES_MAX - len(body)) + b"}"
    assert len(padded) == BODY_BYTES_MAX
    assert isinstance(decode(SUBJECT, padded), CampaignUpserted)


def test_times_become_utc_whatever_their_offset() -> None:
    subject, body = published("target.enrolled.v1", 1, enrolled_at="2026-01-01T02:30:00+02:30")
    event = decode(subject, body)
    assert isinstance(event, TargetEnrolled)
    assert event.enrolled_at == datetime(2026, 1, 1, tzinfo=UTC)
    assert event.enrolled_at.tzinfo is UTC


def test_defaults_of_the_contract_are_filled_in_and_absent_fields_left_out() -> None:
    item = shown(
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
def test_an_objective_without_a_type_is_the_first_kind_that_owns_a_field_given(
    objective: dict[str, object], kind: str
) -> None:
    found = shown(goal_spec={"objectives": [objective]})["goal_spec"]
    assert isinstance(found, dict)
    assert found["objectives"][0]["type"] == kind


def test_a_deleted_customer_is_read() -> None:
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
def test_any_bytes_on_any_subject_are_an_event_or_a_reason(subject: str, body: bytes) -> None:
    assert isinstance(decode(subject, body), Unreadable)


@st.composite
def near_misses(draw: st.DrawFn) -> tuple[str, bytes]:
    """A valid event in which one field, required or optional, holds any JSON."""
    event_type = draw(st.sampled_from(ALL_TYPES))
    family = next(types for types in EVENT_TYPES.values() if event_type in types)
    name = draw(st.sampled_from([*family[event_type].__struct_fields__, "unknown"]))
    data = data_of(event_type, 1)
    return subject_for(event_type, data), body_of(event_type, data | {name: draw(JSON)})


@given(near_misses())
def test_any_value_in_any_field_is_an_event_or_a_reason(near_miss: tuple[str, bytes]) -> None:
    found = decode(*near_miss)
    if isinstance(found, Unreadable):
        assert found.reason in {"invalid_field", "id_mismatch", "invalid_json"}
    elif isinstance(found, CampaignUpserted):
        msgspec.json.decode("{" + display_json(found) + "}")
