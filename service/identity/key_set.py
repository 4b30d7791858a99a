"""A JSON Web Key Set (RFC 7517): which of its keys verify signatures, and each with which algorithms only.

Invariants: the algorithms follow from a key's type and curve, narrowed by its own `alg`, `use` and `key_ops` and by the
configuration; a token's header never adds one. Symmetric and private keys are never used.
"""

from base64 import urlsafe_b64decode
from collections.abc import Collection, Sequence
from typing import Any, Final

import msgspec
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey
from msgspec import Struct

KEY_SET_BYTES_MAX: Final = 262_144
"""Size of a key set; real ones have a few kilobytes."""
KEYS_MAX: Final = 100
RSA_BITS_MIN: Final = 2_048
"""RFC 7518, 3.3."""
RSA_BITS_MAX: Final = 8_192
"""Verification time grows with the square of the length."""
_ALGORITHMS: Final = {
    ("RSA", None): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA", "Ed25519"),
}
"""By key type and curve."""
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth"})


class KeySetInvalid(Exception):
    """A document is not a key set that could verify a token; the text ends a sentence."""


class VerificationKey(Struct, frozen=True):
    """A public key and the algorithms that it may be used with."""

    kid: str | None
    algorithms: tuple[str, ...]
    key: Key
    thumbprint: str
    """Identifies the key's material (RFC 7638)."""

    @property
    def identity(self) -> tuple[str | None, str, tuple[str, ...]]:
        """What makes this key another one than before."""
        return self.kid, self.thumbprint, self.algorithms


class KeySet(Struct, frozen=True):
    """The usable keys of a document, in its order, and why the others are not used."""

    keys: tuple[VerificationKey, ...]
    ignored: tuple[str, ...] = ()


def parse(document: bytes, accepted: Collection[str]) -> KeySet:
    """Return the keys of a document that fit the accepted algorithms; raises `KeySetInvalid` if there is none."""
    if len(document) > KEY_SET_BYTES_MAX:
        raise KeySetInvalid(f"it is larger than {KEY_SET_BYTES_MAX:,} bytes")
    keys: list[VerificationKey] = []
    ignored: list[str] = []
    for number, entry in enumerate(_entries(document), start=1):
        try:
            keys.append(_key(entry, accepted))
        except _Ignored as reason:
            ignored.append(f"key {number}: {reason}")
    if not keys:
        raise KeySetInvalid(f"it has no key for an accepted algorithm ({'; '.join(ignored[:3]) or 'it has no keys'})")
    return KeySet(tuple(keys), tuple(ignored))


def select(keys: Sequence[VerificationKey], algorithm: str, kid: str | None) -> list[VerificationKey]:
    """Return the keys that may verify a token. Without `kid` there must be exactly one that fits the algorithm."""
    fitting = [key for key in keys if algorithm in key.algorithms and kid in {None, key.kid}]
    return fitting if kid is not None or len(fitting) == 1 else []


class _Ignored(Exception):
    """An entry of a key set cannot verify tokens; the others still can."""


def _entries(document: bytes) -> list[Any]:
    try:
        decoded = msgspec.json.decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise KeySetInvalid("it is not JSON") from None
    entries = decoded.get("keys") if isinstance(decoded, dict) else None
    if not isinstance(entries, list):
        raise KeySetInvalid('it has no list "keys"')
    if len(entries) > KEYS_MAX:
        raise KeySetInvalid(f"it has more than {KEYS_MAX} keys")
    return entries


def _key(entry: object, accepted: Collection[str]) -> VerificationKey:
    if not isinstance(entry, dict):
        raise _Ignored("not an object")
    if entry.get("kty") == "oct" or _PRIVATE & entry.keys():
        raise _Ignored("a secret or private key, which must not be published")
    algorithms = _algorithms(entry, accepted)
    key = _import(entry)
    kid = entry.get("kid")
    return VerificationKey(kid if isinstance(kid, str) else None, algorithms, key, key.thumbprint())


def _algorithms(entry: dict[str, Any], accepted: Collection[str]) -> tuple[str, ...]:
    kty, crv, alg, operations = (entry.get(name) for name in ("kty", "crv", "alg", "key_ops"))
    if entry.get("use", "sig") != "sig" or not (operations is None or _contains(operations, "verify")):
        raise _Ignored("not for signatures")
    possible = _ALGORITHMS.get((str(kty), None if kty == "RSA" else str(crv)), ())
    algorithms = tuple(name for name in possible if name in accepted and alg in (None, name))
    if not algorithms:
        raise _Ignored("no accepted algorithm fits its type, curve and alg")
    return algorithms


def _contains(operations: object, operation: str) -> bool:
    return isinstance(operations, list) and operation in operations


def _import(entry: dict[str, Any]) -> Key:
    kinds: dict[str, type[RSAKey | ECKey | OKPKey]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}
    names = {"RSA": ("kty", "n", "e"), "EC": ("kty", "crv", "x", "y"), "OKP": ("kty", "crv", "x")}[entry["kty"]]
    material = {name: entry[name] for name in names if name in entry}
    if entry["kty"] == "RSA" and not RSA_BITS_MIN <= _bits(material.get("n")) <= RSA_BITS_MAX:
        raise _Ignored(f"an RSA key must have {RSA_BITS_MIN:,} to {RSA_BITS_MAX:,} bits")
    try:
        return kinds[entry["kty"]].import_key(material)
    except (JoseError, ValueError, TypeError, KeyError) as problem:
        raise _Ignored("its material is invalid") from problem


def _bits(modulus: object) -> int:
    """Return the length of a base64url number; 0 for anything else."""
    try:
        return int.from_bytes(urlsafe_b64decode(f"{modulus}==")).bit_length()
    except ValueError:
        return 0
