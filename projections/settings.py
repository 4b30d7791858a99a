"""The configuration: one frozen value, read once from the environment at process start.

Fails: `SettingsInvalid`, which names every missing or invalid variable.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from projections import credential_files, database_tls, identity_settings, replica_urls
from projections.cores import cores
from projections.error_text import error_text
from projections.errors import SettingsInvalid
from projections.identity_settings import ClaimPath

PREFIX = "MEMBERSHIP_"
IDENTITY = "identity"
"""Stands for any of IDENTITY_FIELDS among the fields that a process needs."""
IDENTITY_FIELDS = ("jwt_secret", "jwks_url", "jwks_file")
"""Where the keys of bearer tokens come from; at least one is needed to verify a token."""


class RateLimit(msgspec.Struct, frozen=True):
    """A number of requests within a period."""

    requests: int
    period_s: int


class LagMax(msgspec.Struct, frozen=True):
    """How far behind the primary a replica may be: a number of positions or of seconds; the other one is None."""

    positions: int | None
    seconds: float | None


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a process. Fields that a process does not need may be empty; `load` checks the rest."""

    database_url: str
    """PostgreSQL, as a `postgresql://` URL."""
    read_database_url: str
    """Read replicas of the same database, as a URL with one or several hosts; empty: none."""
    read_lag_max: LagMax
    """How far behind the primary a replica may be; beyond it, the replica is not read."""
    read_min_position_from: str
    """What answers a request that names a position: a `replica` once it has reached it, or the `primary`."""
    nats_url: str
    """NATS, as `nats://host:port`; several separated by commas."""
    nats_ca_file: str
    """Certificates of the CAs that may sign the broker's certificate; empty: those of the system."""
    nats_cert_file: str
    """The client certificate shown to the broker; empty: none."""
    nats_key_file: str
    """The private key of the client certificate; empty: in the certificate's file."""
    nats_creds_file: str
    """A NATS creds file, JWT and nkey seed; empty: none."""
    nats_nkey_file: str
    """A file with an nkey seed; empty: none."""
    jwt_secret: str
    """The shared secret of HS256 tokens, at least 32 bytes; empty: HS256 tokens are refused."""
    jwks_url: str
    """Where the issuer publishes its key set; empty: nowhere."""
    jwks_file: str
    """A file with a key set; empty: none."""
    jwks_ca_file: str
    """Certificates of the authorities that `jwks_url` is verified with; empty: the public ones."""
    jwks_algorithms: tuple[str, ...]
    """Signature algorithms accepted with the keys of a key set."""
    jwks_stale_max_s: float
    """How long keys stay valid while the key set cannot be read."""
    jwt_issuer: tuple[str, ...]
    """The accepted `iss`; empty: not checked."""
    jwt_audience: tuple[str, ...]
    """Values one of which `aud` must contain; empty: not checked."""
    jwt_user_claim: ClaimPath
    """The claim that holds the user's id."""
    jwt_user_id: str
    """`uuid`: that claim is a UUID; `uuid5`: any other text is mapped to one."""
    jwt_admin_claim: ClaimPath
    """The claim that makes an admin; empty: `role` or the list `roles`."""
    jwt_admin_value: str
    """The value of that claim, or an item of it, that makes an admin."""
    http_host: str
    """The address the API listens on."""
    http_port: int
    """The port the API listens on."""
    http_workers: int
    """Worker processes of the API."""
    projector_http_host: str
    """The address on which a projector serves `/metrics` and `/health`."""
    projector_http_port: int | None
    """The port for that; None: they are not served."""
    cors_origins: tuple[str, ...]
    """Origins from which browsers may call the API; empty: CORS is off."""
    database_connections_max: int
    """Connections of one API process."""
    read_timeout_s: float
    """Limit on one read in PostgreSQL; a longer one is answered with 503."""
    database_acquire_timeout_s: float
    """How long a read waits for a connection; then it is answered with 503."""
    reads_waiting_max: int
    """Reads in the default order that may wait for PostgreSQL in one worker; further ones are answered with 503."""
    rate_limit: RateLimit | None
    """Requests that each caller may send to one worker; None: any number."""
    http_connections_max: int
    """Connections open at the same time in one worker; further ones wait in the kernel's queue until one closes."""
    http_idle_timeout_s: float
    """How long a connection may take to send a request's head, or stay idle, before it is closed."""
    http_head_bytes_max: int
    """How much of a request's head is buffered; a longer one is answered with 431."""
    http_query_bytes_max: int
    """Length of a query string; a longer one is answered with 414."""
    http_content_bytes_max: int
    """Stated length of a request's content; a longer one is answered with 413. `/ops/…` has a limit of its own."""
    credential_bytes_max: int
    """Length of a credential header; a longer one is refused unread."""
    search_length_max: int
    """Characters of a search text; a longer one is answered with 422."""
    cursor_age_max_s: int
    """Age from which a cursor is refused; 0: never."""
    drain_s: float
    """How long the API keeps answering after SIGTERM, with its readiness check failing, before it stops."""
    stream_replicas: int
    """Replicas of the stream, 3 or 5 in a cluster; a stream with fewer is raised to them."""
    batch_events_max: int
    """Maximum number of events applied in one transaction."""
    rollback_window_s: float
    """How long a replaced generation keeps following the stream, ready for a rollback."""
    approval_wait_s: float
    """How long a rebuild that was started at the console waits for a decision if rows differ."""
    access_log: str
    """Which requests the API logs: `off`, `sampled` or `on`."""
    log_format: str
    """`console` for people, `json` for machines."""
    log_level: str
    """`debug`, `info`, `warning` or `error`."""


class Variable(NamedTuple):
    """One environment variable: the field it sets, its parser, its default, and its meaning in error messages."""

    field: str
    parse: Callable[[str], Any]
    default: str | None
    meaning: str
    secret: bool = False
    """Whether the value may be in a file, and is never shown."""
    shown: bool = True
    """Whether messages show an invalid value; it may contain a password that does not belong there."""

    @property
    def name(self) -> str:
        return PREFIX + self.field.upper()


def _url(text: str, schemes: tuple[str, ...]) -> str:
    if not text.startswith(schemes):
        raise ValueError(f"must start with {' or '.join(schemes)}")
    try:
        _ = urlsplit(text).port
    except ValueError:
        raise ValueError("must have a number from 0 to 65535 for a port") from None
    return text


DATABASE_OPTIONS = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": ("any", "primary", "standby", "read-write", "read-only", "prefer-standby"),
}
"""Options of a PostgreSQL URL whose other values asyncpg rejects only when it connects, with a traceback."""


def _database_url(text: str) -> str:
    parts = urlsplit(text)
    hosts = parts.netloc.rpartition("@")[2].split(",")
    for server in [text] if len(hosts) == 1 else [f"{parts.scheme}://{host}" for host in hosts]:
        _url(server, ("postgresql://", "postgres://"))
    options = parse_qs(parts.query)
    for name, words in DATABASE_OPTIONS.items():
        if not set(options.get(name, [])) <= set(words):
            raise ValueError(f"must have one of {', '.join(words)} for {name}")
    database_tls.check_options({name: values[-1] for name, values in options.items()})
    return text


def _read_database_url(text: str) -> str:
    if text:
        _database_url(text)
    for url in replica_urls.split(text):
        _url(url, ("postgresql://", "postgres://"))
    return text


def _nats_urls(text: str) -> str:
    return ",".join(_url(part.strip(), ("nats://", "tls://")) for part in text.split(","))


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(text)

    return parse


WORKERS_MAX = 64
"""Worker processes of one API; more than any machine's cores would be a mistake in the number."""
AUTO = "auto"


def worker_count(text: str) -> int:
    """Parse a number of worker processes; `auto` is one for each core that this process may use."""
    if text == AUTO:
        return min(cores(), WORKERS_MAX)
    try:
        return _whole(1, WORKERS_MAX)(text)
    except ValueError as problem:
        raise ValueError(f"{problem}, or {AUTO}") from None


def _port_or_none(text: str) -> int | None:
    return _whole(0, 65535)(text) if text else None


def _seconds(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        message = f"must be a number of seconds from {low} to {high}"
        try:
            value = float(text)
        except ValueError:
            raise ValueError(message) from None
        if not low <= value <= high:
            raise ValueError(message)
        return value

    return parse


PERIODS_S = {"second": 1, "minute": 60, "hour": 3_600}
RATE_REQUESTS_MAX = 1_000_000


def _rate_limit(text: str) -> RateLimit | None:
    if not text:
        return None
    number, _, period = text.partition("/")
    try:
        requests = _whole(1, RATE_REQUESTS_MAX)(number)
        return RateLimit(requests, PERIODS_S[period])
    except (ValueError, KeyError):
        raise ValueError(
            f"must be a number of requests from 1 to {RATE_REQUESTS_MAX}, a slash and one of {', '.join(PERIODS_S)}"
        ) from None


LAG_POSITIONS_MAX = 10**12
LAG_SECONDS_MAX = 86_400


def _lag_max(text: str) -> LagMax:
    try:
        if text.endswith("s"):
            return LagMax(None, _seconds(0.5, LAG_SECONDS_MAX)(text.removesuffix("s")))
        return LagMax(_whole(1, LAG_POSITIONS_MAX)(text), None)
    except ValueError:
        raise ValueError(
            f"must be seconds from 0.5s to {LAG_SECONDS_MAX}s, or positions from 1 to {LAG_POSITIONS_MAX}"
        ) from None


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return text

    return parse


def _optional(check: Callable[[str], str]) -> Callable[[str], str]:
    return lambda path: check(path) if path else ""


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(part.strip() for part in text.split(",") if part.strip())
    if wrong := [origin for origin in origins if not origin.startswith(("http://", "https://"))]:
        raise ValueError(f"must be origins such as https://app.example, not {wrong[0]!r}")
    return origins


TABLE: tuple[Variable, ...] = (
    Variable(
        "database_url",
        _database_url,
        None,
        "PostgreSQL 18 or newer, `postgresql://user:password@host:port/database`",
        secret=True,
    ),
    Variable(
        "read_database_url",
        _read_database_url,
        "",
        "standbys of that PostgreSQL from which pages are read, `postgresql://user:password@host:port[,…]/database`",
        secret=True,
    ),
    Variable(
        "read_lag_max",
        _lag_max,
        "5s",
        "how far behind the primary a replica may be, in seconds (`5s`) or positions (`10000`)",
    ),
    Variable(
        "read_min_position_from",
        _one_of("replica", "primary"),
        "replica",
        "what answers a request that names a position: a `replica` once it has reached it, or the `primary`",
    ),
    Variable(
        "nats_url",
        _nats_urls,
        None,
        "NATS with JetStream, `nats://host:port[,…]`",
        secret=True,
    ),
    Variable(
        "nats_ca_file",
        _optional(credential_files.ca_file),
        "",
        "file of the CA certificates that may sign the broker's; empty: the system's",
    ),
    Variable(
        "nats_cert_file",
        _optional(credential_files.certificate_file),
        "",
        "file of the client certificate for the broker",
    ),
    Variable("nats_key_file", _optional(credential_files.key_file), "", "file of the client certificate's private key"),
    Variable("nats_creds_file", _optional(credential_files.creds_file), "", "NATS creds file (JWT and nkey seed)"),
    Variable("nats_nkey_file", _optional(credential_files.nkey_file), "", "file of an nkey seed"),
    Variable(
        "jwt_secret",
        identity_settings.jwt_secret,
        None,
        "shared secret of HS256 tokens, 32 bytes or more",
        secret=True,
    ),
    Variable(
        "jwks_url",
        identity_settings.jwks_url,
        "",
        "where the issuer publishes its key set; empty: nowhere",
        shown=False,
    ),
    Variable("jwks_file", str, "", "a file with a key set; empty: none"),
    Variable(
        "jwks_ca_file", str, "", "authorities that the issuer's certificate is verified with; empty: the public ones"
    ),
    Variable(
        "jwks_algorithms", identity_settings.algorithms, "", "algorithms accepted with a key set; empty: all supported"
    ),
    Variable(
        "jwks_stale_max_s",
        _seconds(60, 30 * 86_400),
        "86400",
        "how long keys stay valid while the key set cannot be read",
    ),
    Variable("jwt_issuer", identity_settings.words, "", "accepted `iss` of a token; empty: not checked"),
    Variable("jwt_audience", identity_settings.words, "", "values of which `aud` must contain one; empty: not checked"),
    Variable("jwt_user_claim", identity_settings.claim_path, "sub", "dotted path of the claim with the user's id"),
    Variable("jwt_user_id", _one_of("uuid", "uuid5"), "uuid", "`uuid5` maps a user id that is no UUID to one"),
    Variable(
        "jwt_admin_claim",
        identity_settings.claim_path,
        "",
        "dotted path of the claim that makes an admin; empty: `role` or the list `roles`",
    ),
    Variable("jwt_admin_value", str, "admin", "value of that claim, or an item of it, that makes an admin"),
    Variable("http_host", str, "127.0.0.1", "address on which the API listens; `0.0.0.0` in a container"),
    Variable("http_port", _whole(0, 65535), "8000", "port on which the API listens"),
    Variable("http_workers", worker_count, "1", "worker processes of the API; `auto`: one a core"),
    Variable(
        "projector_http_host",
        str,
        "127.0.0.1",
        "address on which a projector serves /metrics and /health; `0.0.0.0` in a container",
    ),
    Variable(
        "projector_http_port",
        _port_or_none,
        "",
        "port on which a projector serves /metrics and /health; empty: they are not served",
    ),
    Variable(
        "cors_origins", _origins, "", "origins from which browsers may call the API, separated by commas; empty: none"
    ),
    Variable("database_connections_max", _whole(1, 200), "10", "connections of one API process to PostgreSQL"),
    Variable("read_timeout_s", _seconds(0.1, 60), "5", "limit on one read; a longer one is answered with 503"),
    Variable(
        "database_acquire_timeout_s",
        _seconds(0.05, 10),
        "0.8",
        "how long a read waits for a connection to PostgreSQL; then it is answered with 503",
    ),
    Variable(
        "reads_waiting_max",
        _whole(1, 65_536),
        "1024",
        "reads in the default order that may wait for PostgreSQL in one worker; further ones are answered with 503",
    ),
    Variable("rate_limit", _rate_limit, "", "requests of each caller to one worker, `100/second`; empty: any number"),
    Variable("http_connections_max", _whole(16, 65_536), "2560", "connections open at the same time in one worker"),
    Variable(
        "http_idle_timeout_s",
        _seconds(1, 600),
        "10",
        "how long a connection may take to send a request's head, or stay idle, before it is closed",
    ),
    Variable("http_head_bytes_max", _whole(8_192, 1_048_576), "24576", "size of a request's head; beyond it 431"),
    Variable("http_query_bytes_max", _whole(256, 65_536), "8192", "length of a query string; beyond it 414"),
    Variable(
        "http_content_bytes_max",
        _whole(0, 1_048_576),
        "16384",
        "stated length of a request's content, which is never read; beyond it 413",
    ),
    Variable("credential_bytes_max", _whole(256, 65_536), "8192", "length of a credential header; beyond it 401"),
    Variable("search_length_max", _whole(1, 65_536), "8192", "characters of a search text; beyond it 422"),
    Variable(
        "cursor_age_max_s",
        _whole(0, 31_536_000),
        "0",
        "seconds after which a cursor is refused; 0: never",
    ),
    Variable(
        "drain_s",
        _seconds(0, 60),
        "3",
        "how long the API keeps answering after SIGTERM, with its readiness check failing, before it stops",
    ),
    Variable("stream_replicas", _whole(1, 5), "1", "replicas of the stream, raised if it has fewer; 3 in a cluster"),
    Variable("batch_events_max", _whole(1, 50_000), "16000", "maximum number of events applied in one transaction"),
    Variable(
        "rollback_window_s",
        _seconds(0, 30 * 86_400),
        "86400",
        "how long a replaced generation follows the stream, ready for `membership rollback`, before it is dropped",
    ),
    Variable(
        "approval_wait_s",
        _seconds(1, 7 * 86_400),
        "3600",
        "how long a rebuild that was started at the console waits for an operator's decision if rows differ",
    ),
    Variable(
        "access_log",
        _one_of("off", "sampled", "on"),
        "off",
        "requests that the API logs: none, one in a hundred and every 5xx, or all",
    ),
    Variable("log_format", _one_of("console", "json"), "console", "`console` for people, `json` for machines"),
    Variable("log_level", _one_of("debug", "info", "warning", "error"), "info", "lowest level that is logged"),
)

DEFAULTS: Mapping[str, str] = {variable.field: variable.default for variable in TABLE if variable.default}
"""The settings' defaults, as text."""

VARIABLES: tuple[str, ...] = tuple(
    name
    for variable in TABLE
    for name in ([variable.name, variable.name + "_FILE"] if variable.secret else [variable.name])
)
"""Every environment variable that is read, including the `_FILE` forms of secrets."""

RESERVED_PREFIXES = ("MEMBERSHIP_TEST_", "MEMBERSHIP_BENCH_")
"""Variables of the test suite and the benchmarks; their child processes inherit them and ignore them."""

SERVICE_LINK = re.compile(
    r"MEMBERSHIP_(?:[A-Z0-9_]+_)?"
    r"(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
"""Variables that Kubernetes and Docker links set in containers next to a service named `membership…`."""
SERVICE_LINK_URLS = ("tcp://", "udp://", "sctp://")
"""How the value of a link's `<SERVICE>_PORT` starts; by its name alone it could be a misspelt setting."""
SIMILARITY_MIN = 0.75
"""Minimum similarity (difflib's ratio) of a suggested name: one or two letters, or one word, may differ."""


def load(needed: set[str], environment: Mapping[str, str]) -> Settings:
    """Read the settings; `needed` names the fields that the calling process requires.

    Raises `SettingsInvalid` with every problem found, including unknown variables. `<NAME>_FILE` may name a file that
    contains a secret. `IDENTITY` in `needed` requires one of IDENTITY_FIELDS.
    """
    values: dict[str, Any] = {}
    problems = unknown_variables(environment)
    for variable in TABLE:
        try:
            values[variable.field] = _read(variable, environment, variable.field in needed)
        except ValueError as problem:
            problems.append(str(problem))
    if IDENTITY in needed and not any(values.get(field, "invalid") for field in IDENTITY_FIELDS):
        problems.append(_NO_IDENTITY)
    if not problems:
        problems += _conflicts(values) + _replica_conflicts(values, environment)
        urls = {field: values[field] for field in ("database_url", "read_database_url")}
        for field in ("database_url", *(["read_database_url"] if urls["read_database_url"] else [])):
            problems += database_tls.environment_problems(urls[field], environment, PREFIX + field.upper())
        problems = list(dict.fromkeys(problems))  # both URLs use the same environment
    if problems:
        raise SettingsInvalid(problems)
    return Settings(**values)


_NO_IDENTITY = (
    "MEMBERSHIP_JWT_SECRET, MEMBERSHIP_JWKS_URL and MEMBERSHIP_JWKS_FILE are all missing: set the shared secret of "
    "HS256 tokens, or the URL or file of the key set of an identity provider."
)


def _conflicts(values: Mapping[str, str]) -> list[str]:
    """Return a sentence for each setting that is valid alone but not together with the others."""
    problems = []
    if values["nats_creds_file"] and values["nats_nkey_file"]:
        problems.append("MEMBERSHIP_NATS_CREDS_FILE and MEMBERSHIP_NATS_NKEY_FILE are both set; set one of them.")
    certificate, key = values["nats_cert_file"], values["nats_key_file"]
    if key and not certificate:
        problems.append("MEMBERSHIP_NATS_KEY_FILE is set without MEMBERSHIP_NATS_CERT_FILE; set both or neither.")
    if certificate:
        try:
            credential_files.require_pair(certificate, key or certificate)
        except ValueError as problem:
            problems.append(f"MEMBERSHIP_NATS_CERT_FILE ({certificate!r}) {problem}.")
    return problems


def _replica_conflicts(values: Mapping[str, str], environment: Mapping[str, str]) -> list[str]:
    """Return a sentence if there are replicas, but the other URL does not select the primary."""
    options = parse_qs(urlsplit(values["database_url"]).query).get("target_session_attrs", [])
    selected = options[-1] if options else environment.get("PGTARGETSESSIONATTRS", "primary")
    if not values["read_database_url"] or selected in {"primary", "read-write"}:
        return []
    problem = (
        f"MEMBERSHIP_READ_DATABASE_URL is set, and MEMBERSHIP_DATABASE_URL selects a server by target_session_attrs="
        f"{selected}, which may be a standby: remove that option, so that notices and keys come from the primary."
    )
    return [problem]


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Return a sentence for each non-empty variable with our prefix that is not a setting."""
    return [
        f"{name} is not a setting; {_suggestion(name)}."
        for name, value in sorted(environment.items())
        if value and name.startswith(PREFIX) and not _is_known(name, value)
    ]


def _is_known(name: str, value: str) -> bool:
    return (
        name in VARIABLES
        or name.startswith(RESERVED_PREFIXES)
        or SERVICE_LINK.fullmatch(name) is not None
        or (name.endswith("_PORT") and value.startswith(SERVICE_LINK_URLS))
    )


def _suggestion(name: str) -> str:
    similar = get_close_matches(name, VARIABLES, n=1, cutoff=SIMILARITY_MIN)
    return f"did you mean {similar[0]}" if similar else "docs/configuration.md lists all settings; unset it"


def database_location(url: str) -> str:
    """Return host, port and database of a PostgreSQL URL for a message, without user and password."""
    parts = urlsplit(url)
    options = parse_qs(parts.query)
    hosts = parts.netloc.rpartition("@")[2] or ",".join(options.get("host", ["localhost"]))
    database = unquote(parts.path.removeprefix("/")) or options.get("dbname", options.get("database", [""]))[0]
    if "@" in database:  # an unescaped slash in the password: the path is not only the database name
        return "the server in MEMBERSHIP_DATABASE_URL"
    return f"{_with_ports(hosts.split(','), options.get('port', ['5432'])[0])}{database and f', database {database}'}"


def _with_ports(hosts: Iterable[str], port: str) -> str:
    return ", ".join(host if re.search(r":\d+\Z", host) or host.startswith("/") else f"{host}:{port}" for host in hosts)


def _read(variable: Variable, environment: Mapping[str, str], needed: bool) -> Any:  # noqa: ANN401 - by field
    text, source = _text(variable, environment)
    if not text:
        if needed and variable.default is None:
            raise ValueError(f"{variable.name} is missing: {variable.meaning}.")
        text = variable.default or ""
        if not text:
            return variable.parse("") if variable.default is not None else ""
    try:
        return variable.parse(text)
    except ValueError as problem:
        shown = f" ({text!r})" if variable.shown and not variable.secret else ""
        raise ValueError(f"{source}{shown} {problem}.") from None


def _text(variable: Variable, environment: Mapping[str, str]) -> tuple[str, str]:
    file_name = variable.name + "_FILE"
    path = environment.get(file_name) if variable.secret else None
    if not path:
        return environment.get(variable.name, ""), variable.name
    if environment.get(variable.name):
        raise ValueError(f"{variable.name} and {file_name} are both set; set one of them.")
    try:
        return Path(path).read_text(encoding="utf-8").strip(), file_name
    except (OSError, UnicodeDecodeError) as problem:
        raise ValueError(f"{file_name} names a file that cannot be read: {error_text(problem)}.") from None
