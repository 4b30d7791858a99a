"""Checks at process start that the certificate and key files named by settings can be read and used.

The libraries would report a bad file only when they connect: asyncpg with a traceback, nats-py at every retry.
Reads: the files. Fails: ValueError with the end of a sentence whose subject is the variable.
"""

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

from projections.error_text import error_text
from projections.nkeys import read_credentials, read_seed

CREDENTIAL_BYTES_MAX: Final = 65_536
"""Enough for a creds file with a long list of permissions; more is another file."""


def text_of(path: str) -> str:
    """Return a credential file's text."""
    try:
        with Path(path).open("rb") as file:
            raw = file.read(CREDENTIAL_BYTES_MAX + 1)
        if len(raw) > CREDENTIAL_BYTES_MAX:
            raise ValueError(f"names a file of more than {CREDENTIAL_BYTES_MAX} bytes")
        return raw.decode()
    except (OSError, UnicodeDecodeError) as problem:
        raise ValueError(f"names a file that cannot be read: {error_text(problem)}") from None


def ca_file(path: str) -> str:
    """Return the path of a file of CA certificates in PEM."""
    return _usable(path, "CA certificate", lambda context: context.load_verify_locations(cafile=path))


def crl_file(path: str) -> str:
    """Return the path of a revocation list in PEM."""
    return _usable(path, "revocation list", lambda context: context.load_verify_locations(cafile=path))


def certificate_file(path: str) -> str:
    """Return the path of a client certificate in PEM, whose key may be in another file."""
    if "-----BEGIN CERTIFICATE-----" not in text_of(path):
        raise ValueError("names a file without a certificate in PEM")
    return path


def key_file(path: str) -> str:
    """Return the path of a private key in PEM."""
    if "PRIVATE KEY-----" not in text_of(path):
        raise ValueError("names a file without a private key in PEM")
    return path


def creds_file(path: str) -> str:
    """Return the path of a NATS creds file."""
    return _parsed(path, read_credentials)


def nkey_file(path: str) -> str:
    """Return the path of a file with an nkey seed."""
    return _parsed(path, read_seed)


def require_pair(certificate: str, key: str, password: str = "") -> None:
    """Require that a key fits its certificate; an encrypted key without its password is refused, not asked for."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password=lambda: password)
    except (OSError, ValueError) as problem:
        raise ValueError(f"does not fit the key, or the key needs a password: {error_text(problem)}") from None


def _usable(path: str, kind: str, load: Callable[[ssl.SSLContext], None]) -> str:
    try:
        load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    except ssl.SSLError:
        raise ValueError(f"names a file without a {kind} in PEM") from None
    except OSError as problem:
        raise ValueError(f"names a file that cannot be read: {error_text(problem)}") from None
    return path


def _parsed(path: str, read: Callable[[str], object]) -> str:
    text = text_of(path)
    try:
        read(text)
    except ValueError as problem:
        raise ValueError(f"names a file that {problem}") from None
    return path
