"""Who gets in, and as whom: every way a credential can be wrong is 401, and nothing else."""

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from projections import api_keys
from projections.settings import load
from projections.store import database as databases
from service.auth import CREDENTIAL_BYTES_MAX, Authenticator
from tests.support.builders import owner_id
from tests.support.processes import JWT_SECRET, System, eventually
from tests.support.scenario import Scenario, another_api, bearer, code_of, locs, new_number, path_of

NOBODY = "/customers/c0000000-0000-4000-8000-ffffffffffff/campaigns"
REVOKED_WITHIN_S = 5.0
HS256 = {"alg": "HS256", "typ": "JWT"}
ABSENT = object()


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(header: str, claims: str, secret: str = JWT_SECRET, digest: str = "sha256") -> str:
    """Return a token of these very texts, well-formed or not, truly signed."""
    unsigned = f"{b64(header.encode(errors='surrogatepass'))}.{b64(claims.encode(errors='surrogatepass'))}"
    return f"{unsigned}.{b64(hmac.digest(secret.encode(), unsigned.encode(), digest))}"


def token(header: dict[str, Any] | None = None, secret: str = JWT_SECRET, digest: str = "sha256", **claims: Any) -> str:
    """Return a token of an admin, good unless told otherwise; `ABSENT` takes a claim out."""
    whole = {"sub": owner_id(1), "role": "admin", "exp": int(time.time()) + 3600} | claims
    kept = {name: value for name, value in whole.items() if value is not ABSENT}
    return signed(json.dumps(HS256 if header is None else header), json.dumps(kept), secret, digest)


async def asked_with(story: Scenario, path: str = NOBODY, **headers: str | bytes) -> httpx.Response:
    """Ask with these headers alone; underscores in their names are hyphens."""
    lines = [(name.replace("_", "-").encode(), _bytes(value)) for name, value in headers.items()]
    return await story.client.get(path, headers=lines)


async def refused(story: Scenario, **headers: str | bytes) -> bool:
    """Say whether these headers are 401 as they should be, with a challenge."""
    reply = await asked_with(story, **headers)
    if reply.status_code != 401:
        return False
    assert code_of(reply) == (401, "unauthenticated")
    assert reply.headers["www-authenticate"].startswith("Bearer")
    return True


async def let_in(story: Scenario, **headers: str | bytes) -> bool:
    """Say whether these headers open the door: the customer behind it does not exist."""
    return code_of(await asked_with(story, **headers)) == (404, "customer_not_found")


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


# --- Bearer tokens ---------------------------------------------------------------------------------------------------


async def test_a_good_token_opens_the_door_and_the_schemes_case_does_not_matter(story: Scenario) -> None:
    for scheme in ("Bearer", "bearer", "BEARER"):
        assert await let_in(story, Authorization=f"{scheme} {token()}")


async def test_no_credentials_are_401_with_a_challenge(story: Scenario) -> None:
    assert await refused(story)


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
async def test_a_malformed_header_or_another_scheme_is_401(story: Scenario, value: str) -> None:
    good = token()
    assert await refused(story, Authorization=value.format(good=good, half=good[: len(good) // 2]).strip())


async def test_two_authorization_headers_are_401_even_if_both_are_good(story: Scenario) -> None:
    lines = [("Authorization", f"Bearer {token()}")] * 2
    assert (await story.client.get(NOBODY, headers=lines)).status_code == 401


async def test_a_token_signed_with_another_secret_is_401(story: Scenario) -> None:
    for secret in ("another-secret-that-is-long-enough-too", JWT_SECRET[:-1], JWT_SECRET.upper(), ""):
        assert await refused(story, Authorization=f"Bearer {token(secret=secret)}")


async def test_a_token_with_any_part_exchanged_is_401(story: Scenario) -> None:
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
        assert await refused(story, Authorization=f"Bearer {forged}")


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
async def test_a_token_that_names_another_algorithm_is_401_however_it_is_signed(story: Scenario, alg: Any) -> None:
    header = {"alg": alg, "typ": "JWT"}
    unsigned = token(header).rsplit(".", 1)[0]
    by_its_word = "sha512" if alg == "HS512" else "sha384" if alg == "HS384" else "sha256"
    for forged in (token(header), token(header, digest=by_its_word), f"{unsigned}."):
        assert await refused(story, Authorization=f"Bearer {forged}")


@pytest.mark.parametrize("header", [{}, {"typ": "JWT"}, {"crit": ["exp"]}, {"crit": ["b64"], "b64": False}], ids=repr)
async def test_a_token_without_an_algorithm_or_with_demands_we_do_not_know_is_401(
    story: Scenario, header: dict[str, Any]
) -> None:
    whole = header | HS256 if "crit" in header else header
    assert await refused(story, Authorization=f"Bearer {token(whole)}")


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
    ids=repr,
)
async def test_a_token_without_a_time_of_expiry_to_come_is_401(story: Scenario, exp: Any) -> None:
    assert await refused(story, Authorization=f"Bearer {token(exp=exp)}")


async def test_a_token_is_good_until_it_expires(story: Scenario) -> None:
    now = int(time.time())
    assert await let_in(story, Authorization=f"Bearer {token(exp=now + 60)}")
    assert await refused(story, Authorization=f"Bearer {token(exp=now - 1)}")
    soon = token(exp=now + 2)
    assert await let_in(story, Authorization=f"Bearer {soon}")
    await eventually(lambda: refused(story, Authorization=f"Bearer {soon}"), "the token has expired", 5)


@pytest.mark.parametrize("exp", ["1" + "0" * 400, "1e400", "1" * 5000, "9" * 30], ids=lambda text: text[:6])
async def test_an_expiry_beyond_all_numbers_is_401_or_never(story: Scenario, exp: str) -> None:
    claims = f'{{"sub": "{owner_id(1)}", "role": "admin", "exp": {exp}}}'
    reply = await asked_with(story, Authorization=f"Bearer {signed(json.dumps(HS256), claims)}")
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
async def test_a_token_whose_subject_is_no_uuid_is_401(story: Scenario, sub: Any) -> None:
    assert await refused(story, Authorization=f"Bearer {token(sub=sub)}")


async def test_a_token_is_not_good_before_its_time(story: Scenario) -> None:
    now = int(time.time())
    assert await refused(story, Authorization=f"Bearer {token(nbf=now + 60)}")
    assert await let_in(story, Authorization=f"Bearer {token(nbf=now - 60)}")


@pytest.mark.parametrize("claims", [[], "text", 5, None, True, [["sub", "x"]]], ids=repr)
async def test_claims_that_are_no_object_are_401(story: Scenario, claims: Any) -> None:
    forged = signed(json.dumps(HS256), json.dumps(claims))
    assert await refused(story, Authorization=f"Bearer {forged}")


@pytest.mark.parametrize("header", ["[]", '"HS256"', "5", "null", "", "{", "{}{}", "\ud800"], ids=ascii)
async def test_a_header_that_is_no_object_is_401(story: Scenario, header: str) -> None:
    claims = json.dumps({"sub": owner_id(1), "exp": int(time.time()) + 60})
    assert await refused(story, Authorization=f"Bearer {signed(header, claims)}")


async def test_claims_nobody_asked_for_change_nothing(story: Scenario) -> None:
    assert await let_in(story, Authorization=f"Bearer {token(iss='anyone', aud=['else'], jti='1', scope='x')}")


async def test_issuer_and_audience_are_checked_once_they_are_configured(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMBERSHIP_JWT_ISSUER", "https://id.example")
    monkeypatch.setenv("MEMBERSHIP_JWT_AUDIENCE", "membership")
    good = {"iss": "https://id.example", "aud": "membership"}
    wanted: list[tuple[dict[str, Any], int]] = [
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
        for claims, status in wanted:
            reply = await client.get(NOBODY, headers={"Authorization": f"Bearer {token(**claims)}"})
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
async def test_a_hostile_token_is_401(story: Scenario, hostile: str) -> None:
    assert await refused(story, Authorization=f"Bearer {hostile}")
    assert await let_in(story, Authorization=f"Bearer {token()}")


@pytest.mark.parametrize("raw", ["é", "🚀", "\u202e", "Ａ.Ｂ.Ｃ"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
async def test_letters_beyond_ascii_in_credentials_are_401(story: Scenario, raw: str, encoding: str) -> None:
    odd = bytes(byte for byte in raw.encode(encoding) if byte > 0x20)
    assert await refused(story, Authorization=b"Bearer " + odd)
    assert await refused(story, Authorization=b"Bearer " + token().encode() + odd + b"x")
    assert await refused(story, X_API_Key=b"mbr_" + odd + b"x")


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
async def test_an_admin_is_one_by_role_or_by_a_list_of_roles_and_by_nothing_else(
    story: Scenario, claims: dict[str, Any], is_admin: bool
) -> None:
    customer = story.customer(owner_id=owner_id(2))
    await story.publish_and_wait()
    reply = await story.ask(customer, {"Authorization": f"Bearer {token(**{'role': ABSENT} | claims)}"})
    assert reply.status_code == (200 if is_admin else 404)


async def test_a_subject_in_upper_case_is_the_same_user(story: Scenario) -> None:
    customer = story.customer(owner_id=owner_id(0xABC))
    await story.publish_and_wait()
    for sub in (owner_id(0xABC), owner_id(0xABC).upper()):
        assert (
            await story.ask(customer, {"Authorization": f"Bearer {token(sub=sub, role='user')}"})
        ).status_code == 200


async def test_a_token_longer_than_the_limit_is_401_though_it_is_signed(story: Scenario) -> None:
    assert await let_in(story, Authorization=f"Bearer {token(pad='x' * (CREDENTIAL_BYTES_MAX // 2))}")
    assert await refused(story, Authorization=f"Bearer {token(pad='x' * CREDENTIAL_BYTES_MAX)}")


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


async def test_a_key_speaks_for_its_user_and_an_admins_for_all(story: Scenario, system: System) -> None:
    mine, theirs = story.customer(owner_id=owner_id(1)), story.customer(owner_id=owner_id(2))
    await story.publish_and_wait()
    user, admin = await a_key(system, 1), await a_key(system, 1, admin=True)
    answered = [
        (await story.ask(customer, {"X-API-Key": key})).status_code
        for key in (user, admin)
        for customer in (mine, theirs)
    ]
    assert answered == [200, 404, 200, 200]


async def test_a_key_that_was_accepted_is_remembered_by_its_hash_only(system: System) -> None:
    key = await a_key(system, 1)
    environment = {"MEMBERSHIP_DATABASE_URL": system.database_url, "MEMBERSHIP_JWT_SECRET": JWT_SECRET}
    pool = await databases.open_pool(
        system.database_url, connections_max=1, statement_timeout_s=5, name="test", planner=databases.CUSTOM_PLANS
    )
    try:
        authenticator = Authenticator(load({"database_url", "jwt_secret"}, environment), pool)
        principal = await authenticator.principal([], [key])
    finally:
        await pool.close()
    assert principal.user_id == owner_id(1)
    assert owner_id(1) in repr(vars(authenticator))
    assert key not in repr(vars(authenticator))


async def test_a_key_that_is_unknown_or_malformed_is_401(story: Scenario, system: System) -> None:
    key = await a_key(system, 1)
    assert await let_in(story, X_API_Key=key)
    last = "0" if key[-1] != "0" else "1"
    prefix, key_id, secret = key.split("_")
    for wrong in (
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
        assert await refused(story, X_API_Key=wrong), wrong
    assert await refused(story, Authorization=f"Bearer {key}")


async def test_a_token_is_no_key(story: Scenario) -> None:
    assert await refused(story, X_API_Key=token())


async def test_a_revoked_key_is_refused_within_five_seconds(story: Scenario, system: System) -> None:
    revoked, kept = await a_key(system, 1), await a_key(system, 1)
    for key in (revoked, kept):
        assert await let_in(story, X_API_Key=key)
    await revoke(system, revoked)
    await eventually(lambda: refused(story, X_API_Key=revoked), "the revoked key is refused", REVOKED_WITHIN_S)
    assert await let_in(story, X_API_Key=kept)


async def test_a_revoked_key_that_was_never_used_is_refused_at_once(story: Scenario, system: System) -> None:
    key = await a_key(system, 1)
    await revoke(system, key)
    assert await refused(story, X_API_Key=key)


async def test_a_key_made_a_moment_ago_is_good_even_if_it_was_tried_before(story: Scenario, system: System) -> None:
    assert await refused(story, X_API_Key="mbr_000000000000_" + "0" * 40)
    assert await let_in(story, X_API_Key=await a_key(system, 1))


async def test_of_both_credentials_both_must_be_good_and_name_the_same_principal(
    story: Scenario, system: System
) -> None:
    user, admin = await a_key(system, 1), await a_key(system, 1, admin=True)
    user_token, admin_token = f"Bearer {token(role='user')}", f"Bearer {token()}"
    assert await let_in(story, Authorization=user_token, X_API_Key=user)
    assert await let_in(story, Authorization=admin_token, X_API_Key=admin)

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
        assert await refused(story, Authorization=authorization, X_API_Key=key), (authorization, key)


# --- The order of checks ---------------------------------------------------------------------------------------------


async def test_credentials_come_before_parameters_and_parameters_before_existence(story: Scenario) -> None:
    nobody = path_of(new_number())
    for path in ("/customers/not-a-uuid/campaigns", nobody):
        for params in ({}, {"limit": "0", "cursor": "x"}):
            reply = await story.client.get(path, params=params, headers={"Authorization": "Bearer x"})
            assert code_of(reply) == (401, "unauthenticated")
    assert locs(await story.client.get(nobody, params={"limit": "0"}, headers=bearer(1))) == [["query", "limit"]]
    assert code_of(await story.client.get(nobody, headers=bearer(1))) == (404, "customer_not_found")


async def test_a_refusal_says_the_same_whatever_was_wrong(story: Scenario) -> None:
    wrong: list[dict[str, str | bytes]] = [
        {},
        {"Authorization": "Bearer x"},
        {"Authorization": f"Bearer {token(exp=1)}"},
        {"X_API_Key": "mbr_000000000000_" + "0" * 40},
    ]
    replies = [await asked_with(story, X_Request_ID="same", **headers) for headers in wrong]
    assert len({reply.content for reply in replies}) == 1


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics", "/openapi.json", "/docs"])
async def test_what_is_for_operators_and_readers_of_documentation_asks_for_no_credentials(
    story: Scenario, path: str
) -> None:
    for headers in ({}, {"Authorization": "Bearer x"}):
        assert (await story.client.get(path, headers=headers)).status_code == 200
