"""A certificate or key file that cannot be used is named at start, before anything connects."""

from collections.abc import Callable
from pathlib import Path

import pytest

from projections import nkeys
from projections.errors import SettingsInvalid
from projections.settings import load
from tests.support.certificates import Authority
from tests.support.command import membership

FILES = ("NATS_CA_FILE", "NATS_CERT_FILE", "NATS_KEY_FILE", "NATS_CREDS_FILE", "NATS_NKEY_FILE")
OPTIONS = ("sslrootcert", "sslcrl", "sslcert", "sslkey")
URLS = {"MEMBERSHIP_DATABASE_URL": "postgresql://me@db/membership", "MEMBERSHIP_NATS_URL": "tls://nats:4222"}


def problems(environment: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsInvalid) as caught:
        load(set(), environment)
    return list(caught.value.problems)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named_with_its_variable(name: str, tmp_path: Path) -> None:
    (problem,) = problems({f"MEMBERSHIP_{name}": str(tmp_path / "missing")})
    assert problem.startswith(
        f"MEMBERSHIP_{name} ('{tmp_path}/missing') names a file that cannot be read: No such file"
    )


@pytest.mark.parametrize("name", FILES)
def test_a_file_with_other_content_is_refused_and_not_shown(name: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("hunter2\n", encoding="ascii")
    (problem,) = problems({f"MEMBERSHIP_{name}": str(file)})
    assert problem.startswith(f"MEMBERSHIP_{name} ")
    assert "hunter2" not in problem


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("content", [None, "hunter2"])
def test_a_bad_file_in_the_database_url_is_refused(name: str, content: str | None, tmp_path: Path) -> None:
    file = tmp_path / "file"
    if content:
        file.write_text(content, encoding="ascii")
    (problem,) = problems({"MEMBERSHIP_DATABASE_URL": f"postgresql://me:secret@db/m?{name}={file}"})
    assert problem.startswith(f"MEMBERSHIP_DATABASE_URL has an option {name} that names a file ")
    assert "secret" not in problem
    assert "hunter2" not in problem


def _cut(text: str) -> str:
    return text[:-1]


def _altered(text: str) -> str:
    return text[:20] + ("A" if text[20] != "A" else "B") + text[21:]


@pytest.mark.parametrize("damage", [_cut, _altered])
def test_a_damaged_nkey_seed_is_refused(damage: Callable[[str], str], tmp_path: Path) -> None:
    file = tmp_path / "seed"
    file.write_text(damage(nkeys.new_seed()), encoding="ascii")
    (problem,) = problems({"MEMBERSHIP_NATS_NKEY_FILE": str(file)})
    assert "seed" in problem


def test_an_nkey_of_the_reference_implementation_is_read() -> None:
    # The user's key of the examples in docs.nats.io and github.com/nats-io/nkeys.
    seed = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"
    assert nkeys.read_seed(seed).public == "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"


def test_a_certificate_without_its_own_key_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    one, other = authority.certificate("one"), authority.certificate("other")
    pair = {"MEMBERSHIP_NATS_CERT_FILE": str(one.path), "MEMBERSHIP_NATS_KEY_FILE": str(one.key)}
    load(set(), pair)
    mismatch = pair | {"MEMBERSHIP_NATS_KEY_FILE": str(other.key)}
    assert "does not fit the key" in problems(mismatch)[0]
    without_certificate = pair | {"MEMBERSHIP_NATS_CERT_FILE": ""}
    assert "without MEMBERSHIP_NATS_CERT_FILE" in problems(without_certificate)[0]


def test_creds_and_nkey_together_are_refused(tmp_path: Path) -> None:
    seed = nkeys.new_seed()
    (tmp_path / "nk").write_text(seed, encoding="ascii")
    (tmp_path / "creds").write_text(
        f"-----BEGIN NATS USER JWT-----\nx.y.z\n------END NATS USER JWT------\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n",
        encoding="ascii",
    )
    both = {
        "MEMBERSHIP_NATS_NKEY_FILE": str(tmp_path / "nk"),
        "MEMBERSHIP_NATS_CREDS_FILE": str(tmp_path / "creds"),
    }
    assert "both set" in problems(both)[0]


@pytest.mark.parametrize("option", ["channel_binding=require", "sslcrldir=/x", "gssencmode=disable"])
def test_an_option_that_asyncpg_lacks_is_refused_at_start(option: str) -> None:
    (problem,) = problems({"MEMBERSHIP_DATABASE_URL": f"postgresql://me:secret@db/m?{option}"})
    assert problem.startswith(f"MEMBERSHIP_DATABASE_URL must not have {option.partition('=')[0]}, which asyncpg")
    assert "secret" not in problem


def test_a_server_that_must_be_verified_needs_a_ca() -> None:
    for mode in ("verify-ca", "verify-full"):
        (problem,) = problems({"MEMBERSHIP_DATABASE_URL": f"postgresql://me@db/m?sslmode={mode}"})
        assert problem.startswith(f"MEMBERSHIP_DATABASE_URL asks for sslmode={mode} and names no CA")
    (problem,) = problems({"MEMBERSHIP_DATABASE_URL": "postgresql://me@db/m?sslmode=verify-full&sslrootcert=system"})
    assert "is `system`, which asyncpg does not support" in problem


@pytest.mark.parametrize("name", OPTIONS)
def test_a_missing_file_of_a_libpq_variable_is_named(name: str, tmp_path: Path) -> None:
    variable = f"PG{name.upper()}"
    environment = {"MEMBERSHIP_DATABASE_URL": "postgresql://me@db/m", variable: str(tmp_path / "missing")}
    assert problems(environment)[0].startswith(f"{variable} ('{tmp_path}/missing') names a file that cannot be read")
    load(set(), environment | {"PGSSLMODE": "disable"})


@pytest.mark.parametrize("command", ["serve", "project", "migrate"])
async def test_a_process_with_an_unreadable_file_exits_with_code_2(command: str, tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"
    environment = URLS | {
        "MEMBERSHIP_DATABASE_URL": f"postgresql://me:secret@db/m?sslmode=verify-full&sslrootcert={missing}",
        "MEMBERSHIP_JWT_SECRET": "s" * 32,
        "MEMBERSHIP_NATS_CA_FILE": str(missing),
    }
    outcome = await membership(environment, command)
    assert (outcome.code, outcome.out) == (2, "")
    assert "MEMBERSHIP_DATABASE_URL has an option sslrootcert that names a file that cannot be read" in outcome.err
    assert "MEMBERSHIP_NATS_CA_FILE" in outcome.err
