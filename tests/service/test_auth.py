"""Authentication: which credentials are accepted, for which principal; every invalid one gives 401, nothing else."""

import base64
import hashlib
import hmac
import json
import re
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from projections import api_keys
from projections.errors import DatabaseNotMigrated
from projections.settings import DEFAULTS, load
from projections.store import database as databases
from service.auth import Authenticator
from service.identity import issuer_keys
from service.identity.refusals import Refusal
from tests.support.builders import owner_id
from tests.support.processes import JWT_SECRET, System, eventually
from tests.support.scenario import Scenario, another_api, bearer, code_of, locs, new_number, path_of

UNKNOWN_CUSTOMER = "/customers/c0000000-0000-4000-8000-ffffffffffff/campaigns"
REVOKED_WITHIN_S = 5.0
CREDENTIAL_BYTES_MAX = int(DEFAULTS["credential_bytes_max"])
HS256 = {"alg": "HS256", "typ": "JWT"}
ABSENT: Any = object()


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(header: str, claims: str, secret: str = JWT_SECRET, digest: str = "sha256") -> str:
    """Return a correctly signed token of exactly these texts, well-formed or not."""
    unsigned = f"{b64(header.encode(errors='surrogatepass'))}.{b64(claims.encode(errors='surrogatepass'))}"
    return f"{unsigned}.{b64(hmac.digest(secret.encode(), unsigned.encode(), digest))}"


def token(header: dict[str, Any] | None = None, secret: str = JWT_SECRET, digest: str = "sha256", **claims: Any) -> str:
    """Return an admin's token, valid unless an argument makes it invalid; `ABSENT` removes a claim."""
    whole = {"sub": owner_id(1), "role": "admin", "exp": int(time.time()) + 3600} | claims
    kept = {name: value for name, value in whole.items() if value is not ABSENT}
    return signed(json.dumps(HS256 if header is None else header), json.dumps(kept), secret, digest)


async def get_with(scenario: Scenario, path: str = UNKNOWN_CUSTOMER, /, **headers: str | bytes) -> httpx.Response:
    """Send a request with these headers only; underscores in their names become hyphens."""
    lines = [(name.replace("_", "-").encode(), _bytes(value)) for name, value in headers.items()]
    return await scenario.client.get(path, headers=lines)


async def is_rejected(scenario: Scenario, **headers: str | bytes) -> bool:
    """Return whether these headers give a complete 401, with a challenge."""
    reply = await get_with(scenario, **headers)
    if reply.status_code != 401:
        return False
    assert code_of(reply) == (401, "unauthenticated")
    assert reply.headers["www-authenticate"].startswith("Bearer")
    return True


async def is_accepted(scenario: Scenario, **headers: str | bytes) -> bool:
    """Return whether these headers are accepted: then the answer is 404, because the customer does not exist."""
    return code_of(await get_with(scenario, **headers)) == (404, "customer_not_found")


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


# --- Bearer tokens ---------------------------------------------------------------------------------------------------


async def test_a_valid_token_is_accepted_with_the_scheme_in_any_case(scenario: Scenario) -> None:
    for scheme in ("Bearer", "bearer", "BEARER"):
        assert await is_accepted(scenario, Authorization=f"{scheme} {token()}")


async def test_no_credentials_are_401_with_a_challenge(scenario: Scenario) -> None:
    assert await is_rejected(scenario)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer ",
        "{good}",
        "Basic {good}",
        "Token {good}",
        "Bearer: {good}",
        "Bearer {good} {good}",
        "Bearer {good},",
        "Bearer {good}.",
        "Bearer .{good}",
        "Bearer ..",
        "Bearer a.b.c",
        "Bearer null",
        "Bearer\t",
        "Bearer {good}=",
        "Bearer {half}",
        "Basic YWRtaW46YWRtaW4=",
        "Bearer {good}{good}",
        "Bearer, Bearer {good}",
    ],
)
async def test_a_malformed_header_or_another_scheme_is_401(scenario: Scenario, value: str) -> None:
    good = token()
    assert await is_rejected(scenario, Authorization=value.format(good=good, half=good[: len(good) // 2]).strip())


async def test_two_authorization_headers_are_401_even_if_both_are_valid(scenario: Scenario) -> None:
    lines = [("Authorization", f"Bearer {token()}")] * 2
    assert (await scenario.client.get(UNKNOWN_CUSTOMER, headers=lines)).status_code == 401


async def test_a_token_signed_with_another_secret_is_401(scenario: Scenario) -> None:
    for secret in ("another-secret-that-is-long-enough-too", JWT_SECRET[:-1], JWT_SECRET.upper(), ""):
        assert await is_rejected(scenario, Authorization=f"Bearer {token(secret=secret)}")


async def test_a_token_with_any_part_replaced_is_401(scenario: Scenario) -> None:
    header, claims, signature = token(role="user").split(".")
    other, bare = token(role="admin").split("."), b64(json.dumps({"alg": "HS256"}).encode())
    for forged in (
        f"{header}.{other[1]}.{signature}",
        f"{header}.{claims}.{other[2]}",
        f"{bare}.{claims}.{signature}",
        f"{header}.{claims}.",
        f"{header}.{claims}",
        f"{header}.{claims}.{signature[:-4]}",
        f"{header}.{claims}.{signature}AAAA",
    ):
        assert await is_rejected(scenario, Authorization=f"Bearer {forged}")


@pytest.mark.parametrize(
    "alg",
    [
        "none",
        "None",
        "NONE",
        "",
        "hs256",
        "HS384",
        "HS512",
        "RS256",
        "ES256",
        "PS256",
        "EdDSA",
        "HS256 ",
        None,
        256,
        ["HS256"],
        {"HS256": 1},
        True,
        "dir",
        "A256KW",
    ],
    ids=repr,
)
async def test_a_token_naming_another_algorithm_is_401_however_signed(scenario: Scenario, alg: Any) -> None:
    header = {"alg": alg, "typ": "JWT"}
    unsigned = token(header).rsplit(".", 1)[0]
    named_digest = "sha512" if alg == "HS512" else "sha384" if alg == "HS384" else "sha256"
    for forged in (token(header), token(header, digest=named_digest), f"{unsigned}."):
        assert await is_rejected(scenario, Authorization=f"Bearer {forged}")


@pytest.mark.parametrize("header", [{}, {"typ": "JWT"}, {"crit": ["exp"]}, {"crit": ["b64"], "b64": False}], ids=repr)
async def test_a_token_without_algorithm_or_with_unknown_crit_is_401(
    scenario: Scenario, header: dict[str, Any]
) -> None:
    whole = header | HS256 if "crit" in header else header
    assert await is_rejected(scenario, Authorization=f"Bearer {token(whole)}")


@pytest.mark.parametrize(
    "exp",
    [
        ABSENT,
        None,
        0,
        1,
        -1,
        "",
        "9999999999",
        "2099-01-01T00:00:00Z",
        True,
        False,
        [9999999999],
        {"at": 9999999999},
        float("nan"),
        float("inf"),
        -float("inf"),
        -(10**400),
    ],
    ids=lambda exp: "absent" if exp is ABSENT else repr(exp),
)
async def test_a_token_without_a_future_expiry_is_401(scenario: Scenario, exp: Any) -> None:
    assert await is_rejected(scenario, Authorization=f"Bearer {token(exp=exp)}")


async def test_a_token_is_accepted_until_it_expires(scenario: Scenario) -> None:
    now = int(time.time())
    assert await is_accepted(scenario, Authorization=f"Bearer {token(exp=now + 60)}")
    assert await is_rejected(scenario, Authorization=f"Bearer {token(exp=now - 1)}")
    soon = token(exp=now + 2)
    assert await is_accepted(scenario, Authorization=f"Bearer {soon}")
    await eventually(lambda: is_rejected(scenario, Authorization=f"Bearer {soon}"), "the token has expired", 5)


@pytest.mark.parametrize("exp", ["1" + "0" * 400, "1e400", "1" * 5000, "9" * 30], ids=lambda text: text[:6])
async def test_a_huge_expiry_is_401_or_never_expires(scenario: Scenario, exp: str) -> None:
    claims = f'{{"sub": "{owner_id(1)}", "role": "admin", "exp": {exp}}}'
    reply = await get_with(scenario, Authorization=f"Bearer {signed(json.dumps(HS256), claims)}")
    assert reply.status_code in {401, 404}


@pytest.mark.parametrize(
    "sub",
    [
        ABSENT,
        None,
        "",
        "admin",
        " ",
        5,
        0,
        1.5,
        True,
        [],
        {},
        ["a"],
        "\x00",
        "é",
        "�",
        "0" * 31,
        "0" * 33,
        "g" * 32,
        owner_id(1).replace("-", ""),
        "{" + owner_id(1) + "}",
        "urn:uuid:" + owner_id(1),
        "0x" + owner_id(1).replace("-", "")[2:],
        "_".join(owner_id(1).split("-")),
        " " + owner_id(1),
        owner_id(1) + "\n",
        owner_id(1).replace("1", "\u0661"),
        owner_id(1) + "\x00",
        owner_id(1)[:-1],
        [owner_id(1)],
        "x" * 8000,
    ],
    ids=lambda value: ascii(value)[:20],
)
async def test_a_token_whose_subject_is_not_a_uuid_is_401(scenario: Scenario, sub: Any) -> None:
    assert await is_rejected(scenario, Authorization=f"Bearer {token(sub=sub)}")


async def test_a_token_is_rejected_before_its_nbf(scenario: Scenario) -> None:
    now = int(time.time())
    assert await is_rejected(scenario, Authorization=f"Bearer {token(nbf=now + 60)}")
    assert await is_accepted(scenario, Authorization=f"Bearer {token(nbf=now - 60)}")


@pytest.mark.parametrize("claims", [[], "text", 5, None, True, [["sub", "x"]]], ids=repr)
async def test_claims_that_are_not_an_object_are_401(scenario: Scenario, claims: Any) -> None:
    forged = signed(json.dumps(HS256), json.dumps(claims))
    assert await is_rejected(scenario, Authorization=f"Bearer {forged}")


@pytest.mark.parametrize("header", ["[]", '"HS256"', "5", "null", "", "{", "{}{}", "\ud800"], ids=ascii)
async def test_a_header_that_is_not_an_object_is_401(scenario: Scenario, header: str) -> None:
    claims = json.dumps({"sub": owner_id(1), "exp": int(time.time()) + 60})
    assert await is_rejected(scenario, Authorization=f"Bearer {signed(header, claims)}")


async def test_unused_claims_are_ignored(scenario: Scenario) -> None:
    assert await is_accepted(scenario, Authorization=f"Bearer {token(iss='anyone', aud=['else'], jti='1', scope='x')}")


async def test_issuer_and_audience_are_checked_if_configured(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMBERSHIP_JWT_ISSUER", "https://id.example")
    monkeypatch.setenv("MEMBERSHIP_JWT_AUDIENCE", "membership")
    good = {"iss": "https://id.example", "aud": "membership"}
    cases: list[tuple[dict[str, Any], int]] = [
        (good, 404),
        (good | {"aud": ["another", "membership"]}, 404),
        ({}, 401),
        (good | {"iss": ABSENT}, 401),
        (good | {"aud": ABSENT}, 401),
        (good | {"iss": "https://id.example/"}, 401),
        (good | {"iss": ["https://id.example"]}, 401),
        (good | {"aud": "another"}, 401),
        (good | {"aud": []}, 401),
        (good | {"aud": "membership-too"}, 401),
        (good | {"aud": {"membership": 1}}, 401),
    ]
    async with another_api(system, tmp_path) as client:
        for claims, status in cases:
            reply = await client.get(UNKNOWN_CUSTOMER, headers={"Authorization": f"Bearer {token(**claims)}"})
            assert reply.status_code == status, claims


def _deep(depth: int, opening: str, closing: str) -> str:
    return opening * depth + closing * depth


HOSTILE = {
    "a deep header": signed(_deep(1_500, "[", "]"), "{}"),
    "a deep object as header": signed(_deep(1_100, '{"":', "}"), "{}"),
    "an endless header": signed("[" * 5_000, "{}"),
    "deep claims": signed(json.dumps(HS256), _deep(1_500, "[", "]")),
    "a deep claim": signed(json.dumps(HS256), f'{{"sub":"{owner_id(1)}","exp":9999999999,"x":{_deep(1_500, "[", "]")}'),
    "a deep role": signed(json.dumps(HS256), f'{{"sub":{_deep(1_500, "[", "]")},"exp":9999999999,"role":"admin"}}'),
    "8 KB of a": "a" * 8192,
    "8 KB of dots": "." * 8192,
    "8 KB of base64": f"{b64(b'x' * 3000)}.{b64(b'y' * 2000)}.{b64(b'z' * 1000)}",
    "8 KB of slashes": "/" * 8192,
    "a huge number": signed(json.dumps(HS256), '{"exp":' + "9" * 5000 + "}"),
    "duplicate keys": signed('{"alg":"HS256","alg":"none"}', "{}"),
    "five parts": "a.b.c.d.e",
    "binary claims": signed(json.dumps(HS256), "\x01\x02\xff"),
    "a surrogate": signed('{"alg":"HS256","kid":"\\ud800"}', '{"sub":"\\ud800","exp":9999999999}'),
    "a key by URL": signed('{"alg":"RS256","jku":"http://127.0.0.1:1/","kid":"../../dev/null"}', "{}"),
    "its own key": signed('{"alg":"HS256","jwk":{"kty":"oct","k":"AA"}}', '{"exp":9999999999}', "\0"),
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
async def test_a_hostile_token_is_401(scenario: Scenario, hostile: str) -> None:
    assert await is_rejected(scenario, Authorization=f"Bearer {hostile}")
    assert await is_accepted(scenario, Authorization=f"Bearer {token()}")


@pytest.mark.parametrize("raw", ["é", "🚀", "\u202e", "Ａ.Ｂ.Ｃ"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
async def test_non_ascii_credentials_are_401(scenario: Scenario, raw: str, encoding: str) -> None:
    odd = bytes(byte for byte in raw.encode(encoding) if byte > 0x20)
    assert await is_rejected(scenario, Authorization=b"Bearer " + odd)
    assert await is_rejected(scenario, Authorization=b"Bearer " + token().encode() + odd + b"x")
    assert await is_rejected(scenario, X_API_Key=b"mbr_" + odd + b"x")


# --- Admins ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "is_admin"),
    [
        ({"role": "admin"}, True),
        ({"role": "admin", "roles": []}, True),
        ({"role": "user", "roles": ["admin"]}, True),
        ({"roles": ["user", "admin"]}, True),
        ({"roles": ["admin", 5, None, ["x"]]}, True),
        ({}, False),
        ({"role": None}, False),
        ({"role": "user"}, False),
        ({"role": "Admin"}, False),
        ({"role": "admin "}, False),
        ({"role": "administrator"}, False),
        ({"role": ["admin"]}, False),
        ({"role": {"admin": True}}, False),
        ({"role": True}, False),
        ({"roles": "admin"}, False),
        ({"roles": "administrator"}, False),
        ({"roles": ["administrator"]}, False),
        ({"roles": ["ADMIN"]}, False),
        ({"roles": [["admin"]]}, False),
        ({"roles": {"admin": True}}, False),
        ({"roles": None}, False),
        ({"roles": 5}, False),
        ({"admin": True, "is_admin": True, "scope": "admin"}, False),
    ],
    ids=str,
)
async def test_only_role_or_a_list_of_roles_makes_an_admin(
    scenario: Scenario, claims: dict[str, Any], is_admin: bool
) -> None:
    customer = scenario.customer(owner_id=owner_id(2))
    await scenario.publish_and_wait()
    reply = await scenario.ask(customer, {"Authorization": f"Bearer {token(**{'role': ABSENT} | claims)}"})
    assert reply.status_code == (200 if is_admin else 404)


async def test_an_upper_case_subject_is_the_same_user(scenario: Scenario) -> None:
    customer = scenario.customer(owner_id=owner_id(0xABC))
    await scenario.publish_and_wait()
    for sub in (owner_id(0xABC), owner_id(0xABC).upper()):
        assert (
            await scenario.ask(customer, {"Authorization": f"Bearer {token(sub=sub, role='user')}"})
        ).status_code == 200


async def test_a_signed_token_longer_than_the_limit_is_401(scenario: Scenario) -> None:
    assert await is_accepted(scenario, Authorization=f"Bearer {token(pad='x' * (CREDENTIAL_BYTES_MAX // 2))}")
    assert await is_rejected(scenario, Authorization=f"Bearer {token(pad='x' * CREDENTIAL_BYTES_MAX)}")


# --- API keys --------------------------------------------------------------------------------------------------------


async def a_key(system: System, owner: int, *, admin: bool = False) -> str:
    """Create a key for an owner, by number."""
    connection = await databases.connect(system.database_url, "test")
    try:
        return await api_keys.create(connection, owner_id(owner), is_admin=admin, label="test", actor="test")
    finally:
        await connection.close()


async def revoke(system: System, key: str) -> None:
    connection = await databases.connect(system.database_url, "test")
    try:
        assert await api_keys.revoke(connection, str(api_keys.key_id_of(key)), actor="test")
    finally:
        await connection.close()


async def test_a_key_sees_its_users_customers_and_an_admin_key_all(scenario: Scenario, system: System) -> None:
    mine, theirs = scenario.customer(owner_id=owner_id(1)), scenario.customer(owner_id=owner_id(2))
    await scenario.publish_and_wait()
    user, admin = await a_key(system, 1), await a_key(system, 1, admin=True)
    statuses = [
        (await scenario.ask(customer, {"X-API-Key": key})).status_code
        for key in (user, admin)
        for customer in (mine, theirs)
    ]
    assert statuses == [200, 404, 200, 200]


async def in_process(system: System) -> tuple[Authenticator, databases.ReadPool]:
    """Return an authenticator in this process, and its pool, which the test closes."""
    environment = {"MEMBERSHIP_DATABASE_URL": system.database_url, "MEMBERSHIP_JWT_SECRET": JWT_SECRET}
    settings = load({"database_url", "jwt_secret"}, environment)
    pool = await databases.open_pool(
        system.database_url, connections_max=1, statement_timeout_s=5, name="test", planner=databases.CUSTOM_PLANS
    )
    return Authenticator(settings, pool, issuer_keys.from_settings(settings)), pool


async def test_an_accepted_key_is_cached_by_its_hash_only(system: System) -> None:
    key = await a_key(system, 1)
    authenticator, pool = await in_process(system)
    principal = await authenticator.principal([], [key])
    await pool.close()
    assert principal.user_id == owner_id(1)
    assert owner_id(1) in repr(vars(authenticator))
    assert key not in repr(vars(authenticator))


async def test_the_use_of_a_key_is_recorded_off_the_request_path(system: System) -> None:
    used, unused = await a_key(system, 1), await a_key(system, 1)
    authenticator, pool = await in_process(system)
    for _ in range(3):
        await authenticator.principal([], [used])
    for _ in range(2):
        await authenticator.write_uses()
    await pool.close()
    rows = await system.fetch("SELECT key_id FROM control.api_key WHERE last_used_at IS NOT NULL")
    assert api_keys.key_id_of(used) in {row["key_id"] for row in rows}
    assert api_keys.key_id_of(unused) not in {row["key_id"] for row in rows}


async def test_a_use_that_cannot_be_recorded_is_logged_once(system: System, capsys: pytest.CaptureFixture[str]) -> None:
    key = await a_key(system, 1)
    authenticator, pool = await in_process(system)
    await authenticator.principal([], [key])
    await pool.close()
    for _ in range(2):
        await authenticator.principal([], [key])  # still cached
        await authenticator.write_uses()
    assert capsys.readouterr().out.count("api_key_use_not_recorded") == 1


async def test_a_key_is_not_judged_by_a_database_of_an_older_release(system: System) -> None:
    key = await a_key(system, 1)
    authenticator, pool = await in_process(system)
    await system.fetch("ALTER TABLE control.api_key RENAME COLUMN scopes TO later")
    try:
        with pytest.raises(DatabaseNotMigrated):
            await authenticator.principal([], [key])
    finally:
        await system.fetch("ALTER TABLE control.api_key RENAME COLUMN later TO scopes")
        await pool.close()


async def test_a_key_is_refused_once_it_has_expired_although_cached(scenario: Scenario, system: System) -> None:
    connection = await databases.connect(system.database_url, "test")
    key = await api_keys.create(
        connection, owner_id(1), is_admin=False, label="", actor="test", ttl=timedelta(seconds=2)
    )
    await connection.close()
    assert await is_accepted(scenario, X_API_Key=key)
    await eventually(lambda: is_rejected(scenario, X_API_Key=key), "the key has expired", REVOKED_WITHIN_S)
    reply = await get_with(scenario, X_API_Key=key)
    assert reply.json()["detail"] == Refusal.API_KEY_EXPIRED.value


async def test_an_unknown_or_malformed_key_is_401(scenario: Scenario, system: System) -> None:
    key = await a_key(system, 1)
    assert await is_accepted(scenario, X_API_Key=key)
    last = "0" if key[-1] != "0" else "1"
    prefix, key_id, secret = key.split("_")
    for invalid in (
        key[:-1] + last,
        key[:-1],
        key + "0",
        key.upper(),
        f"{prefix}_{key_id}_{'0' * len(secret)}",
        f"{prefix}_{'0' * len(key_id)}_{secret}",
        f"{prefix}_{key_id}_",
        secret,
        "mbr",
        "",
        "'; DROP TABLE control.api_key; --",
        "%",
        "x" * 8192,
        hashlib.sha256(key.encode()).hexdigest(),
        f"Bearer {key}",
    ):
        assert await is_rejected(scenario, X_API_Key=invalid), invalid
    assert await is_rejected(scenario, Authorization=f"Bearer {key}")


async def test_a_token_is_not_accepted_as_a_key(scenario: Scenario) -> None:
    assert await is_rejected(scenario, X_API_Key=token())


async def test_a_revoked_key_is_rejected_within_five_seconds(scenario: Scenario, system: System) -> None:
    revoked, kept = await a_key(system, 1), await a_key(system, 1)
    for key in (revoked, kept):
        assert await is_accepted(scenario, X_API_Key=key)
    await revoke(system, revoked)
    await eventually(lambda: is_rejected(scenario, X_API_Key=revoked), "the revoked key is rejected", REVOKED_WITHIN_S)
    assert await is_accepted(scenario, X_API_Key=kept)


async def test_a_revoked_key_that_was_never_used_is_rejected_at_once(scenario: Scenario, system: System) -> None:
    key = await a_key(system, 1)
    await revoke(system, key)
    assert await is_rejected(scenario, X_API_Key=key)


async def test_a_new_key_is_accepted_after_an_unknown_key_was_rejected(scenario: Scenario, system: System) -> None:
    assert await is_rejected(scenario, X_API_Key="mbr_000000000000_" + "0" * 40)
    assert await is_accepted(scenario, X_API_Key=await a_key(system, 1))


async def test_two_credentials_must_both_be_valid_and_name_one_principal(scenario: Scenario, system: System) -> None:
    user, admin = await a_key(system, 1), await a_key(system, 1, admin=True)
    user_token, admin_token = f"Bearer {token(role='user')}", f"Bearer {token()}"
    assert await is_accepted(scenario, Authorization=user_token, X_API_Key=user)
    assert await is_accepted(scenario, Authorization=admin_token, X_API_Key=admin)

    another = f"Bearer {token(role='user', sub=owner_id(2))}"
    for authorization, key in (
        (another, user),
        (admin_token, user),
        (user_token, admin),
        (user_token, user[:-1] + ("0" if user[-1] != "0" else "1")),
        (user_token, ""),
        (f"Bearer {token(role='user', exp=1)}", user),
        ("Bearer x", user),
        ("", user),
        ("Basic YWRtaW46YWRtaW4=", user),
    ):
        assert await is_rejected(scenario, Authorization=authorization, X_API_Key=key), (authorization, key)


# --- The order of checks ---------------------------------------------------------------------------------------------


async def test_credentials_then_parameters_then_existence_are_checked(scenario: Scenario) -> None:
    unknown = path_of(new_number())
    for path in ("/customers/not-a-uuid/campaigns", unknown):
        for params in ({}, {"limit": "0", "cursor": "x"}):
            reply = await scenario.client.get(path, params=params, headers={"Authorization": "Bearer x"})
            assert code_of(reply) == (401, "unauthenticated")
    assert locs(await scenario.client.get(unknown, params={"limit": "0"}, headers=bearer(1))) == [["query", "limit"]]
    assert code_of(await scenario.client.get(unknown, headers=bearer(1))) == (404, "customer_not_found")


# --- The reason of a 401 ---------------------------------------------------------------------------------------------

REASONS: list[tuple[dict[str, str], Refusal]] = [
    ({}, Refusal.NO_CREDENTIALS),
    ({"Authorization": "Basic YWRtaW46YWRtaW4="}, Refusal.NO_CREDENTIALS),
    ({"Authorization": "Bearer x"}, Refusal.TOKEN_MALFORMED),
    ({"Authorization": f"Bearer {'x' * CREDENTIAL_BYTES_MAX}"}, Refusal.TOO_LONG),
    ({"Authorization": f"Bearer {token(HS256 | {'crit': ['exp']})}"}, Refusal.HEADER_REFUSED),
    ({"Authorization": f"Bearer {token(HS256 | {'jku': 'https://id.example'})}"}, Refusal.HEADER_REFUSED),
    ({"Authorization": f"Bearer {token({'alg': 'none'})}"}, Refusal.ALGORITHM_REFUSED),
    ({"Authorization": f"Bearer {token({'alg': 'RS256', 'kid': 'a'})}"}, Refusal.ALGORITHM_REFUSED),
    ({"Authorization": f"Bearer {token(secret='another-secret-that-is-long-enough')}"}, Refusal.SIGNATURE_INVALID),
    ({"Authorization": f"Bearer {token(exp=ABSENT)}"}, Refusal.EXPIRY_MISSING),
    ({"Authorization": f"Bearer {token(exp='soon')}"}, Refusal.EXPIRY_MISSING),
    ({"Authorization": f"Bearer {token(exp=1)}"}, Refusal.TOKEN_EXPIRED),
    ({"Authorization": f"Bearer {token(nbf=9_999_999_999)}"}, Refusal.NOT_YET_VALID),
    ({"Authorization": f"Bearer {token(sub=ABSENT)}"}, Refusal.NO_USER_ID),
    ({"Authorization": f"Bearer {token(sub='auth0|1')}"}, Refusal.NO_USER_ID),
    ({"X-API-Key": "mbr_"}, Refusal.API_KEY_MALFORMED),
    ({"X-API-Key": "mbr_000000000000_" + "0" * 40}, Refusal.API_KEY_UNKNOWN),
]
"""The reasons that need no configuration; `iss`, `aud` and the issuer's keys have their own tests."""
ERROR_DESCRIPTION = re.compile(r"[\x20-\x21\x23-\x5B\x5D-\x7E]{1,200}")
"""The characters that RFC 6750, 3 allows."""


@pytest.mark.parametrize(("headers", "refusal"), REASONS, ids=lambda value: getattr(value, "code", ""))
async def test_a_401_gives_its_reason_in_the_challenge_and_detail(
    scenario: Scenario, headers: dict[str, str], refusal: Refusal
) -> None:
    reply = await scenario.client.get(UNKNOWN_CUSTOMER, headers=headers)
    challenge = 'Bearer realm="membership"'
    if refusal is not Refusal.NO_CREDENTIALS:
        challenge += f', error="invalid_token", error_description="{refusal.value}"'
    assert reply.headers["www-authenticate"] == challenge
    assert code_of(reply) == (401, "unauthenticated")
    assert reply.json()["detail"] == refusal.value


async def test_every_401_has_the_same_body_but_for_its_detail(scenario: Scenario) -> None:
    replies = [
        await scenario.client.get(UNKNOWN_CUSTOMER, headers={"X-Request-ID": "same", **headers})
        for headers, _ in REASONS
    ]
    assert len({tuple(sorted((reply.json() | {"detail": ""}).items())) for reply in replies}) == 1


async def test_two_headers_of_a_kind_and_two_users_are_named_as_reasons(scenario: Scenario, system: System) -> None:
    several = await scenario.client.get(UNKNOWN_CUSTOMER, headers=[("Authorization", f"Bearer {token()}")] * 2)
    assert several.json()["detail"] == Refusal.SEVERAL_CREDENTIALS.value
    both = await get_with(scenario, Authorization=f"Bearer {token(role='user')}", X_API_Key=await a_key(system, 2))
    assert both.json()["detail"] == Refusal.CREDENTIALS_DISAGREE.value


@pytest.mark.parametrize("refusal", Refusal, ids=lambda refusal: refusal.code)
def test_a_reason_has_only_characters_allowed_in_a_challenge(refusal: Refusal) -> None:
    assert ERROR_DESCRIPTION.fullmatch(refusal.value)


async def test_a_refused_credential_is_logged_with_its_reason_only(scenario: Scenario, system: System) -> None:
    refused = token(exp=1, jti="a-token-that-is-logged-nowhere")
    reply = await get_with(scenario, Authorization=f"Bearer {refused}")

    def logged() -> bool:
        lines = [line for line in system.log("serve").splitlines() if "credentials_refused" in line]
        return any("token_expired" in line for line in lines)

    assert reply.status_code == 401
    await eventually(logged, "the reason is in the log")
    assert not any(part in system.log("serve") for part in refused.split("."))


async def test_a_mistyped_key_is_told_apart_without_a_query(system: System) -> None:
    key = await a_key(system, 1)
    last = "0" if key[-1] != "0" else "1"
    for mistyped in (key[:-1] + last, key[:20] + ("0" if key[20] != "0" else "1") + key[21:], key[:-1]):
        assert api_keys.key_id_of(mistyped) is None


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics", "/openapi.json", "/docs"])
async def test_operator_and_documentation_routes_need_no_credentials(scenario: Scenario, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer x"}):
        assert (await scenario.client.get(path, headers=headers)).status_code == 200
