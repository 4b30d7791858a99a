"""Signs development tokens with the configured secret, as an identity provider would."""

import time

from joserfc import jwt
from joserfc.jwk import OctKey


def sign(secret: str, user_id: str, admin: bool, ttl_s: int) -> str:
    """Return a JWT (HS256) of this user that is valid from now for `ttl_s` seconds."""
    now = int(time.time())
    claims = {"sub": user_id, "role": "admin" if admin else "user", "iat": now, "exp": now + ttl_s}
    return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(secret))
