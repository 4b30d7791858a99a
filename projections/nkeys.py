"""Signs the broker's nonce with an nkey, the Ed25519 key with which NATS authenticates clients without passwords.

nats-py needs two more packages for this; `cryptography` is installed with the token library anyway.
Source: NATS ADR-14 (creds files) and github.com/nats-io/nkeys (the encoding).
"""

import base64
import binascii
import re
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_SEED_PREFIX: Final = 18 << 3
_USER_PREFIX: Final = 20 << 3
_SEED_CHARACTERS: Final = 58
_CHECKSUM_BYTES: Final = 2
_BLOCK: Final = r"-+BEGIN {title}-+\s+(\S+)\s+-+END {title}-+"


class Nkey(NamedTuple):
    """A user's key: what the client sends as its name, and what it signs with."""

    public: str
    private: Ed25519PrivateKey

    def sign(self, nonce: str) -> bytes:
        """Return the signature of the server's nonce as NATS expects it: base64."""
        return base64.b64encode(self.private.sign(nonce.encode()))


class Credentials(NamedTuple):
    """The content of a creds file: the user's JWT, and the key that the JWT names."""

    jwt: str
    key: Nkey


def read_seed(text: str) -> Nkey:
    """Return the key of a user's seed (`SU…`); raises ValueError with the reason, never with the text."""
    seed = text.strip()
    if not re.fullmatch(rf"SU[A-Z2-7]{{{_SEED_CHARACTERS - 2}}}", seed):
        raise ValueError("holds no user's nkey seed, 58 characters that begin with SU")
    raw = base64.b32decode(seed + "=" * (-len(seed) % 8))
    body, checksum = raw[:-_CHECKSUM_BYTES], raw[-_CHECKSUM_BYTES:]
    if _checksum(body) != checksum:
        raise ValueError("holds an nkey seed whose checksum is wrong: it was altered or cut off")
    key = Ed25519PrivateKey.from_private_bytes(body[2:])
    return Nkey(_encode(_USER_PREFIX, key.public_key().public_bytes_raw()), key)


def read_credentials(text: str) -> Credentials:
    """Return the JWT and key of a creds file; raises ValueError with the reason."""
    jwt = re.search(_BLOCK.format(title="NATS USER JWT"), text)
    seed = re.search(_BLOCK.format(title="USER NKEY SEED"), text)
    if jwt is None or seed is None:
        raise ValueError("is no creds file: it lacks the block NATS USER JWT or USER NKEY SEED")
    return Credentials(jwt[1], read_seed(seed[1]))


def new_seed() -> str:
    """Return a new user's seed."""
    private = Ed25519PrivateKey.generate().private_bytes_raw()
    # The user's prefix is split over two bytes, behind the five bits that say "seed".
    head = bytes([_SEED_PREFIX | (_USER_PREFIX >> 5), (_USER_PREFIX & 31) << 3])
    return _with_checksum(head + private)


def _encode(prefix: int, key: bytes) -> str:
    return _with_checksum(bytes([prefix]) + key)


def _with_checksum(body: bytes) -> str:
    return base64.b32encode(body + _checksum(body)).decode().rstrip("=")


def _checksum(body: bytes) -> bytes:
    return binascii.crc_hqx(body, 0).to_bytes(_CHECKSUM_BYTES, "little")
