"""Verifies bearer tokens: signed JWTs of the shared secret (HS256) or of the issuer's keys.

The token's header only selects among keys that are known, and the algorithm must be one of the selected key's own.
Header parameters that bring or name a key (`jwk`, `jku`, `x5c`, `x5u`), and `crit`, are refused.
Fails: `Unauthenticated` with the reason; `IdentityProviderUnavailable` if the key may be one that could not be read.
"""

import json
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import Key, OctKey
from joserfc.jws import CompactSignature, JWSRegistry

from projections.identity_settings import KEY_SET_ALGORITHMS
from projections.settings import Settings
from service.identity import claims
from service.identity.issuer_keys import IssuerKeys
from service.identity.key_set import select
from service.identity.refusals import IdentityProviderUnavailable, Refusal, Unauthenticated

SHARED_KEY_ALGORITHM: Final = "HS256"
REFUSED_PARAMETERS: Final = frozenset({"b64", "crit", "jku", "jwk", "x5c", "x5u"})
_HOSTILE: Final = (JoseError, ValueError, TypeError, ArithmeticError, RecursionError)
"""Hostile tokens fail in many ways."""


class VerifiedToken(NamedTuple):
    """What a valid token states."""

    user_id: str
    is_admin: bool
    expires_s: float
    """Unix time."""


class TokenVerifier:
    """Verifies the tokens of one configuration."""

    def __init__(self, settings: Settings, issuer_keys: IssuerKeys) -> None:
        self._secret = OctKey.import_key(settings.jwt_secret) if settings.jwt_secret else None
        self._issuer_keys = issuer_keys
        self._rules = claims.rules_of(settings)

    async def verify(self, authorization: str) -> VerifiedToken:
        """Return what the token in an `Authorization` header states."""
        scheme, _, text = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated(Refusal.NO_CREDENTIALS)  # another scheme: not an attempt to use a token
        token = _parsed(text.strip())
        _require_signature(token, await self._keys_for(token.header))
        payload = _payload(token)
        expires_s = claims.require_valid(self._rules, payload, time.time())
        return VerifiedToken(claims.user_id(self._rules, payload), claims.is_admin(self._rules, payload), expires_s)

    async def _keys_for(self, header: dict[str, Any]) -> Sequence[Key]:
        algorithm, kid = header.get("alg"), header.get("kid")
        if REFUSED_PARAMETERS & header.keys():
            raise Unauthenticated(Refusal.HEADER_REFUSED)
        if not isinstance(algorithm, str) or not (kid is None or isinstance(kid, str)):
            raise Unauthenticated(Refusal.TOKEN_MALFORMED)
        if algorithm == SHARED_KEY_ALGORITHM and self._secret is not None:
            return [self._secret]
        if algorithm not in KEY_SET_ALGORITHMS or not self._issuer_keys.configured:
            raise Unauthenticated(Refusal.ALGORITHM_REFUSED)
        return await self._issuer_keys_for(algorithm, kid)

    async def _issuer_keys_for(self, algorithm: str, kid: str | None) -> Sequence[Key]:
        found = select(self._issuer_keys.current(), algorithm, kid)
        if not found and not self._is_known(kid):
            await self._issuer_keys.refresh_for_unknown_key()
            found = select(self._issuer_keys.current(), algorithm, kid)
        if found:
            return [key.key for key in found]
        if self._is_known(kid):
            raise Unauthenticated(Refusal.ALGORITHM_REFUSED)
        if not self._issuer_keys.complete:
            raise IdentityProviderUnavailable  # the key may be among those that are not known
        raise Unauthenticated(Refusal.KEY_UNKNOWN)

    def _is_known(self, kid: str | None) -> bool:
        return kid is not None and any(key.kid == kid for key in self._issuer_keys.current())


class _Registry(JWSRegistry):
    """joserfc's algorithms, without its warning about EdDSA: the name is deprecated (RFC 9864), but still in use."""

    max_header_length = 1_024
    max_signature_length = 2_048

    def get_alg(self, name: str) -> Any:  # noqa: ANN401 - joserfc exports no type for an algorithm
        """Return an algorithm; the caller has checked that the key may be used with it."""
        return self.algorithms[name]


_REGISTRY: Final = _Registry(strict_check_header=False)
"""Not strict: an unknown header parameter must be ignored, unless `crit` lists it (RFC 7515, 4)."""


class _Token(NamedTuple):
    header: dict[str, Any]
    parts: CompactSignature


def _parsed(text: str) -> _Token:
    try:
        parts = jws.extract_compact(text.encode("latin-1"), registry=_REGISTRY)
        header = parts.headers()
    except _HOSTILE as problem:
        raise Unauthenticated(Refusal.TOKEN_MALFORMED) from problem
    if not isinstance(header, dict):
        raise Unauthenticated(Refusal.TOKEN_MALFORMED)
    return _Token(header, parts)


def _require_signature(token: _Token, keys: Sequence[Key]) -> None:
    try:
        valid = any(jws.validate_compact(token.parts, key, registry=_REGISTRY) for key in keys)
    except _HOSTILE as problem:
        raise Unauthenticated(Refusal.SIGNATURE_INVALID) from problem
    if not valid:
        raise Unauthenticated(Refusal.SIGNATURE_INVALID)


def _payload(token: _Token) -> dict[str, Any]:
    try:
        payload = json.loads(token.parts.payload)
    except _HOSTILE as problem:
        raise Unauthenticated(Refusal.TOKEN_MALFORMED) from problem
    if not isinstance(payload, dict):
        raise Unauthenticated(Refusal.TOKEN_MALFORMED)
    return payload
