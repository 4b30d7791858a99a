"""The data set that is measured on is the one that is written down, at every size."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from benchmarks.dataset import EDITING_MIX, MIX, STANDARD, DataSet
from ops.publisher import Publication


@pytest.fixture(params=[0.01, 0.05])
def data(request: pytest.FixtureRequest) -> DataSet:
    return DataSet(STANDARD.of(request.param))


def test_it_has_as_many_memberships_as_its_size_says_and_none_twice(data: DataSet) -> None:
    subjects = [each.subject for each in data.events()]

    assert sum(each.startswith("membership.target.") for each in subjects) == data.size.memberships
    assert len(set(subjects)) == len(subjects)


def test_the_same_seed_gives_the_same_events(data: DataSet) -> None:
    again = DataSet(data.size)

    assert list(data.events()) == list(again.events())
    assert list(data.live_events(500)) == list(again.live_events(500))


def test_live_events_are_mixed_as_stated_and_happen_to_what_exists(data: DataSet) -> None:
    known = {part for each in data.events() for part in each.subject.split(".")[2:]}
    for mix, drawn in ((MIX, data.live_events), (EDITING_MIX, data.editing_events)):
        mixed_as_stated(known, list(drawn(10_000)), mix)


def mixed_as_stated(known: set[str], events: list[Publication], mix: Mapping[str, float]) -> None:
    of_family = {"counters": ("counters",), "target": ("enrolled", "presence"), "campaign": ("status", "campaign")}

    for family, kinds in of_family.items():
        share = sum(f".{family}." in each.subject for each in events) / len(events)
        assert share == pytest.approx(sum(mix[kind] for kind in kinds) / 100, abs=0.02)
    assert {part for each in events for part in each.subject.split(".")[2:]} <= known


def test_every_event_has_an_id_of_its_own_and_a_version_above_all_before_on_its_subject(data: DataSet) -> None:
    events = [*data.events(), *data.live_events(10_000), *data.counter_events(data.campaigns[0], 100)]
    versions: dict[str, list[int]] = defaultdict(list)
    for each in events:
        event: Any = msgspec.json.decode(each.body)
        versions[each.subject].append(event["data"]["version"])

    assert len({each.msg_id for each in events}) == len(events)
    assert all(found == sorted(set(found)) for found in versions.values())
