"""The write side as most teams would build it, well tuned: FastStream on JetStream, SQLAlchemy 2, pydantic 2.

Started as `python -m benchmarks.peers.faststream_app --nats-url URL --database-url URL [--workers N]`.
Every event is one statement and one transaction, acknowledged after the commit. Versions decide, not order, so events
are handled concurrently. An invalid body is rejected permanently; any other failure is redelivered.
"""

import argparse
import asyncio
import os
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

import uvloop
from faststream import AckPolicy, FastStream
from faststream.exceptions import RejectMessage
from faststream.nats import JStream, NatsBroker, NatsMessage, PullSub
from nats.js.api import AckPolicy as ConsumerAckPolicy
from nats.js.api import ConsumerConfig
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from sqlalchemy import Table, bindparam, case, func, or_
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.peers.durables import ACK_PENDING_MAX, DURABLES, STREAM
from benchmarks.peers.shapes import CampaignCallWindow, CampaignGoalSpec, CampaignStageOut, Channel, Status
from benchmarks.peers.tables import COUNTERS, STATUS_ORDER, campaign, campaign_target, counters, customer, engine
from projections.model.search_key import search_key

WORKERS: Final = 16
"""Concurrent events per family; more would only wait for the same two cores."""
CONNECTIONS: Final = 20
PULL_EVENTS: Final = 500
PULL_WAIT_S: Final = 1.0
INT64_MAX: Final = 2**63 - 1


# --- The events ------------------------------------------------------------------------------------------------------

Id = Annotated[str, Field(pattern=r"\A[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\z")]
Version = Annotated[int, Field(ge=1, le=INT64_MAX)]
Count = Annotated[int, Field(ge=0, le=INT64_MAX)]


class Strict(BaseModel):
    """Accepts JSON types exactly, without coercion."""

    model_config = ConfigDict(strict=True, frozen=True)


def _with_types(goal_spec: Any) -> Any:  # noqa: ANN401 - decoded JSON
    """Add the type that docs/events.md defines to objectives without one."""
    if not isinstance(goal_spec, dict) or not isinstance(goal_spec.get("objectives"), list):
        return goal_spec
    return goal_spec | {"objectives": [_with_type(objective) for objective in goal_spec["objectives"]]}


def _with_type(objective: Any) -> Any:  # noqa: ANN401 - decoded JSON
    if not isinstance(objective, dict) or objective.get("type") is not None:
        return objective
    is_ai = objective.keys() & {"label_in", "min_score"} and "channels" not in objective
    return objective | {"type": "ai" if is_ai else "contact"}


class CustomerUpserted(Strict):
    """A customer exists."""

    customer_id: Id
    version: Version
    owner_id: Id
    deleted: bool | None = None


class CampaignUpserted(Strict):
    """A campaign's definition."""

    campaign_id: Id
    version: Version
    owner_id: Id
    name: str
    status: Status
    agent_id: Id
    first_contact_channel: Channel
    whatsapp_after_attempts: int
    created_at: AwareDatetime | None = None
    agent_name: str | None = None
    phone_number_id: Id | None = None
    phone_number: str | None = None
    whatsapp_channel_id: Id | None = None
    goal: str | None = None
    goal_spec: Annotated[CampaignGoalSpec, BeforeValidator(_with_types)] | None = None
    call_opening_message: str | None = None
    whatsapp_first_message: str | None = None
    call_attempt_delays: list[int] | None = None
    call_working_hours: CampaignCallWindow | None = None
    stages: list[CampaignStageOut] | None = None


class CampaignStatusChanged(Strict):
    """A campaign has a new status."""

    campaign_id: Id
    version: Version
    status: Status


class CampaignDeletion(Strict):
    """A campaign is deleted or restored; the type says which."""

    campaign_id: Id
    version: Version


class CountersChanged(Strict):
    """A campaign's counters."""

    campaign_id: Id
    version: Version
    contacts_total: Count
    contacts_contacted: Count
    contacts_remaining: Count
    contacts_to_recall: Count
    contacts_failed: Count
    contacts_succeeded: Count
    progress: Annotated[float, Field(allow_inf_nan=False)]


class TargetEnrolled(Strict):
    """A customer is in a campaign."""

    target_id: Id
    customer_id: Id
    campaign_id: Id
    version: Version
    enrolled_at: AwareDatetime
    source: str | None = None


class TargetPresence(Strict):
    """A customer is out of a campaign or in it again; the type says which."""

    target_id: Id
    customer_id: Id
    campaign_id: Id
    version: Version
    reason: str | None = None


class Envelope(Strict):
    """The CloudEvents attributes."""

    specversion: Literal["1.0"]
    id: Annotated[str, Field(min_length=1, max_length=128)]
    source: Annotated[str, Field(min_length=1)]
    time: AwareDatetime


class CustomerUpsertedEvent(Envelope):
    """`customer.upserted.v1`."""

    type: Literal["customer.upserted.v1"]
    data: CustomerUpserted


class CampaignUpsertedEvent(Envelope):
    """`campaign.upserted.v1`."""

    type: Literal["campaign.upserted.v1"]
    data: CampaignUpserted


class CampaignStatusChangedEvent(Envelope):
    """`campaign.status_changed.v1`."""

    type: Literal["campaign.status_changed.v1"]
    data: CampaignStatusChanged


class CampaignDeletionEvent(Envelope):
    """`campaign.deleted.v1` and `campaign.restored.v1`."""

    type: Literal["campaign.deleted.v1", "campaign.restored.v1"]
    data: CampaignDeletion


class CountersChangedEvent(Envelope):
    """`campaign.counters_changed.v1`."""

    type: Literal["campaign.counters_changed.v1"]
    data: CountersChanged


class TargetEnrolledEvent(Envelope):
    """`target.enrolled.v1`."""

    type: Literal["target.enrolled.v1"]
    data: TargetEnrolled


class TargetPresenceEvent(Envelope):
    """`target.removed.v1` and `target.restored.v1`."""

    type: Literal["target.removed.v1", "target.restored.v1"]
    data: TargetPresence


CampaignEvent = Annotated[
    CampaignUpsertedEvent | CampaignStatusChangedEvent | CampaignDeletionEvent, Field(discriminator="type")
]
TargetEvent = Annotated[TargetEnrolledEvent | TargetPresenceEvent, Field(discriminator="type")]


# --- Statements: insert, or update if the event's version is higher than the stored one ------------------------------


def _upsert(table: Table, version: str, written: tuple[str, ...]) -> Insert:
    """Return the upsert of one register."""
    statement = insert(table)
    values = {name: statement.excluded[name] for name in (version, *written)}
    return statement.on_conflict_do_update(
        index_elements=list(table.primary_key),
        set_=values,
        where=table.c[version] < statement.excluded[version],
    )


def _upsert_two(table: Table, registers: dict[str, tuple[str, ...]]) -> Insert:
    """Return the upsert of two registers, each by its own version."""
    statement = insert(table)
    values: dict[str, Any] = {}
    for version, written in registers.items():
        higher = table.c[version] < statement.excluded[version]
        values[version] = func.greatest(table.c[version], statement.excluded[version])
        values |= {name: case((higher, statement.excluded[name]), else_=table.c[name]) for name in written}
    return statement.on_conflict_do_update(
        index_elements=list(table.primary_key),
        set_=values,
        where=or_(*(table.c[version] < statement.excluded[version] for version in registers)),
    )


_SHOWN: Final = (
    "name",
    "agent_id",
    "agent_name",
    "phone_number_id",
    "phone_number",
    "whatsapp_channel_id",
    "goal",
    "goal_spec",
    "first_contact_channel",
    "call_opening_message",
    "whatsapp_first_message",
    "whatsapp_after_attempts",
    "call_attempt_delays",
    "call_working_hours",
    "stages",
)
_DEFINITION: Final = ("owner_id", "created_at", *_SHOWN, "name_key", "goal_key", "agent_name_key")

WRITE_CUSTOMER: Final = _upsert(customer, "version", ("owner_id", "deleted"))
WRITE_DEFINITION: Final = _upsert_two(campaign, {"definition_version": _DEFINITION, "status_version": ("status",)})
WRITE_STATUS: Final = _upsert(campaign, "status_version", ("status",))
WRITE_DELETION: Final = _upsert(campaign, "deletion_version", ("deleted",))
WRITE_COUNTERS: Final = _upsert(counters, "version", (*COUNTERS, "progress"))
WRITE_ENROLMENT: Final = _upsert_two(
    campaign_target,
    {
        "enrolment_version": ("target_id", "enrolled_at", "source"),
        "presence_version": ("present", "presence_reason"),
    },
    # The first enrolment creates the customer, in the same statement and so in the same transaction.
).add_cte(
    insert(customer)
    .values(customer_id=bindparam("enrolled_customer", type_=customer.c.customer_id.type))
    .on_conflict_do_nothing()
    .cte("known")
)
WRITE_PRESENCE: Final = _upsert(campaign_target, "presence_version", ("present", "presence_reason"))


# --- Handlers --------------------------------------------------------------------------------------------------------


class Writer:
    """Writes one event per call."""

    def __init__(self, tables: AsyncEngine) -> None:
        self._tables = tables

    async def customer(self, event: CustomerUpsertedEvent) -> None:
        """Write `membership.customer.*`."""
        fields = event.data.model_dump()
        await self._write(WRITE_CUSTOMER, fields | {"deleted": event.data.deleted or False})

    async def campaign(self, event: CampaignEvent) -> None:
        """Write `membership.campaign.*`."""
        of_campaign = {"campaign_id": event.data.campaign_id}
        version = event.data.version
        match event:
            case CampaignUpsertedEvent(data=data):
                await self._write(WRITE_DEFINITION, of_campaign | _definition(data))
            case CampaignStatusChangedEvent(data=data):
                status = STATUS_ORDER.index(data.status)
                await self._write(WRITE_STATUS, of_campaign | {"status_version": version, "status": status})
            case CampaignDeletionEvent(type=kind):
                deleted = kind == "campaign.deleted.v1"
                await self._write(WRITE_DELETION, of_campaign | {"deletion_version": version, "deleted": deleted})

    async def counters(self, event: CountersChangedEvent) -> None:
        """Write `membership.counters.*`."""
        await self._write(WRITE_COUNTERS, event.data.model_dump())

    async def target(self, event: TargetEvent) -> None:
        """Write `membership.target.*.*`."""
        data = event.data
        presence = {
            "customer_id": data.customer_id,
            "campaign_id": data.campaign_id,
            "presence_version": data.version,
            "present": event.type != "target.removed.v1",
        }
        if isinstance(data, TargetPresence):
            await self._write(WRITE_PRESENCE, presence | {"presence_reason": data.reason})
            return
        enrolment = {
            "presence_reason": None,
            "enrolment_version": data.version,
            "target_id": data.target_id,
            "enrolled_at": data.enrolled_at,
            "source": data.source,
            "enrolled_customer": data.customer_id,
        }
        await self._write(WRITE_ENROLMENT, presence | enrolment)

    async def _write(self, statement: Insert, row: dict[str, Any]) -> None:
        async with self._tables.connect() as connection:
            await connection.execute(statement, row)


def _definition(data: CampaignUpserted) -> dict[str, Any]:
    shown = {name: getattr(data, name) for name in _SHOWN}
    for name, part in {"goal_spec": data.goal_spec, "call_working_hours": data.call_working_hours}.items():
        shown[name] = part and part.model_dump(mode="json", exclude_none=True)
    if data.stages is not None:
        shown["stages"] = [stage.model_dump(mode="json", exclude_none=True) for stage in data.stages]
    keys = {"name_key": data.name, "goal_key": data.goal, "agent_name_key": data.agent_name}
    return (
        shown
        | {name: None if text is None else search_key(text) for name, text in keys.items()}
        | {
            "definition_version": data.version,
            "owner_id": data.owner_id,
            "created_at": data.created_at,
            "status_version": data.version,
            "status": STATUS_ORDER.index(data.status),
        }
    )


def _decoder(event: Any) -> Callable[[NatsMessage], Any]:  # noqa: ANN401 - a type, or a union of some
    """Return the decoder of a family: pydantic's core parses and validates in one pass."""
    adapter: TypeAdapter[Any] = TypeAdapter(event)

    async def decode(message: NatsMessage) -> Any:  # noqa: ANN401 - the event
        try:
            return adapter.validate_json(message.body)
        except ValidationError as problem:
            raise RejectMessage from problem

    return decode


def application(nats_url: str, tables: AsyncEngine, workers: int) -> FastStream:
    """Return the application: a durable pull consumer for each family of subjects."""
    # The decoders already check all types, and one log line per event would cost more than anything else.
    broker = NatsBroker(nats_url, apply_types=False, logger=None)
    writer = Writer(tables)
    families: dict[str, tuple[Any, Any]] = {
        "customer": (CustomerUpsertedEvent, writer.customer),
        "campaign": (CampaignEvent, writer.campaign),
        "counters": (CountersChangedEvent, writer.counters),
        "target": (TargetEvent, writer.target),
    }
    for family, (event, handler) in families.items():
        durable, subject = DURABLES[family]
        subscriber = broker.subscriber(
            subject,
            stream=JStream(STREAM, declare=False),
            durable=durable,
            config=ConsumerConfig(ack_policy=ConsumerAckPolicy.EXPLICIT, max_ack_pending=ACK_PENDING_MAX),
            pull_sub=PullSub(batch_size=PULL_EVENTS, timeout=PULL_WAIT_S),
            decoder=_decoder(event),
            max_workers=workers,
            ack_policy=AckPolicy.NACK_ON_ERROR,
            no_reply=True,
        )
        subscriber(handler)
    return FastStream(broker, logger=None, after_shutdown=[tables.dispose])


async def consume(nats_url: str, database_url: str, workers: int) -> None:
    """Apply events until stopped by a signal."""
    await application(nats_url, engine(database_url, CONNECTIONS), workers).run()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.faststream_app", description=__doc__)
    parser.add_argument("--nats-url", default=os.environ.get("PEER_NATS_URL"), help="or PEER_NATS_URL")
    parser.add_argument("--database-url", default=os.environ.get("PEER_DATABASE_URL"), help="or PEER_DATABASE_URL")
    parser.add_argument("--workers", type=int, default=WORKERS, help="concurrent events per family")
    arguments = parser.parse_args()
    if not arguments.nats_url or not arguments.database_url:
        parser.error("--nats-url and --database-url are required")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(consume(arguments.nats_url, arguments.database_url, arguments.workers))


if __name__ == "__main__":
    main()
