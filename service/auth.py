"""Authentication: turns a bearer token or an API key into a principal.

Fails: `Unauthenticated` for anything but valid credentials; `database.UNAVAILABLE` when a key cannot be looked up,
so that an outage never makes a valid key look invalid.
"""

import hashlib
import math
import re
import time
from typing import Any, Final

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey
from joserfc.jwt import JWTClaimsRegistry
from msgspec import Struct

from projections import api_keys
from projections.settings import Settings
from projections.store.database import ReadPool

ALGORITHMS: Final = ("HS256",)
"""Fixed for our key; the algorithm in a token's header is never trusted."""
API_KEY_CACHED_S: Final = 2.0
"""How long a valid key is accepted without another lookup; a revocation must take effect everywhere within 5 s."""
API_KEYS_CACHED_MAX: Final = 10_000
TOKEN_CACHED_S: Final = 60.0
"""How long a verified token is accepted without verifying it again, and never beyond its `exp`."""
TOKENS_CACHED_MAX: Final = 10_000
CREDENTIAL_BYTES_MAX: Final = 8_192
"""A longer header value is rejected unread: real tokens are shorter, and hashing and decoding take time per byte."""
UUID_TEXT: Final = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
"""The only accepted form of `sub`; `uuid.UUID` also takes braces, `urn:`, underscores and other scripts' digits."""


class Principal(Struct, frozen=True):
    """An authenticated caller. A non-admin sees only what `user_id` owns."""

    user_id: str
    is_admin: bool

    @property
    def scope(self) -> str | None:
        """The owner to which reads are restricted; None for an admin, who sees everything."""
        return None if self.is_admin else self.user_id


class Unauthenticated(Exception):
    """The credentials are missing, invalid, or name two different principals."""


class Authenticator:
    """Verifies credentials; caches valid ones briefly, by their hash."""

    def __init__(self, settings: Settings, pool: ReadPool) -> None:
        self._key = OctKey.import_key(settings.jwt_secret)
        self._claims = JWTClaimsRegistry(leeway=0, **_options(settings))
        self._pool = pool
        self._key_cache: dict[bytes, tuple[Principal, float]] = {}
        self._token_cache: dict[bytes, tuple[Principal, float]] = {}

    async def principal(self, authorization: list[str], api_key: list[str]) -> Principal:
        """Return the principal of these header values; when both kinds are sent, both must be valid and agree."""
        if len(authorization) > 1 or len(api_key) > 1 or not (authorization or api_key):
            raise Unauthenticated
        if any(len(value) > CREDENTIAL_BYTES_MAX for value in (*authorization, *api_key)):
            raise Unauthenticated
        principals = {self._from_token(value) for value in authorization}
        for value in api_key:
            principals.add(await self._from_api_key(value))
        if len(principals) != 1:
            raise Unauthenticated
        return principals.pop()

    def cached_principal(self, authorization: bytes) -> Principal | None:
        """Return the principal of a recently verified header value; None when it must be verified."""
        if len(authorization) > CREDENTIAL_BYTES_MAX:
            return None
        cached = self._token_cache.get(_digest(authorization))
        return cached[0] if cached is not None and time.time() < cached[1] else None

    def _from_token(self, authorization: str) -> Principal:
        raw = authorization.encode("latin-1", "replace")
        cached = self.cached_principal(raw)
        if cached is not None:
            return cached
        principal, expires = self._verify(authorization)
        if len(self._token_cache) >= TOKENS_CACHED_MAX:
            self._token_cache.clear()
        self._token_cache[_digest(raw)] = (principal, min(expires, time.time() + TOKEN_CACHED_S))
        return principal

    def _verify(self, authorization: str) -> tuple[Principal, float]:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated
        try:  # hostile tokens fail in many ways
            claims = jwt.decode(token.strip(), self._key, algorithms=ALGORITHMS).claims
            claims.pop("iat", None)  # an issuer's clock ahead of ours must not invalidate a token
            self._claims.validate(claims)
            return _principal(claims), float(claims["exp"])
        except (
            JoseError,
            ValueError,
            TypeError,
            ArithmeticError,
            RecursionError,
        ) as problem:
            raise Unauthenticated from problem

    async def _from_api_key(self, key: str) -> Principal:
        if api_keys.key_id_of(key) is None:
            raise Unauthenticated
        digest = _digest(key.encode())
        cached = self._key_cache.get(digest)
        if cached is not None and time.monotonic() < cached[1]:
            return cached[0]
        self._key_cache.pop(digest, None)
        owner = await api_keys.find(self._pool, key)
        if owner is None:
            raise Unauthenticated
        principal = Principal(*owner)
        if len(self._key_cache) >= API_KEYS_CACHED_MAX:
            self._key_cache.clear()
        self._key_cache[digest] = (principal, time.monotonic() + API_KEY_CACHED_S)
        return principal


def _digest(credential: bytes) -> bytes:
    return hashlib.blake2b(credential, digest_size=16).digest()


def _options(settings: Settings) -> dict[str, Any]:
    options: dict[str, Any] = {"exp": {"essential": True}, "sub": {"essential": True}}
    if settings.jwt_issuer:
        options["iss"] = {"essential": True, "value": settings.jwt_issuer}
    if settings.jwt_audience:
        options["aud"] = {"essential": True, "value": settings.jwt_audience}
    return options


def _principal(claims: dict[str, Any]) -> Principal:
    if not math.isfinite(claims["exp"]):
        raise ValueError("exp is not finite")
    subject = claims["sub"]
    if not UUID_TEXT.fullmatch(subject):
        raise ValueError("sub is not a UUID")
    roles = claims.get("roles")
    is_admin = claims.get("role") == "admin" or (isinstance(roles, list) and "admin" in roles)
    return Principal(subject.lower(), is_admin)
