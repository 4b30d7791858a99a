"""Authentication: turns a bearer token or an API key into a principal.

Fails: `Unauthenticated` for anything but valid credentials; `ScopeMissing` for a key that may not do what is requested;
`IdentityProviderUnavailable` and `database.UNAVAILABLE` when a credential cannot be checked, so that an outage never
makes a valid one look invalid.
"""

import asyncio
import hashlib
import time
from typing import Final

import asyncpg
from msgspec import Struct

from projections import api_keys
from projections.api_keys import Holder, Invalidity, Scope
from projections.errors import DatabaseNotMigrated
from projections.log_once import LogOnce
from projections.settings import Settings
from projections.store.database import UNAVAILABLE, ReadPool
from service.identity.issuer_keys import IssuerKeys
from service.identity.refusals import Refusal, ScopeMissing, Unauthenticated
from service.identity.tokens import TokenVerifier
from service.rate_limit import charge

API_KEY_CACHED_S: Final = 2.0
"""How long a valid key is accepted without another lookup; a revocation must take effect everywhere within 5 s."""
API_KEYS_CACHED_MAX: Final = 10_000
TOKEN_CACHED_S: Final = 60.0
"""How long a verified token is accepted without verifying it again, and never beyond its `exp`."""
TOKENS_CACHED_MAX: Final = 10_000
USES_WRITTEN_EVERY_S: Final = 30.0
"""How late the last use of an API key may be recorded; it is kept by the hour."""
USES_WRITE_LIMIT_S: Final = 0.5
"""How long one write may take; the last one delays the end of the process."""
USES_MAX: Final = 10_000
"""API keys whose use is not recorded yet; the use of further ones is recorded after the next write."""
READ: Final[Scope] = "read"
TOKEN_SCOPES: Final[frozenset[Scope]] = frozenset({"read"})
ADMIN_TOKEN_SCOPES: Final[frozenset[Scope]] = frozenset({"read", "operate"})
_KEY_REFUSALS: Final[dict[Invalidity, Refusal]] = {
    "unknown": Refusal.API_KEY_UNKNOWN,
    "revoked": Refusal.API_KEY_REVOKED,
    "expired": Refusal.API_KEY_EXPIRED,
}


class Principal(Struct, frozen=True):
    """An authenticated caller. A non-admin sees only what `user_id` owns."""

    user_id: str
    is_admin: bool
    scopes: frozenset[Scope] = TOKEN_SCOPES
    """What the credentials allow; of two credentials, what both allow."""
    expires_s: float | None = None
    """Until when the credentials are valid, Unix time; None: without a limit."""

    @property
    def scope(self) -> str | None:
        """The owner to which reads are restricted; None for an admin, who sees everything."""
        return None if self.is_admin else self.user_id


class Authenticator:
    """Verifies credentials; caches valid ones briefly, by their hash."""

    def __init__(self, settings: Settings, pool: ReadPool, issuer_keys: IssuerKeys) -> None:
        self._tokens = TokenVerifier(settings, issuer_keys)
        self._pool = pool
        self._credential_bytes_max = settings.credential_bytes_max
        """A longer header value is rejected unread: real tokens are shorter, and every byte takes time."""
        self._key_cache: dict[bytes, tuple[Principal, float]] = {}
        self._token_cache: dict[bytes, tuple[Principal, float]] = {}
        self._used_keys: set[str] = set()
        self._write_failure = LogOnce()
        issuer_keys.on_change = self.forget_tokens

    async def principal(self, authorization: list[str], api_key: list[str], scope: Scope = READ) -> Principal:
        """Return the principal of these header values; when both kinds are sent, both must be valid and agree."""
        if not (authorization or api_key):
            raise Unauthenticated
        if len(authorization) > 1 or len(api_key) > 1:
            raise Unauthenticated(Refusal.SEVERAL_CREDENTIALS)
        if any(len(value) > self._credential_bytes_max for value in (*authorization, *api_key)):
            raise Unauthenticated(Refusal.TOO_LONG)
        principals = [await self._from_token(value) for value in authorization]
        principals += [await self._from_api_key(value) for value in api_key]
        principal = _agreed(principals)
        if scope not in principal.scopes:
            raise ScopeMissing(scope)
        if (charged := charge.get()) is not None:
            charged.to(principal.user_id)
        return principal

    def cached_principal(self, authorization: bytes) -> Principal | None:
        """Return the principal of a recently verified header value; None when it must be verified."""
        if len(authorization) > self._credential_bytes_max:
            return None
        cached = self._token_cache.get(_digest(authorization))
        return cached[0] if cached is not None and time.time() < cached[1] else None

    def forget_tokens(self) -> None:
        """Verify every token again: the key that verified it may have been removed."""
        self._token_cache.clear()

    async def record_uses(self) -> None:
        """Record the uses of API keys, again and again; run it under supervision."""
        while True:
            await asyncio.sleep(USES_WRITTEN_EVERY_S)
            await self.write_uses()

    async def write_uses(self) -> None:
        """Record the uses of API keys since the last time. A standby or a failing database loses them."""
        used, self._used_keys = self._used_keys, set()
        if not used:
            return
        try:
            async with asyncio.timeout(USES_WRITE_LIMIT_S):
                await api_keys.record_use(self._pool, used)
            self._write_failure.reset()
        except (*UNAVAILABLE, asyncpg.PostgresError) as problem:
            self._write_failure.warning("api_key_use_not_recorded", problem)

    async def _from_token(self, authorization: str) -> Principal:
        raw = authorization.encode("latin-1", "replace")
        cached = self.cached_principal(raw)
        if cached is not None:
            return cached
        token = await self._tokens.verify(authorization)
        scopes = ADMIN_TOKEN_SCOPES if token.is_admin else TOKEN_SCOPES
        principal = Principal(token.user_id, token.is_admin, scopes, token.expires_s)
        if len(self._token_cache) >= TOKENS_CACHED_MAX:
            self._token_cache.clear()
        self._token_cache[_digest(raw)] = (principal, min(token.expires_s, time.time() + TOKEN_CACHED_S))
        return principal

    async def _from_api_key(self, key: str) -> Principal:
        key_id = api_keys.key_id_of(key)
        if key_id is None:
            raise Unauthenticated(Refusal.API_KEY_MALFORMED)
        digest = _digest(key.encode())
        cached = self._key_cache.get(digest)
        if cached is None or time.monotonic() >= cached[1]:
            self._key_cache.pop(digest, None)
            cached = await self._look_up(key)
            if len(self._key_cache) >= API_KEYS_CACHED_MAX:
                self._key_cache.clear()
            self._key_cache[digest] = cached
        if len(self._used_keys) < USES_MAX:
            self._used_keys.add(key_id)
        return cached[0]

    async def _look_up(self, key: str) -> tuple[Principal, float]:
        """Return the principal of a key, and until when (monotonic) it may be cached."""
        looked_up_at = time.monotonic()
        try:
            found = await api_keys.find(self._pool, key)
        except asyncpg.UndefinedColumnError as problem:
            raise DatabaseNotMigrated(["the scopes of API keys"]) from problem
        if not isinstance(found, Holder):
            raise Unauthenticated(_KEY_REFUSALS[found])
        cached_s = API_KEY_CACHED_S if found.valid_s is None else min(API_KEY_CACHED_S, found.valid_s)
        expires_s = None if found.valid_s is None else time.time() + found.valid_s
        return Principal(found.user_id, found.is_admin, found.scopes, expires_s), looked_up_at + cached_s


def _agreed(principals: list[Principal]) -> Principal:
    """Return the one principal of all credentials, with the scopes that each of them has, until the first expires."""
    if len(principals) == 1:
        return principals[0]
    if len({(principal.user_id, principal.is_admin) for principal in principals}) != 1:
        raise Unauthenticated(Refusal.CREDENTIALS_DISAGREE)
    scopes = frozenset.intersection(*(principal.scopes for principal in principals))
    expiries = [principal.expires_s for principal in principals if principal.expires_s is not None]
    return Principal(principals[0].user_id, principals[0].is_admin, scopes, min(expiries, default=None))


def _digest(credential: bytes) -> bytes:
    return hashlib.blake2b(credential, digest_size=16).digest()
