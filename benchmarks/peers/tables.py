"""The peers' tables (schema.sql) for SQLAlchemy Core, and an engine tuned for speed."""

from typing import Any, Final

import orjson
from sqlalchemy import ARRAY, BigInteger, Boolean, Column, DateTime, Float, MetaData, SmallInteger, Table, Text, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

STATUS_ORDER: Final = ("draft", "running", "paused", "done")
"""A status is stored as its index here."""
COUNTERS: Final = (
    "contacts_total",
    "contacts_contacted",
    "contacts_remaining",
    "contacts_to_recall",
    "contacts_failed",
    "contacts_succeeded",
)

PREPARED_STATEMENTS: Final = 500
"""How many stay prepared per connection; more than the peers use."""

_PEER: Final = MetaData(schema="peer")

customer: Final = Table(
    "customer",
    _PEER,
    Column("customer_id", Uuid, primary_key=True),
    Column("version", BigInteger),
    Column("owner_id", Uuid),
    Column("deleted", Boolean),
)

campaign: Final = Table(
    "campaign",
    _PEER,
    Column("campaign_id", Uuid, primary_key=True),
    Column("definition_version", BigInteger),
    Column("owner_id", Uuid),
    Column("created_at", DateTime(timezone=True)),
    Column("name", Text),
    Column("agent_id", Uuid),
    Column("agent_name", Text),
    Column("phone_number_id", Uuid),
    Column("phone_number", Text),
    Column("whatsapp_channel_id", Uuid),
    Column("goal", Text),
    Column("goal_spec", JSONB(none_as_null=True)),
    Column("first_contact_channel", Text),
    Column("call_opening_message", Text),
    Column("whatsapp_first_message", Text),
    Column("whatsapp_after_attempts", BigInteger),
    Column("call_attempt_delays", ARRAY(BigInteger)),
    Column("call_working_hours", JSONB(none_as_null=True)),
    Column("stages", JSONB(none_as_null=True)),
    Column("name_key", Text(collation="C")),
    Column("goal_key", Text(collation="C")),
    Column("agent_name_key", Text(collation="C")),
    Column("status_version", BigInteger),
    Column("status", SmallInteger),
    Column("deletion_version", BigInteger),
    Column("deleted", Boolean),
)

counters: Final = Table(
    "counters",
    _PEER,
    Column("campaign_id", Uuid, primary_key=True),
    Column("version", BigInteger),
    *(Column(name, BigInteger) for name in COUNTERS),
    Column("progress", Float),
)

campaign_target: Final = Table(
    "campaign_target",
    _PEER,
    Column("customer_id", Uuid, primary_key=True),
    Column("campaign_id", Uuid, primary_key=True),
    Column("enrolment_version", BigInteger),
    Column("target_id", Uuid),
    Column("enrolled_at", DateTime(timezone=True)),
    Column("source", Text),
    Column("presence_version", BigInteger),
    Column("present", Boolean),
    Column("presence_reason", Text),
)


def engine(database_url: str, connections: int, **session: str) -> AsyncEngine:
    """Return an asyncpg engine in autocommit mode.

    So no BEGIN or ROLLBACK is sent; statements stay prepared in their connection.
    """
    settings: dict[str, Any] = {"timezone": "UTC", "jit": "off"} | session
    return create_async_engine(
        "postgresql+asyncpg" + database_url.removeprefix("postgresql"),
        isolation_level="AUTOCOMMIT",
        pool_size=connections,
        max_overflow=0,
        pool_reset_on_return=None,
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=orjson.loads,
        connect_args={"server_settings": settings, "prepared_statement_cache_size": PREPARED_STATEMENTS},
    )
