"""`GET /ops/audit`: what operators have changed, newest first."""

from typing import Final

from msgspec import Struct

from projections.maintenance import audit
from projections.model.events import Instant
from service.operations import parameters
from service.operations.endpoint import Call, Endpoint


class AuditEntry(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One action of an operator."""

    audit_id: int
    at: Instant
    actor: str
    action: str
    position: int | None = None
    detail: str


class Audit(Struct, frozen=True, omit_defaults=True):
    """A page of the audit, newest first."""

    entries: list[AuditEntry]
    next_cursor: int | None = None
    """The `before` of the next page; absent on the last page."""


async def show_audit(call: Call) -> Audit:
    """Return a page of the audit."""
    limit: int = call.values["limit"]
    async with call.services.database.snapshot() as connection:
        rows = await audit.page(connection, call.values["before"], call.values["action"], limit + 1)
    entries = [AuditEntry(**row) for row in rows[:limit]]
    return Audit(entries, entries[-1].audit_id if len(rows) > limit else None)


ENDPOINTS: Final = (
    Endpoint(
        "/audit",
        "operator_audit",
        "What have operators changed?",
        show_audit,
        Audit,
        (
            parameters.before("entries"),
            parameters.words("action", "Only this action, such as `parked.retry`; or all whose name begins with it."),
            parameters.limit(),
        ),
    ),
)
