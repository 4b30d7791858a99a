"""`GET /ops/keys`: the API keys, newest first; never a key itself, of which only a hash is stored."""

from datetime import UTC, datetime
from typing import Final, Literal

from msgspec import Struct

from projections import api_keys
from projections.api_keys import ApiKey, Scope
from projections.model.events import Instant
from service.operations import parameters
from service.operations.endpoint import Call, Endpoint


class ShownKey(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An API key without its secret."""

    key_id: str
    name: str
    user_id: str
    is_admin: bool
    scopes: list[Scope]
    created_at: Instant
    expires_at: Instant | None = None
    revoked_at: Instant | None = None
    last_used_at: Instant | None = None
    """The hour of the last use."""
    replaced_by: str | None = None
    """The key that a rotation made in its place."""
    state: Literal["valid", "expired", "revoked"]


class Keys(Struct, frozen=True, omit_defaults=True):
    """A page of the keys, newest first."""

    keys: list[ShownKey]
    next_cursor: str | None = None
    """The `before` of the next page; absent on the last page."""


async def list_keys(call: Call) -> Keys:
    """Return a page of the API keys."""
    limit: int = call.values["limit"]
    async with call.services.database.snapshot() as connection:
        found = await api_keys.page(connection, call.values["before"], limit + 1)
    now = datetime.now(UTC)
    return Keys([_shown(key, now) for key in found[:limit]], found[limit - 1].key_id if len(found) > limit else None)


def _shown(key: ApiKey, now: datetime) -> ShownKey:
    return ShownKey(
        key_id=key.key_id,
        name=key.label,
        user_id=key.user_id,
        is_admin=key.is_admin,
        scopes=sorted(key.scopes),
        created_at=key.created_at,
        expires_at=key.expires_at,
        revoked_at=key.revoked_at,
        last_used_at=key.last_used_at,
        replaced_by=key.replaced_by,
        state=_state(key, now),
    )


def _state(key: ApiKey, now: datetime) -> Literal["valid", "expired", "revoked"]:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= now else "valid"


ENDPOINTS: Final = (
    Endpoint(
        "/keys",
        "operator_keys",
        "Which API keys are there?",
        list_keys,
        Keys,
        (parameters.words("before", "`next_cursor` of the previous page."), parameters.limit()),
    ),
)
