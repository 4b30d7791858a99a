"""The data set has the documented properties at every size."""

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


def test_the_number_of_memberships_is_exact_and_each_is_unique(data: DataSet) -> None:
    subjects = [event.subject for event in data.events()]

    assert sum(subject.startswith("membership.target.") for subject in subjects) == data.size.memberships
    assert len(set(subjects)) == len(subjects)


def test_the_same_seed_gives_the_same_events(data: DataSet) -> None:
    again = DataSet(data.size)

    assert list(data.events()) == list(again.events())
    assert list(data.live_events(500)) == list(again.live_events(500))


def test_live_events_have_the_stated_mix_and_existing_ids(data: DataSet) -> None:
    known = {part for event in data.events() for part in event.subject.split(".")[2:]}
    for mix, drawn in ((MIX, data.live_events), (EDITING_MIX, data.editing_events)):
        assert_mix(known, list(drawn(10_000)), mix)


def assert_mix(known: set[str], events: list[Publication], mix: Mapping[str, float]) -> None:
    of_family = {"counters": ("counters",), "target": ("enrolled", "presence"), "campaign": ("status", "campaign")}

    for family, kinds in of_family.items():
        share = sum(f".{family}." in event.subject for event in events) / len(events)
        assert share == pytest.approx(sum(mix[kind] for kind in kinds) / 100, abs=0.02)
    assert {part for event in events for part in event.subject.split(".")[2:]} <= known


def test_event_ids_are_unique_and_versions_rise_per_subject(data: DataSet) -> None:
    events = [*data.events(), *data.live_events(10_000), *data.counter_events(data.campaigns[0], 100)]
    versions: dict[str, list[int]] = defaultdict(list)
    for event in events:
        body: Any = msgspec.json.decode(event.body)
        versions[event.subject].append(body["data"]["version"])

    assert len({event.msg_id for event in events}) == len(events)
    assert all(numbers == sorted(set(numbers)) for numbers in versions.values())
