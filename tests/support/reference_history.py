"""The expected outcome of every event of a stream, slow and obvious: it shares no code with the service.

Each register is followed by itself: which messages wrote it, in stream order, and which of these won.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from tests.support.reference_model import ENVELOPE, WRITES, ParkedError, entity_of, parsed, read_event


class Sent(NamedTuple):
    """A message of the stream."""

    position: int
    subject: str
    body: bytes


class Write(NamedTuple):
    """A valid event that offers a value to a register."""

    position: int
    version: int


def expected_history(messages: Sequence[Sent]) -> dict[int, dict[str, Any]]:
    """Return position → outcome, and superseded_by if it has one, of each message."""
    ordered = sorted(messages)
    writes = _writes(ordered)
    return {message.position: _outcome(message, ordered, writes) for message in ordered}


@lru_cache(maxsize=10_000)
def _event(message: Sent) -> tuple[str, dict[str, Any], str] | None:
    """Return type, data and id of a valid event; None for a message that is parked."""
    try:
        event_type, event = read_event(message.subject, message.body)
        envelope = ENVELOPE(parsed(message.body))
    except ParkedError:
        return None
    return event_type, event, envelope["id"]


def _writes(ordered: Sequence[Sent]) -> dict[tuple[str, Any], list[Write]]:
    registers: dict[tuple[str, Any], list[Write]] = {}
    for message in ordered:
        found = _event(message)
        if found is not None:
            event_type, event, _ = found
            for register in WRITES[event_type]:
                key = register, entity_of(register, event)
                registers.setdefault(key, []).append(Write(message.position, event["version"]))
    return registers


def _outcome(message: Sent, ordered: Sequence[Sent], registers: dict[tuple[str, Any], list[Write]]) -> dict[str, Any]:
    found = _event(message)
    if found is None:
        return {"outcome": "parked"}
    event_type, event, event_id = found
    won_until: list[int | None] = []
    lost_to: list[int] = []
    for register in WRITES[event_type]:
        writes = registers[register, entity_of(register, event)]
        earlier = [write for write in writes if write.position < message.position]
        best = max(earlier, key=lambda write: (write.version, -write.position), default=None)
        if best is not None and best.version >= event["version"]:
            lost_to.append(best.position)
        else:
            later = [write for write in writes if write.position > message.position]
            won_until.append(next((write.position for write in later if write.version > event["version"]), None))
    if won_until:
        ended = [position for position in won_until if position is not None]
        superseded = {"superseded_by": max(ended)} if len(ended) == len(won_until) else {}
        return {"outcome": "applied", **superseded}
    if _was_seen(message, event_id, event["version"], ordered):
        return {"outcome": "duplicate"}
    return {"outcome": "superseded", "superseded_by": max(lost_to)}


def _was_seen(message: Sent, event_id: str, version: int, ordered: Sequence[Sent]) -> bool:
    for other in ordered:
        if other.position >= message.position:
            return False
        found = _event(other) if other.subject == message.subject else None
        if found is not None and (found[2], found[1]["version"]) == (event_id, version):
            return True
    return False
