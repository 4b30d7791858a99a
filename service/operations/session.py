"""`GET /ops/session`: who the operator is, and until when the credentials are valid."""

from datetime import UTC, datetime
from importlib.metadata import version
from typing import Final

from msgspec import Struct

from projections.model.events import Instant
from service.operations.endpoint import Call, Endpoint

RELEASE: Final = version("campaign-membership")


class Session(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The caller, as the API knows it."""

    user_id: str
    is_admin: bool
    scopes: list[str]
    release: str
    """The version of this API process."""
    expires_at: Instant | None = None
    """When the credentials expire; absent for an API key without expiry."""


async def show_session(call: Call) -> Session:
    """Return who the caller is."""
    principal = call.principal
    expires_s = principal.expires_s
    return Session(
        user_id=principal.user_id,
        is_admin=principal.is_admin,
        scopes=sorted(principal.scopes),
        release=RELEASE,
        expires_at=None if expires_s is None else datetime.fromtimestamp(expires_s, UTC),
    )


ENDPOINTS: Final = (Endpoint("/session", "operator_session", "Who am I?", show_session, Session),)
