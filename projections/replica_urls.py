"""Splits the URL of the read replicas into one URL for each host, so that each replica is watched by itself."""

from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

REPLICAS_MAX: Final = 16
"""Each worker of the API keeps connections to every replica; more hosts would be a mistake in the setting."""
_PRIMARY_ONLY: Final = {"primary", "read-write"}
_CONNECTS_TO_ONE: Final = {"host", "port", "target_session_attrs"}
"""Options that select a host: each URL returned names one."""


def split(url: str) -> tuple[str, ...]:
    """Return one URL for each host, in their order; none for an empty URL.

    Raises ValueError, with the end of a sentence about the setting, for a URL that names no host or too many, or that
    asks for a primary.
    """
    if not url:
        return ()
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if options.get("target_session_attrs") in _PRIMARY_ONLY:
        raise ValueError("must not ask for a primary (target_session_attrs): it names standbys")
    credentials, at, hosts = parts.netloc.rpartition("@")
    addresses = _addresses(hosts, options)
    if not all(addresses):
        raise ValueError("must name every host; one of them is empty")
    if any(address.startswith("/") for address in addresses):
        raise ValueError("must name hosts, not directories of sockets")
    if len(addresses) > REPLICAS_MAX:
        raise ValueError(f"must name at most {REPLICAS_MAX} hosts")
    query = urlencode({name: value for name, value in options.items() if name not in _CONNECTS_TO_ONE}, safe="/:")
    return tuple(
        parts._replace(netloc=f"{credentials}{at}{address}", query=query).geturl()
        for address in dict.fromkeys(addresses)
    )


def place(url: str) -> str:
    """Return the host and port of a URL of one host, without credentials."""
    return urlsplit(url).netloc.rpartition("@")[2]


def _addresses(hosts: str, options: dict[str, str]) -> list[str]:
    """Return host and port of each host, which libpq also takes from the options `host` and `port`."""
    if hosts:
        ports = [options.get("port", "5432")]
        named = hosts.split(",")
    else:
        ports = options.get("port", "5432").split(",")
        named = options.get("host", "").split(",")
    ports = ports if len(ports) == len(named) else ports[:1] * len(named)
    return [_with_port(host, port) for host, port in zip(named, ports, strict=True)]


def _with_port(host: str, port: str) -> str:
    has_port = host.rpartition("]")[2].count(":") == 1
    return host if has_port or not host else f"{host}:{port}"
