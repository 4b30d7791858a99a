"""Ids that are made from what they identify, so that a repeated call makes the same one."""

from hashlib import blake2b
from typing import Final

ID_BYTES: Final = 16


def derived_id(*parts: object) -> str:
    """Return a UUID of version 8 (RFC 9562) for these texts; several times as fast as `uuid.uuid5`."""
    digest = blake2b("\n".join(map(str, parts)).encode(errors="surrogatepass"), digest_size=ID_BYTES).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-8{digest[13:16]}-8{digest[17:20]}-{digest[20:]}"
