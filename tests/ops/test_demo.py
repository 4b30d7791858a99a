"""The demo data set: every event is valid, every call yields the same ones, and every documented case is in it."""

import pytest

from ops.devstack.demo import (
    BIG_CUSTOMER,
    CAMPAIGNS,
    DELETED_CUSTOMER,
    DEMO_CUSTOMER,
    DEMO_OWNER,
    UNOWNED_CUSTOMER,
    demo_events,
)
from ops.publisher import Publication
from projections.model.decode import decode
from projections.model.events import CampaignDeleted, Event, TargetRemoved, Unreadable
from projections.model.membership import Registers, fold, is_present


@pytest.fixture(scope="module")
def publications() -> list[Publication]:
    return list(demo_events())


@pytest.fixture(scope="module")
def model(publications: list[Publication]) -> Registers:
    events: list[Event] = []
    for publication in publications:
        event = decode(publication.subject, publication.body)
        assert not isinstance(event, Unreadable), (publication, event)
        events.append(event)
    return fold(events)


def test_every_call_yields_the_same_events_with_unique_ids(publications: list[Publication]) -> None:
    assert publications == list(demo_events())
    assert len({publication.msg_id for publication in publications}) == len(publications)
    assert 10_000 < len(publications) < 16_000


def test_detailed_campaigns_and_customers_belong_to_three_owners(model: Registers) -> None:
    assert len({event.owner_id for event in model.definitions.values()}) == 3
    assert sum(1 for event in model.definitions.values() if event.goal) == CAMPAIGNS
    assert len(model.customers) > 300
    assert any(event.stages and event.goal_spec for event in model.definitions.values())
    names = [event.name for event in model.definitions.values()]
    assert any(not name.isascii() for name in names)
    assert len(set(names)) == len(names)


def test_the_busy_customer_is_in_3_000_campaigns_of_its_owner(model: Registers) -> None:
    campaigns = [key.campaign_id for key in model.enrolments if key.customer_id == BIG_CUSTOMER]
    assert len(campaigns) == 3_000
    assert {model.definitions[campaign].owner_id for campaign in campaigns} == {DEMO_OWNER}


def test_the_demo_customer_covers_every_kind_of_campaign(model: Registers) -> None:
    assert model.customers[DEMO_CUSTOMER].owner_id == DEMO_OWNER  # type: ignore[index]
    campaigns = [key.campaign_id for key in model.enrolments if key.customer_id == DEMO_CUSTOMER]
    owned = [event.campaign_id for event in model.definitions.values() if event.owner_id == DEMO_OWNER]
    visible = set(campaigns) & set(owned)
    assert len(visible) >= 10
    assert any(campaign not in model.definitions for campaign in campaigns), "no enrolment in an unknown campaign"
    assert any(isinstance(model.deletions.get(campaign), CampaignDeleted) for campaign in visible)


def test_deleted_and_unowned_customers_and_restored_targets_exist(model: Registers) -> None:
    assert model.customers[DELETED_CUSTOMER].deleted is True  # type: ignore[index]
    assert UNOWNED_CUSTOMER not in model.customers
    assert any(key.customer_id == UNOWNED_CUSTOMER for key in model.enrolments)
    removed = [event for event in model.presences.values() if isinstance(event, TargetRemoved)]
    restored = [event for event in model.presences.values() if is_present(event) and event.version > 1]
    assert removed
    assert restored
