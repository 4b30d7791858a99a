"""JWTs of NATS's decentralised authentication: an operator, one account with JetStream, users with creds files."""

import base64
import json
import time
import uuid
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from projections import nkeys

OPERATOR, ACCOUNT = 14 << 3, 0
"""Prefixes of public nkeys."""
UNLIMITED: Final = -1


class Signer:
    """A key that signs JWTs."""

    def __init__(self, prefix: int) -> None:
        self._key = Ed25519PrivateKey.generate()
        self.public = nkeys._encode(prefix, self._key.public_key().public_bytes_raw())

    def jwt(self, subject: str, name: str, claims: dict[str, Any]) -> str:
        """Return a signed JWT about `subject`."""
        body = {"jti": uuid.uuid4().hex, "iat": int(time.time()), "iss": self.public, "sub": subject, "name": name}
        parts = ({"typ": "JWT", "alg": "ed25519-nkey"}, body | {"nats": claims | {"version": 2}})
        text = ".".join(_encoded(json.dumps(part).encode()) for part in parts)
        return f"{text}.{_encoded(self._key.sign(text.encode()))}"


class Accounts:
    """One operator and one account; `configuration` makes nats-server trust them."""

    def __init__(self) -> None:
        operator, self._account, system = Signer(OPERATOR), Signer(ACCOUNT), Signer(ACCOUNT)
        limits = dict.fromkeys(
            ("subs", "data", "payload", "imports", "exports", "conn", "leaf", "mem_storage", "disk_storage", "streams"),
            UNLIMITED,
        ) | {"consumer": UNLIMITED, "wildcards": True}
        account = operator.jwt(self._account.public, "membership", {"type": "account", "limits": limits})
        without_jetstream = limits | dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), 0)
        system_account = operator.jwt(system.public, "system", {"type": "account", "limits": without_jetstream})
        self.configuration = (
            f"operator: {operator.jwt(operator.public, 'test', {'type': 'operator'})}\n"
            f"resolver: MEMORY\nsystem_account: {system.public}\n"
            f"resolver_preload: {{ {self._account.public}: {account}, {system.public}: {system_account} }}\n"
        )

    def creds(self) -> str:
        """Return the text of a new user's creds file."""
        seed = nkeys.new_seed()
        limits = dict.fromkeys(("subs", "data", "payload"), UNLIMITED)
        jwt = self._account.jwt(nkeys.read_seed(seed).public, "projector", {"type": "user"} | limits)
        return (
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
