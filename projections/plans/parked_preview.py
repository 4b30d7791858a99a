"""Describes an action on parked events: which they are, and what a retry by this release would do.

Reads: parked_event of the live generation. Writes nothing: a retry is tried in a transaction that is rolled back.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import asyncpg

from projections.maintenance import parking
from projections.maintenance.sentences import counted
from projections.model.batch import read_batch
from projections.model.events import Message, Position
from projections.plans.actions import ParkedDiscard, ParkedRetry
from projections.plans.records import SAMPLE_MAX, Preview
from projections.plans.refusals import NothingToPlan
from projections.store import checkpoint as checkpoints
from projections.store.queries import Generation, for_generation

DECODED_AT_ONCE: Final = 200
"""Parked events read together: one may have 256 KB, or more if it was parked for its size."""
DECODE_MAX_S: Final = 2.0
"""The forecast of so many events that it would take longer covers the first ones, and says so."""
TRIED_MAX: Final = 1_000
"""Events that are also tried against the tables; more of them would delay the projector noticeably."""
TRIED_AT_ONCE: Final = 100
"""Events tried in one transaction, as many as a retry applies at once: the projector waits meanwhile."""
REASONS_SHOWN: Final = 5


class Forecast(NamedTuple):
    """What a retry would do, by position: the reason for which an event would stay parked."""

    still_parked: dict[int, tuple[str, str]]
    """Reason and detail."""
    tried: bool
    """Whether the tables were asked too."""
    decoded: int
    """How many events, the first ones, were decoded in `DECODE_MAX_S`."""


async def selected(connection: asyncpg.Connection, action: ParkedRetry | ParkedDiscard) -> list[int]:
    """Return the positions of the parked events that an action selects, in stream order."""
    name = await checkpoints.live_generation(connection)
    if action.positions is None:
        return await parking.positions(connection, name, action.selection)
    wanted = sorted(set(action.positions))
    return sorted(await parking.parked_among(connection, name, wanted))


def fingerprint(positions: Sequence[int]) -> str:
    """Return a digest of which events these are."""
    return hashlib.sha256(",".join(map(str, positions)).encode()).hexdigest()


async def preview(connection: asyncpg.Connection, action: ParkedRetry | ParkedDiscard) -> Preview:
    """Describe the action; raises `NothingToPlan` if it selects no event, or one that is not parked."""
    positions = await selected(connection, action)
    _require_some(action, positions)
    name = await checkpoints.live_generation(connection)
    if isinstance(action, ParkedDiscard):
        them = "it" if len(positions) == 1 else "them"
        events = counted(len(positions), "parked event")
        sentence = f"Discards {events}: no generation ever applies {them}. The stream keeps {them}."
        forecast, details = Forecast({}, tried=False, decoded=0), await _reasons(connection, name, positions)
    else:
        events = counted(len(positions), "parked event")
        sentence = f"Decodes {events} with this release and applies those that are valid."
        forecast = await forecast_retry(connection, name, positions)
        details = _forecast_details(positions, forecast)
    sample = await _sample(connection, name, positions, forecast, retried=isinstance(action, ParkedRetry))
    return Preview(len(positions), "event", fingerprint(positions), sentence, sample, details, positions)


def _require_some(action: ParkedRetry | ParkedDiscard, positions: Sequence[int]) -> None:
    if missing := sorted(set(action.positions or ()) - set(positions)):
        named = ", ".join(map(str, missing[:SAMPLE_MAX]))
        raise NothingToPlan(f"No event is parked at position {named}. Nothing was planned.")
    if not positions:
        raise NothingToPlan("No parked event matches. Nothing was planned.")


async def forecast_retry(connection: asyncpg.Connection, name: Generation, positions: Sequence[int]) -> Forecast:
    """Return which events this release cannot decode, and of a few, also which ones the tables refuse."""
    still_parked: dict[int, tuple[str, str]] = {}
    give_up_at = time.monotonic() + DECODE_MAX_S
    for start in range(0, len(positions), DECODED_AT_ONCE):
        if time.monotonic() > give_up_at:
            return Forecast(still_parked, tried=False, decoded=start)
        messages = await _messages(connection, name, positions[start : start + DECODED_AT_ONCE])
        for parked in read_batch(messages).parked if messages else ():
            still_parked[parked.message.position] = parked.why.reason, parked.why.detail
    decoded = [position for position in positions if position not in still_parked]
    if len(decoded) > TRIED_MAX:
        return Forecast(still_parked, tried=False, decoded=len(positions))
    for start in range(0, len(decoded), TRIED_AT_ONCE):
        still_parked |= await _try(connection, decoded[start : start + TRIED_AT_ONCE])
    return Forecast(still_parked, tried=True, decoded=len(positions))


async def _try(connection: asyncpg.Connection, positions: Sequence[int]) -> dict[int, tuple[str, str]]:
    """Retry in a transaction that is rolled back; the projector waits for as long as for a real retry."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        retried = await parking.retry(connection, positions, "a plan, rolled back")
    finally:
        await transaction.rollback()
    return {position: (why.reason, why.detail) for position, why in retried.still_parked.items()}


async def _messages(connection: asyncpg.Connection, name: Generation, positions: Sequence[int]) -> list[Message]:
    rows = await connection.fetch(
        for_generation(
            "SELECT position, subject, body FROM {generation}.parked_event WHERE position = any($1::bigint[]) "
            "ORDER BY position",
            name,
        ),
        list(positions),
    )
    return [Message(Position(row["position"]), row["subject"], bytes(row["body"]), 0) for row in rows]


def _forecast_details(positions: Sequence[int], forecast: Forecast) -> list[str]:
    still = len(forecast.still_parked)
    details = [f"{forecast.decoded - still:,} would apply, {still:,} still {'fails' if still == 1 else 'fail'}."]
    reasons = Counter(reason for reason, _ in forecast.still_parked.values())
    details += [f"{number:,} would stay parked: {reason}." for reason, number in reasons.most_common(REASONS_SHOWN)]
    if forecast.decoded < len(positions):
        details.append(
            f"This is known of the first {forecast.decoded:,} events; there was no time to decode the others."
        )
    elif not forecast.tried:
        details.append("The events were decoded, but not tried: the tables may refuse further ones.")
    return details


async def _reasons(connection: asyncpg.Connection, name: Generation, positions: Sequence[int]) -> list[str]:
    rows = await connection.fetch(
        for_generation(
            "SELECT reason, count(*) AS events FROM {generation}.parked_event WHERE position = any($1::bigint[]) "
            "GROUP BY reason ORDER BY 2 DESC, 1 LIMIT $2",
            name,
        ),
        list(positions),
        REASONS_SHOWN,
    )
    return [f"{counted(row['events'], 'event')} parked as {row['reason']}." for row in rows]


async def _sample(
    connection: asyncpg.Connection, name: Generation, positions: Sequence[int], forecast: Forecast, *, retried: bool
) -> list[dict[str, Any]]:
    """Return the newest of the events, with what a retry would do with each."""
    rows = await connection.fetch(
        for_generation(
            "SELECT position, subject, reason, detail FROM {generation}.parked_event "
            "WHERE position = any($1::bigint[]) ORDER BY position DESC",
            name,
        ),
        list(positions[-SAMPLE_MAX:]),
    )
    return [dict(row) | (_would(row["position"], forecast) if retried else {}) for row in rows]


def _would(position: int, forecast: Forecast) -> dict[str, Any]:
    if position not in forecast.still_parked:
        return {"outcome": "would_apply"} if forecast.tried else {}
    reason, detail = forecast.still_parked[position]
    return {"outcome": "still_parked", "now": {"reason": reason, "detail": detail}}
