"""One sentence explains a verdict, and names the events behind it as far as the stream still holds them."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from msgspec.structs import replace

from projections.model.events import CampaignId, CustomerId
from projections.model.explanation import MembershipState, explain
from projections.model.history import HistoryFold
from tests.support.builders import body_of, campaign_id, customer_id, data_of, message, subject_for

NOBODY = MembershipState(
    customer_id=CustomerId(customer_id(1)),
    campaign_id=CampaignId(campaign_id(1)),
    customer_version=0,
    customer_deleted=False,
    definition_version=0,
    campaign_name=None,
    deletion_version=0,
    campaign_deleted=False,
    enrolment_version=0,
    enrolled_at=None,
    presence_version=0,
    present=False,
)
MEMBER = replace(
    NOBODY,
    customer_version=1,
    definition_version=1,
    campaign_name="Spring",
    enrolment_version=1,
    enrolled_at=datetime(2026, 5, 3, 10, tzinfo=UTC),
    presence_version=1,
    present=True,
)


def history(*events: tuple[int, str, int, str]) -> HistoryFold:
    """Fold (position, type, version, time)."""
    fold = HistoryFold()
    for position, event_type, version, time in events:
        data = data_of(event_type, version)
        fold.add([message(position, subject_for(event_type, data), body_of(event_type, data, time=time))], {})
    return fold


ENROLLED = (88, "target.enrolled.v1", 1, "2026-05-03T10:00:01Z")
REMOVED = (91, "target.removed.v1", 2, "2026-06-01T12:30:00+02:00")
RESTORED = (95, "target.restored.v1", 3, "2026-06-02T08:00:00Z")

MONTHS = "January February March April May June July August September October November December"
LOST = "an event that the stream no longer holds"
JUNE_1, JUNE_2 = "1 June 2026, 10:30 UTC", "2 June 2026, 08:00 UTC"
SINCE = "3 May 2026, 10:00 UTC (event 88)"

CASES: dict[str, tuple[dict[str, Any], list[Any], str]] = {
    "visible": ({}, [ENROLLED], 'In "Spring" since 3 May 2026, 10:00 UTC (event 88).'),
    "restored": (
        {"presence_version": 3},
        [ENROLLED, REMOVED, RESTORED],
        f'In "Spring" since {SINCE}; removed on {JUNE_1} (event 91) and restored on {JUNE_2} (event 95).',
    ),
    "restored without a removal": (
        {"presence_version": 3},
        [ENROLLED, RESTORED],
        f'In "Spring" since {SINCE}; restored on {JUNE_2} (event 95).',
    ),
    "removed": (
        {"presence_version": 2, "present": False},
        [ENROLLED, REMOVED],
        f'Not in "Spring": enrolled on {SINCE}, removed on {JUNE_1} (event 91).',
    ),
    "campaign deleted": (
        {"campaign_deleted": True, "deletion_version": 4},
        [ENROLLED, (90, "campaign.deleted.v1", 4, "2026-06-01T00:00:00Z")],
        f'Not shown: "Spring" was deleted on 1 June 2026, 00:00 UTC (event 90); enrolled on {SINCE}.',
    ),
    "customer deleted, its event not read": (
        {"customer_deleted": True},
        [ENROLLED],
        'Not shown: the customer was deleted; enrolled in "Spring" on 3 May 2026, 10:00 UTC (event 88).',
    ),
    "campaign unknown": (
        {"definition_version": 0, "campaign_name": None},
        [ENROLLED],
        f"Enrolled in campaign {campaign_id(1)} on {SINCE}, but no definition of that campaign is applied yet.",
    ),
    "never enrolled": (
        {"enrolment_version": 0, "enrolled_at": None, "presence_version": 0, "present": False},
        [],
        'Never enrolled in "Spring": no enrolment event is applied.',
    ),
    "events lost": (
        {},
        [],
        f'In "Spring" since 3 May 2026, 10:00 UTC ({LOST}); its presence was set by {LOST}.',
    ),
    "another version in the stream": (
        {"presence_version": 7, "present": False},
        [ENROLLED, REMOVED],
        f'Not in "Spring": enrolled on {SINCE}, removed by {LOST}.',
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_sentence_gives_the_reason_with_its_events(name: str) -> None:
    changed, events, expected = CASES[name]
    assert explain(replace(MEMBER, **changed), history(*events)) == expected


def test_a_name_cannot_disturb_a_terminal_or_fill_the_screen() -> None:
    sentence = explain(replace(MEMBER, campaign_name="\x1b[2J\u202e" + "x" * 200), history(ENROLLED))
    assert sentence.isprintable()
    assert sentence.startswith(r'In "\x1b[2J\u202e' + "x" * 90)
    assert "…" in sentence
    assert len(sentence) < 250


@pytest.mark.parametrize("year", [1, 9999])
def test_the_first_and_the_last_years_have_a_sentence_too(year: int) -> None:
    here = timezone(timedelta(hours=14 if year == 1 else -14))
    when = datetime(1, 1, 1, tzinfo=here) if year == 1 else datetime(9999, 12, 31, 23, 59, 59, tzinfo=here)
    for instant in (when, when.replace(tzinfo=UTC)):
        assert str(year) in explain(replace(MEMBER, enrolled_at=instant), history(ENROLLED))
    assert explain(MEMBER, history((88, "target.enrolled.v1", 1, when.isoformat())))


@pytest.mark.parametrize("month", range(1, 13))
def test_months_have_their_english_names(month: int) -> None:
    when = datetime(2026, month, 9, 5, 7, tzinfo=UTC)
    name = MONTHS.split()[month - 1]
    assert f"since 9 {name} 2026, 05:07 UTC" in explain(replace(MEMBER, enrolled_at=when), history(ENROLLED))
