"""The demo data set keeps its promises: every event valid, the same every time, one of everything to meet."""

import pytest

from ops.devstack.demo import BIG_CUSTOMER, CAMPAIGNS, DEMO_CUSTOMER, DEMO_OWNER, LEAVER, NEWCOMER, demo_events
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
    for each in publications:
        event = decode(each.subject, each.body)
        assert not isinstance(event, Unreadable), (each, event)
        events.append(event)
    return fold(events)


def test_it_is_the_same_every_time_and_no_id_comes_twice(publications: list[Publication]) -> None:
    assert publications == list(demo_events())
    assert len({each.msg_id for each in publications}) == len(publications)
    assert 10_000 < len(publications) < 16_000


def test_a_few_hundred_rich_campaigns_and_customers_of_three_owners(model: Registers) -> None:
    assert len({event.owner_id for event in model.definitions.values()}) == 3
    assert sum(1 for event in model.definitions.values() if event.goal) == CAMPAIGNS
    assert len(model.customers) > 300
    assert any(event.stages and event.goal_spec for event in model.definitions.values())
    names = [event.name for event in model.definitions.values()]
    assert any(not name.isascii() for name in names)
    assert len(set(names)) == len(names)


def test_the_busy_customer_is_in_thousands_of_campaigns_of_its_owner(model: Registers) -> None:
    mine = [key.campaign_id for key in model.enrolments if key.customer_id == BIG_CUSTOMER]
    assert len(mine) == 3_000
    assert {model.definitions[each].owner_id for each in mine} == {DEMO_OWNER}


def test_the_demo_customer_has_one_of_everything(model: Registers) -> None:
    assert model.customers[DEMO_CUSTOMER].owner_id == DEMO_OWNER  # type: ignore[index]
    mine = [key.campaign_id for key in model.enrolments if key.customer_id == DEMO_CUSTOMER]
    visible = [each for each in mine if each in model.definitions and model.definitions[each].owner_id == DEMO_OWNER]
    assert len(visible) >= 10
    assert any(each not in model.definitions for each in mine), "an enrolment in a campaign that never comes"
    assert any(isinstance(model.deletions.get(each), CampaignDeleted) for each in visible)


def test_there_are_a_leaver_a_newcomer_and_targets_that_went_and_came_back(model: Registers) -> None:
    assert model.customers[LEAVER].deleted is True  # type: ignore[index]
    assert NEWCOMER not in model.customers
    assert any(key.customer_id == NEWCOMER for key in model.enrolments)
    gone = [event for event in model.presences.values() if isinstance(event, TargetRemoved)]
    back = [event for event in model.presences.values() if is_present(event) and event.version > 1]
    assert gone
    assert back
