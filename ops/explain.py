"""`membership explain`: why a customer is, or is not, shown in its campaigns, in sentences and event by event.

Reads: the live generation, in one snapshot, and the stream up to its position. The sentences are the API's.
"""

import json
from collections import Counter
from datetime import datetime
from typing import Any, Final

import asyncpg

from consumers.broker_access import BrokerAccess
from consumers.subject_reader import SubjectReader
from ops.terminal import fail, format_time, print_table, progress
from projections.maintenance.sentences import counted
from projections.model.events import SUBJECT_ROOT
from projections.model.explanation import MembershipState, answer
from projections.model.explanation import explain as sentence_of
from projections.model.history import HistoryEvent, HistoryFold
from projections.model.quoting import printable
from projections.settings import Settings
from projections.store import checkpoint as checkpoints
from projections.store.checkpoint import Checkpoint
from projections.store.membership_history import (
    BEFORE_ALL_IDS,
    EVENTS_MAX,
    MessageReader,
    add_subject,
    customer_exists,
    read_history,
    read_memberships,
    read_registers,
)

SILENCE_MAX_S: Final = 10.0
"""How long the broker may take for each step: it looks for a customer's subjects among millions."""
CUSTOMER_EVENTS_MAX: Final = 200_000
"""Events of one customer's memberships that are read at most; 100,000 take some 250 MB of memory."""
CUSTOMER_BYTES_MAX: Final = 1024 * 1024 * 1024
PAGE_MEMBERSHIPS: Final = 1_000
HEADINGS: Final = ("position", "time", "type", "version", "outcome", "source", "id", "detail")


async def explain(
    connection: asyncpg.Connection, settings: Settings, customer_id: str, campaign_id: str | None, *, as_json: bool
) -> int:
    """Print why the customer is shown in a campaign or not, or in every campaign; return the exit code."""
    reader = SubjectReader(BrokerAccess.of(settings), "membership-explain", SILENCE_MAX_S)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            live = await checkpoints.read(connection, await checkpoints.live_generation(connection))
            if not await customer_exists(connection, live.generation, customer_id):
                return fail(f"There is no customer {customer_id}: no event or enrolment of it is applied.")
            if campaign_id is None:
                return await _explain_all(connection, reader, live, customer_id, as_json=as_json)
            return await _explain_one(connection, reader, live, customer_id, campaign_id, as_json=as_json)
    finally:
        await reader.close()


async def _explain_one(
    connection: asyncpg.Connection,
    reader: MessageReader,
    live: Checkpoint,
    customer_id: str,
    campaign_id: str,
    *,
    as_json: bool,
) -> int:
    registers = await read_registers(connection, live.generation, customer_id, campaign_id, scope=None)
    if registers.state is None:
        return fail(f"There is no campaign {campaign_id}: no event or enrolment of it is applied.")
    history = await read_history(connection, reader, registers.state, live)
    if as_json:
        print(answer(registers.state, history, history.events, EVENTS_MAX).decode())
        return 0
    print(sentence_of(registers.state, history))
    if history.events:
        print_table(HEADINGS, [_cells(event) for event in history.events], folded={"id", "source", "detail"})
    return 0


async def _explain_all(
    connection: asyncpg.Connection, reader: MessageReader, live: Checkpoint, customer_id: str, *, as_json: bool
) -> int:
    """Print one sentence per membership; the events of all are found by one read of the customer's subjects."""
    history = await _read_all(connection, reader, live, customer_id)
    verdicts: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    after = BEFORE_ALL_IDS
    while states := await read_memberships(connection, live.generation, customer_id, after, PAGE_MEMBERSHIPS):
        after = states[-1].campaign_id
        verdicts.update(state.verdict for state in states)
        if as_json:
            rows += [_row(state, history) for state in states]
        else:
            for state in states:
                print(f"{state.campaign_id}  {sentence_of(state, history)}")
    if as_json:
        print(json.dumps({"customer_id": customer_id, "position": live.position, "memberships": rows}))
    else:
        print(_summary(verdicts, live))
    return 0


async def _read_all(
    connection: asyncpg.Connection, reader: MessageReader, live: Checkpoint, customer_id: str
) -> HistoryFold:
    history = HistoryFold(keep_events=False)
    await reader.count([], live)  # refuses a stream that is not the one that was applied
    with progress() as bar:
        task = bar.add_task("reading events", total=None)
        await add_subject(
            connection,
            reader,
            history,
            f"{SUBJECT_ROOT}.target.{customer_id}.*",
            live,
            events_max=CUSTOMER_EVENTS_MAX,
            bytes_max=CUSTOMER_BYTES_MAX,
            on_slice=lambda events: bar.advance(task, events),
        )
    return history


def _row(state: MembershipState, history: HistoryFold) -> dict[str, Any]:
    enrolled = (
        {} if state.enrolled_at is None else {"enrolled_at": state.enrolled_at.isoformat().replace("+00:00", "Z")}
    )
    verdict = {"visible": state.verdict == "visible", "reason": state.verdict}
    return {"campaign_id": state.campaign_id} | verdict | {"detail": sentence_of(state, history)} | enrolled


def _summary(verdicts: Counter[str], live: Checkpoint) -> str:
    each = ", ".join(f"{number:,} {verdict}" for verdict, number in sorted(verdicts.items()))
    return f"{counted(verdicts.total(), 'membership')}{each and f': {each}'}, as of position {live.position}."


def _cells(event: HistoryEvent) -> tuple[str, ...]:
    texts = (event.type, event.version, _outcome(event), event.source, event.id, event.detail)
    return (str(event.position), _time(event.time), *(printable(text or "") for text in texts))


def _outcome(event: HistoryEvent) -> str:
    if event.superseded_by is None:
        return event.outcome
    return f"{event.outcome}{', superseded' if event.outcome == 'applied' else ''} by {event.superseded_by}"


def _time(instant: datetime | None) -> str:
    """Return a time in UTC, or with its own offset if that is outside the years that UTC can express."""
    if instant is None:
        return ""
    return instant.isoformat(timespec="seconds") if instant.utcoffset() else format_time(instant)
