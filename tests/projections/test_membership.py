"""The fold's laws: order, duplication and batching do not matter; the highest version wins, of equal ones the first."""

from hypothesis import given
from hypothesis import strategies as st

from projections.model.decode import decode
from projections.model.events import CampaignStatusChanged, Event, Unreadable
from projections.model.membership import Registers, fold
from tests.support.builders import campaign_id, published
from tests.support.strategies import History, histories


def decoded(messages: list[tuple[str, bytes]]) -> list[Event]:
    events = [decode(*message) for message in messages]
    return [event for event in events if not isinstance(event, Unreadable)]


@given(histories())
def test_any_permutation_and_duplication_folds_to_the_same_result(history: History) -> None:
    delivered = [(message.subject, message.body) for batch in history.batches for message in batch]
    assert fold(decoded(delivered)) == fold(decoded(history.events))


@given(histories())
def test_any_split_into_batches_folds_to_the_same_result(history: History) -> None:
    registers = Registers()
    for batch in history.batches:
        registers = fold(decoded([(message.subject, message.body) for message in batch]), registers)
    assert registers == fold(decoded(history.events))


@given(histories(), st.integers(1, 3))
def test_folding_again_changes_nothing(history: History, times: int) -> None:
    once = fold(decoded(history.events))
    again = fold(decoded(history.events) * times, fold(decoded(history.events)))
    assert again == once


def status(version: int, name: str) -> Event:
    event = decode(*published("campaign.status_changed.v1", version, status=name))
    assert isinstance(event, CampaignStatusChanged)
    return event


def test_of_equal_versions_the_first_in_the_stream_wins() -> None:
    registers = fold([status(5, "paused"), status(5, "done"), status(4, "draft")])
    assert registers.statuses[campaign_id(1)].status == "paused"  # type: ignore[index]


def test_an_upsert_writes_definition_and_status_but_not_deletion() -> None:
    registers = fold(
        decoded(
            [
                published("campaign.deleted.v1", 1),
                published("campaign.status_changed.v1", 3, status="done"),
                published("campaign.upserted.v1", 2, status="draft"),
            ]
        )
    )
    key = campaign_id(1)
    assert registers.definitions[key].version == 2  # type: ignore[index]
    assert registers.statuses[key].status == "done"  # type: ignore[index]
    assert registers.deletions[key].version == 1  # type: ignore[index]


def test_a_removal_before_its_enrolment_keeps_both_registers() -> None:
    registers = fold(decoded([published("target.removed.v1", 2), published("target.enrolled.v1", 1)]))
    (presence,) = registers.presences.values()
    (enrolment,) = registers.enrolments.values()
    assert (presence.version, enrolment.version) == (2, 1)
