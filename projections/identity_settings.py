"""Parses the settings about identity: where keys come from, which algorithms count, which claims name the caller.

Fails: ValueError, whose text continues the sentence that begins with the variable's name.
"""

import ipaddress
import re
from typing import Final
from urllib.parse import SplitResult, urlsplit

KEY_SET_ALGORITHMS: Final = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
    "Ed25519",
)
"""Signature algorithms that a key of a key set may have. HMAC is not among them: a public key must never be its key."""
CLAIM_DEPTH_MAX: Final = 10
"""Names in one claim path; identity providers nest claims two or three deep."""
_UNESCAPED_DOT: Final = re.compile(r"(?<!\\)\.")

ClaimPath = tuple[str, ...]
"""The names that lead to a claim, outermost first."""


def jwt_secret(text: str) -> str:
    """Return the shared secret of HS256 tokens."""
    if len(text.encode()) < JWT_SECRET_BYTES_MIN:
        raise ValueError(f"must have at least {JWT_SECRET_BYTES_MIN} bytes")
    return text


JWT_SECRET_BYTES_MIN: Final = 32
"""HS256 requires a key at least as long as its hash (RFC 7518, 3.2)."""


def jwks_url(text: str) -> str:
    """Return the URL of a key set. Only https, or http on this machine: keys must not be changed on the way."""
    if not text:
        return ""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        raise ValueError("must be a URL such as https://id.example/jwks.json") from None
    if parts.scheme not in {"https", "http"} or not parts.hostname:
        raise ValueError("must be a URL such as https://id.example/jwks.json")
    if parts.username is not None or parts.fragment:
        raise ValueError("must have neither a user, nor a password, nor a fragment: a key set is public")
    if parts.scheme == "http" and not _is_loopback(parts):
        raise ValueError("must start with https:// unless its host is this machine")
    return text


def _is_loopback(parts: SplitResult) -> bool:
    host = parts.hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def algorithms(text: str) -> tuple[str, ...]:
    """Return the accepted algorithms of a key set's keys; all that are supported for an empty text."""
    names = words(text) or KEY_SET_ALGORITHMS
    if unknown := [name for name in names if name not in KEY_SET_ALGORITHMS]:
        raise ValueError(f"must be a list of {', '.join(KEY_SET_ALGORITHMS)}, not {unknown[0]!r}")
    return names


def words(text: str) -> tuple[str, ...]:
    """Return the words of a list separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def claim_path(text: str) -> ClaimPath:
    r"""Return the names of a dotted path such as `realm_access.roles`; `\.` is a dot inside a name."""
    if not text:
        return ()
    names = tuple(name.replace("\\.", ".") for name in _UNESCAPED_DOT.split(text))
    if not all(name and name == name.strip() and name.isprintable() for name in names):
        raise ValueError("must be names joined by single dots, such as realm_access.roles")
    if len(names) > CLAIM_DEPTH_MAX:
        raise ValueError(f"must have at most {CLAIM_DEPTH_MAX} names")
    return names
