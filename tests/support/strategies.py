"""Hypothesis strategies: events of a few entities with distinct versions, and ways a broker may deliver them."""

from typing import NamedTuple

from hypothesis import strategies as st

from projections.model.events import Message
from tests.support.builders import ALL_TYPES, message, owner_id, published

STATUSES = ("draft", "running", "paused", "done")


class History(NamedTuple):
    """Events as published, and one delivery of them: permuted, duplicated, split into batches."""

    events: list[tuple[str, bytes]]
    batches: list[list[Message]]


@st.composite
def histories(draw: st.DrawFn, size_max: int = 24) -> History:
    """Draw a history of two customers and two campaigns; versions differ, so every delivery has the same result."""
    kinds = draw(st.lists(st.sampled_from(ALL_TYPES), min_size=1, max_size=size_max))
    events = [_event(draw, kind, version) for version, kind in enumerate(kinds, start=1)]
    return History(events, draw(deliveries(events)))


@st.composite
def deliveries(draw: st.DrawFn, events: list[tuple[str, bytes]]) -> list[list[Message]]:
    """Draw one delivery: every event at least once, some repeated, in any order, split anywhere."""
    repeated = draw(st.lists(st.sampled_from(events), max_size=len(events)))
    order = draw(st.permutations(events + repeated))
    messages = [message(position, *event) for position, event in enumerate(order, start=1)]
    cuts = sorted(draw(st.sets(st.integers(1, len(messages)), max_size=4)) | {len(messages)})
    return [messages[start:end] for start, end in zip([0, *cuts], cuts, strict=False) if start < end]


def _event(draw: st.DrawFn, kind: str, version: int) -> tuple[str, bytes]:
    fields: dict[str, object] = {"customer": draw(st.integers(1, 2)), "campaign": draw(st.integers(1, 2))}
    if kind in ("customer.upserted.v1", "campaign.upserted.v1"):
        fields["owner_id"] = owner_id(draw(st.integers(1, 2)))
    if kind in ("campaign.upserted.v1", "campaign.status_changed.v1"):
        fields["status"] = draw(st.sampled_from(STATUSES))
    if kind == "campaign.upserted.v1":
        fields["name"] = draw(st.sampled_from(["Zürich", "zurich", "Ａ", "日本"]))
    if kind == "customer.upserted.v1":
        fields["deleted"] = draw(st.booleans())
    if kind == "target.enrolled.v1":
        fields["enrolled_at"] = f"2026-01-0{draw(st.integers(1, 3))}T00:00:00Z"
    return published(kind, version, **fields)
