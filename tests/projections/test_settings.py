"""Settings are read from the environment, and all their errors are reported at once."""

from pathlib import Path

import pytest
from asyncpg.connect_utils import SessionAttribute, SSLMode

from projections.errors import SettingsInvalid
from projections.settings import (
    DATABASE_OPTIONS,
    IDENTITY,
    TABLE,
    VARIABLES,
    LagMax,
    RateLimit,
    database_location,
    load,
)
from tests.support.certificates import Authority

SECRET = "s" * 32
GOOD = {
    "MEMBERSHIP_DATABASE_URL": "postgresql://me@db/membership",
    "MEMBERSHIP_NATS_URL": "nats://a:4222, nats://b:4222",
    "MEMBERSHIP_JWT_SECRET": SECRET,
}
ALL = {"database_url", "nats_url", "jwt_secret"}


def problems(environment: dict[str, str], needed: set[str] = ALL) -> list[str]:
    with pytest.raises(SettingsInvalid) as caught:
        load(needed, environment)
    return list(caught.value.problems)


def test_missing_settings_have_defaults() -> None:
    settings = load(ALL, GOOD)
    assert (settings.http_host, settings.http_port, settings.cors_origins) == ("127.0.0.1", 8000, ())


def test_a_rate_limit_is_a_number_of_requests_in_a_period() -> None:
    assert load(ALL, GOOD).rate_limit is None
    assert load(ALL, {**GOOD, "MEMBERSHIP_RATE_LIMIT": "100/second"}).rate_limit == RateLimit(100, 1)
    assert load(ALL, {**GOOD, "MEMBERSHIP_RATE_LIMIT": "5/hour"}).rate_limit == RateLimit(5, 3600)


def test_the_lag_of_a_replica_is_limited_in_seconds_or_positions() -> None:
    assert load(ALL, GOOD).read_lag_max == LagMax(None, 5.0)
    assert load(ALL, {**GOOD, "MEMBERSHIP_READ_LAG_MAX": "0.5s"}).read_lag_max == LagMax(None, 0.5)
    assert load(ALL, {**GOOD, "MEMBERSHIP_READ_LAG_MAX": "10000"}).read_lag_max == LagMax(10_000, None)
    for wrong in ("0.1s", "90000s", "0", "5m", "-1", "s"):
        (line,) = problems({**GOOD, "MEMBERSHIP_READ_LAG_MAX": wrong})
        assert line.startswith(f"MEMBERSHIP_READ_LAG_MAX ({wrong!r}) must be seconds")


READ_URLS_REFUSED = {
    "db1,db2/membership": "must start with",
    "postgresql://me@db1,db2:x/membership": "for a port",
    "postgresql://me@db1,/membership": "one of them is empty",
    "postgresql://me@db1/membership?target_session_attrs=primary": "must not ask for a primary",
    "postgresql://me@db1/membership?sslmode=perhaps": "must have one of",
}


@pytest.mark.parametrize("url", READ_URLS_REFUSED)
def test_a_url_of_replicas_that_cannot_be_used_is_refused(url: str) -> None:
    (line,) = problems({**GOOD, "MEMBERSHIP_READ_DATABASE_URL": url})
    assert line.startswith("MEMBERSHIP_READ_DATABASE_URL ")
    assert READ_URLS_REFUSED[url] in line


def test_with_replicas_the_other_url_must_select_the_primary() -> None:
    replicas = {**GOOD, "MEMBERSHIP_READ_DATABASE_URL": "postgresql://me@db1,db2/membership"}
    assert load(ALL, replicas).read_database_url
    url = GOOD["MEMBERSHIP_DATABASE_URL"]
    assert load(ALL, replicas | {"MEMBERSHIP_DATABASE_URL": url + "?target_session_attrs=read-write"})
    for further in (
        {"MEMBERSHIP_DATABASE_URL": url + "?target_session_attrs=any"},
        {"PGTARGETSESSIONATTRS": "standby"},
    ):
        (line,) = problems(replicas | further)
        assert "MEMBERSHIP_READ_DATABASE_URL is set, and MEMBERSHIP_DATABASE_URL selects" in line


def test_every_missing_and_invalid_variable_is_named_at_once() -> None:
    lines = problems(
        {"MEMBERSHIP_HTTP_PORT": "80000", "MEMBERSHIP_LOG_FORMAT": "xml", "MEMBERSHIP_JWT_SECRET": "short"}
    )
    names = [line.split()[0] for line in lines]
    assert sorted(names) == [
        "MEMBERSHIP_DATABASE_URL",
        "MEMBERSHIP_HTTP_PORT",
        "MEMBERSHIP_JWT_SECRET",
        "MEMBERSHIP_LOG_FORMAT",
        "MEMBERSHIP_NATS_URL",
    ]


def test_only_needed_settings_are_required() -> None:
    assert load(set(), {}).database_url == ""
    assert len(problems({}, {"nats_url"})) == 1


def test_a_secret_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRET + "\n", encoding="utf-8")
    environment = {**GOOD, "MEMBERSHIP_JWT_SECRET": "", "MEMBERSHIP_JWT_SECRET_FILE": str(file)}
    assert load(ALL, environment).jwt_secret == SECRET


def test_a_secret_set_twice_or_in_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    set_twice = {**GOOD, "MEMBERSHIP_JWT_SECRET_FILE": str(tmp_path / "x")}
    assert "both set" in problems(set_twice)[0]
    missing = {**set_twice, "MEMBERSHIP_JWT_SECRET": ""}
    assert "cannot be read" in problems(missing)[0]


def test_a_secret_is_never_shown() -> None:
    for name in ("MEMBERSHIP_JWT_SECRET", "MEMBERSHIP_DATABASE_URL"):
        message = problems({**GOOD, name: "hunter2"})[0]
        assert "hunter2" not in message
        assert name in message


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("HTTP_PORT", "-1"),
        ("HTTP_PORT", "٣"),
        ("READ_TIMEOUT_S", "nan"),
        ("READ_TIMEOUT_S", "soon"),
        ("CORS_ORIGINS", "example.org"),
        ("DATABASE_CONNECTIONS_MAX", "0"),
        ("NATS_URL", "http://x"),
        ("DATABASE_URL", "mysql://x"),
        ("DATABASE_URL", "mysql://a,b/members"),
        ("DATABASE_URL", "postgresql://a:5432,b:99999/members"),
        ("JWKS_URL", "issuer/keys"),
        ("JWKS_URL", "ftp://issuer/keys"),
        ("JWKS_URL", "https://"),
        ("JWKS_URL", "https://issuer:99999/keys"),
        ("JWKS_URL", "https://me@issuer/keys"),
        ("JWKS_URL", "https://issuer/keys#first"),
        ("JWKS_URL", "http://issuer/keys"),
        ("JWKS_URL", "http://127.0.0.1.issuer/keys"),
        ("JWKS_ALGORITHMS", "RS256,HS256"),
        ("JWKS_ALGORITHMS", "none"),
        ("JWKS_STALE_MAX_S", "1"),
        ("JWT_USER_CLAIM", "realm_access..id"),
        ("JWT_ADMIN_CLAIM", ".roles"),
        ("JWT_ADMIN_CLAIM", "realm_access. roles"),
        ("JWT_ADMIN_CLAIM", ".".join("abcdefghijk")),
        ("JWT_USER_ID", "any"),
        ("RATE_LIMIT", "100"),
        ("RATE_LIMIT", "0/second"),
        ("RATE_LIMIT", "5/fortnight"),
        ("RATE_LIMIT", "5/second/second"),
        ("READS_WAITING_MAX", "0"),
        ("DATABASE_ACQUIRE_TIMEOUT_S", "0"),
        ("HTTP_CONNECTIONS_MAX", "15"),
        ("HTTP_IDLE_TIMEOUT_S", "0"),
        ("HTTP_HEAD_BYTES_MAX", "8191"),
        ("HTTP_QUERY_BYTES_MAX", "8 KB"),
        ("HTTP_CONTENT_BYTES_MAX", "-1"),
        ("CREDENTIAL_BYTES_MAX", "1"),
        ("SEARCH_LENGTH_MAX", "0"),
        ("CURSOR_AGE_MAX_S", "1.5"),
    ],
)
def test_an_invalid_value_is_refused_with_its_variable(name: str, text: str) -> None:
    (problem,) = problems({**GOOD, f"MEMBERSHIP_{name}": text})
    assert problem.startswith(f"MEMBERSHIP_{name}")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("sub", ("sub",)),
        ("realm_access.roles", ("realm_access", "roles")),
        (r"https://membership\.example/roles", ("https://membership.example/roles",)),
        (r"resource_access.my\.client.roles", ("resource_access", "my.client", "roles")),
    ],
)
def test_a_dot_separates_the_names_of_a_claim_unless_escaped(text: str, path: tuple[str, ...]) -> None:
    assert load(ALL, {**GOOD, "MEMBERSHIP_JWT_ADMIN_CLAIM": text}).jwt_admin_claim == path


@pytest.mark.parametrize("url", ["https://id.example/jwks", "http://localhost:8080/jwks", "http://[::1]/jwks"])
def test_a_key_set_is_read_by_https_or_from_this_machine(url: str) -> None:
    assert load(ALL, {**GOOD, "MEMBERSHIP_JWKS_URL": url}).jwks_url == url


@pytest.mark.parametrize("name", ["JWT_SECRET", "JWKS_URL", "JWKS_FILE"])
def test_one_source_of_keys_is_enough_and_none_is_an_error(name: str) -> None:
    value = {"JWT_SECRET": SECRET, "JWKS_URL": "https://id.example/jwks", "JWKS_FILE": "/keys.json"}[name]
    load({IDENTITY}, {f"MEMBERSHIP_{name}": value})
    (problem,) = problems({}, {IDENTITY})
    assert f"MEMBERSHIP_{name}" in problem
    (problem,) = problems({"MEMBERSHIP_JWT_SECRET": "short"}, {IDENTITY})
    assert problem.startswith("MEMBERSHIP_JWT_SECRET must")


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("HTTP_POTR", "did you mean MEMBERSHIP_HTTP_PORT"),
        ("HTTP_PORTS", "did you mean MEMBERSHIP_HTTP_PORT"),
        ("HTPP_PORT", "did you mean MEMBERSHIP_HTTP_PORT"),
        ("DATABASE_URL_FIEL", "did you mean MEMBERSHIP_DATABASE_URL_FILE"),
        ("LOGLEVEL", "did you mean MEMBERSHIP_LOG_LEVEL"),
        ("JWKS_URI", "did you mean MEMBERSHIP_JWKS_URL"),
        ("COLOUR_OF_THE_SKY", "docs/configuration.md lists all settings"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_closest_name(name: str, suggestion: str) -> None:
    (problem,) = problems({**GOOD, f"MEMBERSHIP_{name}": "8080"})
    assert problem.startswith(f"MEMBERSHIP_{name} is not a setting; {suggestion}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MEMBERSHIP_TEST_SEEDS", "3"),
        ("MEMBERSHIP_BENCH_ROWS", "3"),
        ("MEMBERSHIP_HTTP_POTR", ""),
        ("MEMBERSHIP", "x"),
        ("MEMBERSHIP_PORT", "tcp://10.0.0.1:80"),
        ("MEMBERSHIP_SERVICE_HOST", "10.0.0.1"),
        ("MEMBERSHIP_API_SERVICE_PORT_HTTP", "80"),
        ("MEMBERSHIP_API_PORT_80_TCP_ADDR", "10.0.0.1"),
    ],
)
def test_variables_of_tests_and_of_kubernetes_are_accepted(name: str, value: str) -> None:
    load(ALL, {**GOOD, name: value})


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("postgresql://me:hunter2@db.example:6432/members", "db.example:6432, database members"),
        ("postgresql://me:hunter2@a,b:6432/members", "a:5432, b:6432, database members"),
        ("postgresql://me:hunter2@[::1]/members?sslmode=require", "[::1]:5432, database members"),
        ("postgresql:///members?host=/run/postgresql", "/run/postgresql, database members"),
        ("postgresql://me:hunter2@db", "db:5432"),
        ("postgresql://me:1/hunter2@db/members", "the server in MEMBERSHIP_DATABASE_URL"),
    ],
)
def test_a_database_location_omits_the_password(url: str, location: str) -> None:
    assert database_location(url) == location


@pytest.mark.parametrize("option", ["target_session_attrs=bogus", "sslmode=on", "sslmode=disable&sslmode=on"])
@pytest.mark.parametrize("hosts", ["db", "a,b:6432"])
def test_an_invalid_option_of_the_database_url_is_refused(hosts: str, option: str) -> None:
    (problem,) = problems({**GOOD, "MEMBERSHIP_DATABASE_URL": f"postgresql://me:hunter2@{hosts}/members?{option}"})
    name = option.split("=", maxsplit=1)[0]
    assert problem.startswith("MEMBERSHIP_DATABASE_URL must have one of ")
    assert problem.endswith(f" for {name}.")


def test_the_options_of_the_database_url_are_those_of_asyncpg(tmp_path: Path) -> None:
    root = Authority(tmp_path, "ca").path
    assert set(DATABASE_OPTIONS["target_session_attrs"]) == {attribute.value for attribute in SessionAttribute}
    assert set(DATABASE_OPTIONS["sslmode"]) == {mode.name.replace("_", "-") for mode in SSLMode}
    for name, words in DATABASE_OPTIONS.items():
        for word in words:
            url = f"postgresql://me@db/members?{name}={word}&sslrootcert={root}"
            load(ALL, {**GOOD, "MEMBERSHIP_DATABASE_URL": url})


def test_the_list_of_variables_has_no_duplicates() -> None:
    assert len(VARIABLES) == len(set(VARIABLES)) == len(TABLE) + 4
