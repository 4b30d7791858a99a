"""Who is asking: a bearer token or an API key becomes a principal, or nobody.

Fails: `Unauthenticated` for anything but valid credentials; `database.UNAVAILABLE` when a key cannot be looked up,
which is no verdict on the key.
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
"""Fixed for the key, whatever a token's header claims."""
API_KEY_TRUSTED_S: Final = 2.0
"""How long a key that was valid is believed without asking again; revocation must reach everywhere within 5 s."""
API_KEYS_REMEMBERED_MAX: Final = 10_000
TOKEN_TRUSTED_S: Final = 60.0
"""How long a token that was verified is believed without verifying it again, and never beyond its `exp`."""
TOKENS_REMEMBERED_MAX: Final = 10_000
CREDENTIAL_BYTES_MAX: Final = 8_192
"""A longer header value is refused unread: real tokens are shorter, and hashing and decoding cost time by length."""
UUID_TEXT: Final = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
"""The only accepted form of `sub`; `uuid.UUID` also takes braces, `urn:`, underscores and other scripts' digits."""


class Principal(Struct, frozen=True):
    """Who asks. A non-admin sees only what `user_id` owns."""

    user_id: str
    is_admin: bool

    @property
    def scope(self) -> str | None:
        """The owner that everything seen must have; None for an admin, who sees all."""
        return None if self.is_admin else self.user_id


class Unauthenticated(Exception):
    """No credentials, bad ones, or two that do not agree."""


class Authenticator:
    """Reads credentials; remembers valid ones for a moment, by their hash."""

    def __init__(self, settings: Settings, pool: ReadPool) -> None:
        self._key = OctKey.import_key(settings.jwt_secret)
        self._claims = JWTClaimsRegistry(leeway=0, **_options(settings))
        self._pool = pool
        self._remembered: dict[bytes, tuple[Principal, float]] = {}
        self._verified: dict[bytes, tuple[Principal, float]] = {}

    async def principal(self, authorization: list[str], api_key: list[str]) -> Principal:
        """Return who these header values speak for; when both kinds come, both must be valid and agree."""
        if len(authorization) > 1 or len(api_key) > 1 or not (authorization or api_key):
            raise Unauthenticated
        if any(len(value) > CREDENTIAL_BYTES_MAX for value in (*authorization, *api_key)):
            raise Unauthenticated
        found = {self._from_token(value) for value in authorization}
        for value in api_key:
            found.add(await self._from_api_key(value))
        if len(found) != 1:
            raise Unauthenticated
        return found.pop()

    def remembered(self, authorization: bytes) -> Principal | None:
        """Return the principal of a header value that was verified a moment ago; None when it has to be read."""
        if len(authorization) > CREDENTIAL_BYTES_MAX:
            return None
        held = self._verified.get(_digest(authorization))
        return held[0] if held is not None and time.time() < held[1] else None

    def _from_token(self, authorization: str) -> Principal:
        raw = authorization.encode("latin-1", "replace")
        held = self.remembered(raw)
        if held is not None:
            return held
        principal, expires = self._verify(authorization)
        if len(self._verified) >= TOKENS_REMEMBERED_MAX:
            self._verified.clear()
        self._verified[_digest(raw)] = (principal, min(expires, time.time() + TOKEN_TRUSTED_S))
        return principal

    def _verify(self, authorization: str) -> tuple[Principal, float]:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated
        try:  # hostile tokens fail in many ways
            claims = jwt.decode(token.strip(), self._key, algorithms=ALGORITHMS).claims
            claims.pop("iat", None)  # says when, not whether; an issuer's clock may be ahead of ours
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
        held = self._remembered.get(digest)
        if held is not None and time.monotonic() < held[1]:
            return held[0]
        self._remembered.pop(digest, None)
        found = await api_keys.find(self._pool, key)
        if found is None:
            raise Unauthenticated
        principal = Principal(*found)
        if len(self._remembered) >= API_KEYS_REMEMBERED_MAX:
            self._remembered.clear()
        self._remembered[digest] = (principal, time.monotonic() + API_KEY_TRUSTED_S)
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
