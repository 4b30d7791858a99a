"""Signs development tokens with the configured secret, as an identity provider would."""

import time
from typing import Any

from joserfc import jwt
from joserfc.jwk import OctKey

from projections.identity_settings import ClaimPath
from projections.settings import Settings


def sign(secret: str, user_id: str, admin: bool, ttl_s: int) -> str:
    """Return a JWT (HS256) of this user that is valid from now for `ttl_s` seconds."""
    return _signed(secret, {"sub": user_id, "role": "admin" if admin else "user"}, ttl_s)


def sign_for(settings: Settings, user_id: str, admin: bool, ttl_s: int) -> str:
    """Return such a JWT with the issuer, the audience and the claims that an API with these settings expects."""
    claims: dict[str, Any] = {}
    if settings.jwt_issuer:
        claims["iss"] = settings.jwt_issuer[0]
    if settings.jwt_audience:
        claims["aud"] = settings.jwt_audience[0]
    if admin:
        _set(claims, settings.jwt_admin_claim or ("role",), settings.jwt_admin_value)
    _set(claims, settings.jwt_user_claim, user_id)
    return _signed(settings.jwt_secret, claims, ttl_s)


def _set(claims: dict[str, Any], path: ClaimPath, value: str) -> None:
    for name in path[:-1]:
        claims = claims.setdefault(name, {})
    claims[path[-1]] = value


def _signed(secret: str, claims: dict[str, Any], ttl_s: int) -> str:
    now = int(time.time())
    return jwt.encode({"alg": "HS256"}, claims | {"iat": now, "exp": now + ttl_s}, OctKey.import_key(secret))
