"""The claims of a verified token: whether it is valid now and here, and whom it names.

`iat` is ignored: an issuer's clock ahead of ours must not invalidate a token. `nbf` may be NBF_LEEWAY_S ahead for the
same reason. `exp` has no leeway.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from projections.identity_settings import ClaimPath
from projections.settings import Settings
from service.identity import subjects
from service.identity.refusals import Refusal, Unauthenticated

NBF_LEEWAY_S: Final = 10
"""How far an issuer's clock may be ahead of ours; many issuers set `nbf` to the time of issue."""

Claims = Mapping[str, Any]


class ClaimRules(Struct, frozen=True):
    """What the configuration requires of claims, and which of them name the caller."""

    issuers: tuple[str, ...]
    audiences: tuple[str, ...]
    user_claim: ClaimPath
    maps_subjects: bool
    admin_claim: ClaimPath
    admin_value: str


def rules_of(settings: Settings) -> ClaimRules:
    """Return the rules of a configuration."""
    return ClaimRules(
        issuers=settings.jwt_issuer,
        audiences=settings.jwt_audience,
        user_claim=settings.jwt_user_claim,
        maps_subjects=settings.jwt_user_id == "uuid5",
        admin_claim=settings.jwt_admin_claim,
        admin_value=settings.jwt_admin_value,
    )


def require_valid(rules: ClaimRules, claims: Claims, now_s: float) -> float:
    """Return when the claims expire; raises `Unauthenticated` unless they are valid now and for this service."""
    expires, starts = _time(claims.get("exp")), _time(claims.get("nbf", 0))
    if expires is None:
        raise Unauthenticated(Refusal.EXPIRY_MISSING)
    if expires <= now_s:
        raise Unauthenticated(Refusal.TOKEN_EXPIRED)
    if starts is None or starts > now_s + NBF_LEEWAY_S:
        raise Unauthenticated(Refusal.NOT_YET_VALID)
    issuer = claims.get("iss")
    if rules.issuers and not (isinstance(issuer, str) and issuer in rules.issuers):
        raise Unauthenticated(Refusal.ISSUER_REFUSED)
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if rules.audiences and not any(accepted in audiences for accepted in rules.audiences):
        raise Unauthenticated(Refusal.AUDIENCE_REFUSED)
    return float(min(expires, now_s + _FAR_FUTURE_S))


_FAR_FUTURE_S: Final = 10**9
"""Larger than any caller of `require_valid` keeps a token; an integer claim may be too large for a float."""


def user_id(rules: ClaimRules, claims: Claims) -> str:
    """Return the user's id; raises `Unauthenticated` if the claims name none."""
    subject = _at(claims, rules.user_claim)
    found = subjects.user_id(subject, map_others=rules.maps_subjects) if isinstance(subject, str) else None
    if found is None:
        raise Unauthenticated(Refusal.NO_USER_ID)
    return found


def is_admin(rules: ClaimRules, claims: Claims) -> bool:
    """Return whether the claims name an admin: by the configured claim, otherwise by `role` or the list `roles`."""
    if rules.admin_claim:
        value = _at(claims, rules.admin_claim)
        return value == rules.admin_value or (isinstance(value, list) and rules.admin_value in value)
    roles = claims.get("roles")
    return claims.get("role") == rules.admin_value or (isinstance(roles, list) and rules.admin_value in roles)


def _at(claims: Claims, path: ClaimPath) -> object:
    """Return the value at a path; None if there is none."""
    value: object = claims
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _time(value: object) -> int | float | None:
    """Return a claim that is a NumericDate; None for others: NaN would never expire, and `true` equals 1."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if isinstance(value, int) or math.isfinite(value) else None
