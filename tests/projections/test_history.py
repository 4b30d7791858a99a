"""Every event of a history has the outcome that the registers give it, whatever the order and repetitions."""

from collections import Counter
from typing import Any

import pytest

from projections.model.attributes import read_attributes
from projections.model.events import CampaignId, CustomerId
from projections.model.history import DISCARDED, HistoryEvent, HistoryFold, SetAside
from projections.model.membership import TargetKey
from tests.support.builders import body_of, campaign_id, customer_id, data_of, message, subject_for
from tests.support.random_history import History
from tests.support.reference_history import Sent, expected_history

TARGET = f"membership.target.{customer_id(1)}.{campaign_id(1)}"


def sent(position: int, event_type: str, version: int, /, **attributes: Any) -> Sent:
    fields = attributes.pop("fields", {})
    data = data_of(event_type, version, **fields)
    return Sent(position, subject_for(event_type, data), body_of(event_type, data, **attributes))


def history_of(*messages: Sent, set_aside: dict[int, SetAside] | None = None) -> list[HistoryEvent]:
    fold = HistoryFold()
    for item in messages:
        fold.add([message(*item)], set_aside or {})
    return fold.events


def outcomes(*messages: Sent) -> list[tuple[str, int | None]]:
    return [(event.outcome, event.superseded_by) for event in history_of(*messages)]


def test_an_applied_event_names_the_one_that_replaced_it() -> None:
    assert outcomes(
        sent(1, "target.removed.v1", 1), sent(2, "target.restored.v1", 2), sent(3, "target.removed.v1", 3)
    ) == [("applied", 2), ("applied", 3), ("applied", None)]


def test_an_enrolment_is_superseded_once_it_has_lost_both_registers() -> None:
    enrolled, removed = sent(1, "target.enrolled.v1", 1), sent(2, "target.removed.v1", 2)
    assert outcomes(enrolled, removed) == [("applied", None), ("applied", None)]
    again = sent(3, "target.enrolled.v1", 3)
    assert outcomes(enrolled, removed, again) == [("applied", 3), ("applied", 3), ("applied", None)]
    assert outcomes(enrolled, again, removed) == [("applied", 3), ("applied", None), ("superseded", 3)]


def test_an_event_that_wins_one_of_two_registers_is_applied() -> None:
    late = history_of(sent(1, "target.removed.v1", 5), sent(2, "target.enrolled.v1", 4))[1]
    assert (late.outcome, late.superseded_by) == ("applied", None)
    assert late.detail == "enrolled_at 2026-01-01T00:01:00Z; not the presence, which event 1 holds"
    status = sent(1, "campaign.status_changed.v1", 9)
    old = sent(2, "campaign.upserted.v1", 3)
    assert outcomes(status, old, sent(3, "campaign.upserted.v1", 4)) == [
        ("applied", None),
        ("applied", 3),
        ("applied", None),
    ]


def test_an_event_that_loses_two_registers_names_the_later_winner() -> None:
    new, removed, old = (
        sent(1, "target.enrolled.v1", 5),
        sent(2, "target.removed.v1", 6),
        sent(3, "target.enrolled.v1", 4),
    )
    assert outcomes(new, removed, old)[2] == ("superseded", 2)


def test_the_same_id_at_the_same_version_is_a_duplicate() -> None:
    first = sent(1, "target.removed.v1", 2, id="a")
    assert outcomes(first, sent(2, "target.removed.v1", 2, id="a")) == [("applied", None), ("duplicate", None)]
    assert outcomes(first, sent(2, "target.removed.v1", 2, id="b"))[1] == ("superseded", 1)
    assert outcomes(first, sent(2, "target.removed.v1", 1, id="a"))[1] == ("superseded", 1)
    lost = sent(2, "target.removed.v1", 1, id="b")
    assert outcomes(first, lost, sent(3, "target.removed.v1", 1, id="b"))[1:] == [
        ("superseded", 1),
        ("duplicate", None),
    ]


def test_an_event_of_another_subject_with_the_same_id_is_no_duplicate() -> None:
    other = {"campaign": 2}
    first = sent(1, "target.removed.v1", 1, id="a")
    assert outcomes(first, sent(2, "target.removed.v1", 1, id="a", fields=other))[1] == ("applied", None)


def test_a_parked_message_shows_what_could_be_read_of_it() -> None:
    ill_typed = Sent(2, TARGET, body_of("target.enrolled.v9", {"version": 7}, id="x", time="yesterday"))
    (garbage, shown) = history_of(Sent(1, TARGET, b"no JSON"), ill_typed)
    assert (garbage.outcome, garbage.type, garbage.id, garbage.time, garbage.version) == (
        "parked",
        None,
        None,
        None,
        None,
    )
    assert str(garbage.detail).startswith("invalid_json: ")
    assert (shown.type, shown.id, shown.source, shown.version) == ("target.enrolled.v9", "x", "tests", "7")
    assert shown.time is None


def test_a_parked_message_shows_the_beginning_of_a_long_value_only() -> None:
    data = data_of("campaign.status_changed.v1", 1, status="x" * 100_000)
    body = body_of("campaign.status_changed.v1", data, source="y" * 100_000)
    (shown,) = history_of(Sent(1, f"membership.campaign.{campaign_id(1)}", body))
    assert str(shown.detail).startswith("invalid_field: Invalid enum value 'xxx")
    assert len(str(shown)) < 1_500


def test_an_event_set_aside_changes_no_register() -> None:
    aside = {1: SetAside("refused_by_tables", "too long"), 2: SetAside(DISCARDED, "by an operator")}
    newest = (sent(1, "target.removed.v1", 8), sent(2, "target.removed.v1", 9))
    shown = history_of(*newest, sent(3, "target.enrolled.v1", 1), set_aside=aside)
    assert [(event.outcome, event.detail) for event in shown[:2]] == [
        ("parked", "refused_by_tables: too long"),
        ("parked", "discarded: by an operator"),
    ]
    assert shown[2].outcome == "applied"


def test_a_parked_event_of_the_same_id_makes_no_duplicate() -> None:
    parked = Sent(1, TARGET, body_of("target.removed.v1", {"version": 1}, id="a"))
    assert outcomes(parked, sent(2, "target.removed.v1", 1, id="a"))[1] == ("applied", None)


def test_versions_are_strings_up_to_the_highest() -> None:
    assert history_of(sent(1, "target.removed.v1", 2**63 - 1))[0].version == "9223372036854775807"


def test_the_last_removal_and_the_return_after_it_are_known() -> None:
    fold = HistoryFold(keep_events=False)
    types = ("enrolled", "removed", "restored", "removed", "enrolled", "restored")
    for version, name in enumerate(types, start=1):
        fold.add([message(*sent(version, f"target.{name}.v1", version))], {})
    presence = fold.presences[TargetKey(CustomerId(customer_id(1)), CampaignId(campaign_id(1)))]
    assert presence.removal is not None
    assert presence.restoration is not None
    assert (presence.removal.position, presence.restoration.position) == (4, 5)
    assert fold.events == []


@pytest.mark.parametrize("seed", range(6))
def test_outcomes_equal_the_references_in_random_histories(seed: int) -> None:
    delivery = History(seed, customers=6, campaigns=12).delivery(seed)
    stream = [Sent(position, item.subject, item.body) for position, item in enumerate(delivery, start=1)]
    by_subject: dict[str, list[Sent]] = {}
    for item in stream:
        by_subject.setdefault(item.subject, []).append(item)
    seen: Counter[str] = Counter()
    for messages in by_subject.values():
        expected = expected_history(messages)
        for event in history_of(*messages):
            shown: dict[str, Any] = {"outcome": event.outcome}
            shown |= {} if event.superseded_by is None else {"superseded_by": event.superseded_by}
            assert shown == expected[event.position], messages
            seen[event.outcome] += 1
    assert min(seen[outcome] for outcome in ("applied", "superseded", "duplicate", "parked")) > 10


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b"7",
        b"[" * 10_000,
        b'{"data":' + b"[" * 10_000,
        b'{"id":"\\ud800"}',
        b'{"time":7,"data":[]}',
    ],
)
def test_attributes_of_any_body_are_read_or_absent(body: bytes) -> None:
    attributes = read_attributes(body)
    assert {attributes.time, attributes.type, attributes.id, attributes.source, attributes.version} == {None}


def test_ill_typed_attributes_do_not_hide_the_others() -> None:
    body = b'{"id":7,"source":"","type":"x","time":"2026-01-01T02:00:00+02:00","data":{"version":true}}'
    attributes = read_attributes(body)
    assert (attributes.id, attributes.source, attributes.type, attributes.version) == (None, None, "x", None)
    assert str(attributes.time) == "2026-01-01 00:00:00+00:00"
    assert read_attributes(b'{"time":"0001-01-01T00:00:00+14:00"}').time is not None
    assert len(read_attributes(b'{"source":"' + b"x" * 100_000 + b'"}').source or "") < 1000
