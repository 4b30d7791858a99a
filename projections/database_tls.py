"""Checks the TLS options of the PostgreSQL URL, and of libpq's environment variables, at process start.

asyncpg reads them as libpq does, but opens the files only when it connects, and does not know every option.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

from projections import credential_files

OPTIONS_REFUSED: Final[Mapping[str, str]] = {
    "channel_binding": "use sslmode=verify-full",
    "sslcrldir": "use sslcrl with a single file",
    "sslcertmode": "a client certificate is sent where sslcert is set",
    "sslsni": "the host name is always sent",
    "gssencmode": "use TLS",
    "require_auth": "use sslmode=verify-full, so that only your server sees a password",
}
"""Options of libpq that asyncpg does not know: it would send them to the server as settings, which refuses them."""

_FILES: Final[Mapping[str, Callable[[str], str]]] = {
    "sslrootcert": credential_files.ca_file,
    "sslcrl": credential_files.crl_file,
    "sslcert": credential_files.certificate_file,
    "sslkey": credential_files.key_file,
}
"""Options that name files; in the environment they are `PGSSLROOTCERT` and so on."""
_SYSTEM: Final = "system"
"""libpq's word for the CAs of the system."""
_VERIFYING: Final = {"verify-ca", "verify-full"}
_DEFAULT_ROOT: Final = Path(".postgresql") / "root.crt"


def check_options(options: Mapping[str, str]) -> None:
    """Check the TLS options of a URL; raises ValueError with the end of a sentence about the URL's variable."""
    for name in sorted(OPTIONS_REFUSED.keys() & options.keys()):
        raise ValueError(f"must not have {name}, which asyncpg does not support: {OPTIONS_REFUSED[name]}")
    for name, check in _FILES.items():
        if path := options.get(name):
            try:
                _check(name, path, check)
            except ValueError as problem:
                raise ValueError(f"has an option {name} that {problem}") from None
    if certificate := options.get("sslcert"):
        try:
            key = options.get("sslkey") or certificate
            credential_files.require_pair(certificate, key, options.get("sslpassword", ""))
        except ValueError as problem:
            raise ValueError(f"has an option sslcert that {problem}") from None


def environment_problems(url: str, environment: Mapping[str, str], setting: str) -> list[str]:
    """Return a sentence for each file of libpq's variables that is bad, and one if the server cannot be verified.

    `setting` is the variable that holds the URL.
    """
    options = {name: values[-1] for name, values in parse_qs(urlsplit(url).query).items()}
    mode = options.get("sslmode") or environment.get("PGSSLMODE", "")
    if mode == "disable":
        return []
    problems = []
    for name, check in _FILES.items():
        variable = f"PG{name.upper()}"
        if not options.get(name) and (path := environment.get(variable)):
            try:
                _check(name, path, check)
            except ValueError as problem:
                problems.append(f"{variable} ({path!r}) {problem}.")
    if mode in _VERIFYING and not (options.get("sslrootcert") or environment.get("PGSSLROOTCERT") or _has_default()):
        problems.append(
            f"{setting} asks for sslmode={mode} and names no CA: add sslrootcert and a file, such as "
            "sslrootcert=/etc/ssl/certs/ca-certificates.crt."
        )
    return problems


def _check(name: str, path: str, check: Callable[[str], str]) -> None:
    if name == "sslrootcert" and path == _SYSTEM:
        raise ValueError("is `system`, which asyncpg does not support: name a file, such as that of your distribution")
    check(path)


def _has_default() -> bool:
    try:
        return (Path.home() / _DEFAULT_ROOT).is_file()
    except (OSError, RuntimeError):  # no home directory
        return False
