"""The running API with an identity provider: algorithms, key rotation, outages, and which claims name the caller."""

import json
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from joserfc.jwk import ECKey, OctKey

from projections.identity_settings import KEY_SET_ALGORITHMS
from service.identity.refusals import Refusal
from service.identity.subjects import SUBJECT_NAMESPACE
from tests.support.builders import owner_id
from tests.support.command import membership
from tests.support.issuer import KEYS, RSA_KEY, Issuer, public, running_issuer, signed
from tests.support.processes import JWT_SECRET, System, eventually, free_port
from tests.support.scenario import Scenario, another_api, bearer, path_of

UNKNOWN_CUSTOMER = "/customers/c0000000-0000-4000-8000-ffffffffffff/campaigns"
ROTATION_SEEN_S = 30.0
ONLY_RS256 = "only-rs256"


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with running_issuer() as issuer:
        issuer.keys = [public(key, algorithm) for algorithm, key in KEYS.items()]
        issuer.keys.append(public(RSA_KEY, ONLY_RS256, alg="RS256"))
        yield issuer


@pytest.fixture(scope="module")
async def provider_api(
    system: System, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an API that accepts the issuer's tokens and HS256 tokens."""
    async with AsyncExitStack() as stack:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("MEMBERSHIP_JWKS_URL", issuer.url)
            client = await stack.enter_async_context(another_api(system, tmp_path_factory.mktemp("provider")))
        yield client


def as_bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def verdict(client: httpx.AsyncClient, token: str) -> tuple[int, str]:
    """Return the status and the detail for a token; 404 means that it was accepted."""
    reply = await client.get(UNKNOWN_CUSTOMER, headers=as_bearer(token))
    return reply.status_code, reply.json()["detail"]


async def accepted(client: httpx.AsyncClient, token: str) -> bool:
    return (await verdict(client, token))[0] == 404


@pytest.mark.parametrize("algorithm", KEY_SET_ALGORITHMS)
async def test_a_token_of_each_algorithm_is_accepted(provider_api: httpx.AsyncClient, algorithm: str) -> None:
    assert await accepted(provider_api, signed(KEYS[algorithm], {"alg": algorithm, "kid": algorithm}))


async def test_both_the_shared_secret_and_the_key_set_are_accepted(provider_api: httpx.AsyncClient) -> None:
    assert (await provider_api.get(UNKNOWN_CUSTOMER, headers=bearer(1))).status_code == 404


async def test_a_key_is_refused_with_an_algorithm_that_it_does_not_have(provider_api: httpx.AsyncClient) -> None:
    for header, key in (
        ({"alg": "PS256", "kid": ONLY_RS256}, RSA_KEY),
        ({"alg": "RS512", "kid": ONLY_RS256}, RSA_KEY),
        ({"alg": "ES384", "kid": "ES256"}, KEYS["ES384"]),
        ({"alg": "RS256", "kid": "EdDSA"}, RSA_KEY),
        ({"alg": "HS384", "kid": "RS256"}, OctKey.import_key(JWT_SECRET)),
        ({"alg": "HS512"}, OctKey.import_key(JWT_SECRET)),
        ({"alg": "none", "kid": "RS256"}, RSA_KEY),
    ):
        token = signed(key, header)
        assert await verdict(provider_api, token) == (401, Refusal.ALGORITHM_REFUSED.value), header


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_hmac_with_a_public_key_is_refused(provider_api: httpx.AsyncClient, algorithm: str) -> None:
    key: Any = KEYS[algorithm]
    pem = key.as_bytes("PEM", private=False)
    jwk = json.dumps(public(key)).encode()
    for secret in (pem, pem.strip(), jwk, public(key).get("n", public(key).get("x", "")).encode()):
        for header in ({"alg": "HS256", "kid": algorithm}, {"alg": "HS256"}):
            forged = signed(_raw_secret(secret), header)
            assert await verdict(provider_api, forged) == (401, Refusal.SIGNATURE_INVALID.value)


def _raw_secret(secret: bytes) -> OctKey:
    """Return an HMAC key of any bytes; joserfc refuses PEM text."""
    return OctKey(secret, secret)


async def test_a_key_that_the_token_brings_is_refused(provider_api: httpx.AsyncClient, issuer: Issuer) -> None:
    own = ECKey.generate_key("P-256")
    brought = {"jwk": public(own), "jku": issuer.url, "x5u": issuer.url, "x5c": ["MIIB"], "crit": ["exp"], "b64": True}
    seen = issuer.fetches
    for name, value in brought.items():
        token = signed(own, {"alg": "ES256", "kid": "ES256", name: value})
        assert await verdict(provider_api, token) == (401, Refusal.HEADER_REFUSED.value), name
    assert issuer.fetches <= seen + 1, "only the background may have fetched"


async def test_a_token_of_another_key_of_the_same_id_is_refused(provider_api: httpx.AsyncClient) -> None:
    forged = signed(ECKey.generate_key("P-256"), {"alg": "ES256", "kid": "ES256"})
    assert await verdict(provider_api, forged) == (401, Refusal.SIGNATURE_INVALID.value)


async def test_a_token_without_key_id_needs_exactly_one_fitting_key(provider_api: httpx.AsyncClient) -> None:
    assert await accepted(provider_api, signed(KEYS["ES256"], {"alg": "ES256"}))
    assert await verdict(provider_api, signed(RSA_KEY, {"alg": "RS256"})) == (401, Refusal.KEY_UNKNOWN.value)
    unknown = signed(KEYS["ES256"], {"alg": "ES256", "kid": "another"})
    assert await verdict(provider_api, unknown) == (401, Refusal.KEY_UNKNOWN.value)
    for kid in (5, ["ES256"], {"ES256": 1}):
        malformed = signed(KEYS["ES256"], {"alg": "ES256", "kid": kid})
        assert await verdict(provider_api, malformed) == (401, Refusal.TOKEN_MALFORMED.value)


async def test_a_removed_key_is_refused_in_time_although_its_token_is_cached(system: System, tmp_path: Path) -> None:
    with running_issuer() as issuer, pytest.MonkeyPatch.context() as environment:
        issuer.keys = [public(KEYS["ES256"], "old")]
        environment.setenv("MEMBERSHIP_JWKS_URL", issuer.url)
        old, new = (
            signed(KEYS["ES256"], {"alg": "ES256", "kid": "old"}),
            signed(RSA_KEY, {"alg": "RS256", "kid": "new"}),
        )
        async with another_api(system, tmp_path) as client:
            assert await accepted(client, old)
            assert not await accepted(client, new)
            issuer.keys = [public(RSA_KEY, "new")]

            async def rotated() -> bool:
                return await accepted(client, new) and not await accepted(client, old)

            await eventually(rotated, "the rotation is seen", ROTATION_SEEN_S)
            assert await verdict(client, old) == (401, Refusal.KEY_UNKNOWN.value)
            issuer.mode = "500"
            assert await accepted(client, new)


async def test_the_api_starts_without_its_issuer_and_recovers(system: System, tmp_path: Path) -> None:
    port = free_port()
    token = signed(KEYS["ES256"], {"alg": "ES256", "kid": "late"})
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MEMBERSHIP_JWKS_URL", f"http://127.0.0.1:{port}/jwks.json")
        async with another_api(system, tmp_path) as client:
            assert (await client.get(UNKNOWN_CUSTOMER, headers=bearer(1))).status_code == 404
            reply = await client.get(UNKNOWN_CUSTOMER, headers=as_bearer(token))
            assert (reply.status_code, reply.json()["code"]) == (503, "identity_provider_unavailable")
            assert int(reply.headers["retry-after"]) > 0
            assert "www-authenticate" not in reply.headers
            log = (tmp_path / "serve.log").read_text(encoding="utf-8")
            assert "key_set_unavailable" in log
            assert f"http://127.0.0.1:{port}/jwks.json cannot be read" in log
            with running_issuer(port) as issuer:
                issuer.keys = [public(KEYS["ES256"], "late")]

                async def recovered() -> bool:
                    return await accepted(client, token)

                await eventually(recovered, "the issuer's keys are read", ROTATION_SEEN_S)


def self_signed(folder: Path) -> tuple[str, str]:
    """Write a certificate of 127.0.0.1 and its private key; return their paths."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(paths[0]), str(paths[1])


async def test_the_issuers_certificate_is_verified(system: System, tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    token = signed(KEYS["ES256"], {"alg": "ES256", "kid": "tls"})
    with running_issuer(certificate=certificate) as issuer, pytest.MonkeyPatch.context() as environment:
        issuer.keys = [public(KEYS["ES256"], "tls")]
        environment.setenv("MEMBERSHIP_JWKS_URL", issuer.url)
        for folder, status in (("untrusted", 503), ("trusted", 404)):
            (tmp_path / folder).mkdir()
            async with another_api(system, tmp_path / folder) as client:
                assert (await verdict(client, token))[0] == status, folder
            environment.setenv("MEMBERSHIP_JWKS_CA_FILE", certificate[0])


# --- Which claims name the caller ------------------------------------------------------------------------------------

KEYCLOAK = {
    "MEMBERSHIP_JWT_ISSUER": "https://id.example/realms/crm",
    "MEMBERSHIP_JWT_AUDIENCE": "membership",
    "MEMBERSHIP_JWT_ADMIN_CLAIM": "realm_access.roles",
    "MEMBERSHIP_JWT_ADMIN_VALUE": "membership-admin",
}
AUTH0 = {
    "MEMBERSHIP_JWT_ISSUER": "https://crm.eu.auth0.example/",
    "MEMBERSHIP_JWT_AUDIENCE": "https://membership.example",
    "MEMBERSHIP_JWT_USER_ID": "uuid5",
    "MEMBERSHIP_JWT_ADMIN_CLAIM": r"https://membership\.example/roles",
}
"""The settings of docs/how-to/identity-provider.md."""


@pytest.mark.parametrize("settings", [KEYCLOAK, AUTH0], ids=["keycloak", "auth0"])
def test_the_documented_settings_of_identity_providers_are_those_tested(settings: dict[str, str]) -> None:
    text = Path("docs/how-to/identity-provider.md").read_text(encoding="utf-8")
    for name, value in settings.items():
        assert f"{name}='{value}'" in text


async def statuses(
    scenario: Scenario, folder: Path, settings: dict[str, str], owner: str, cases: list[dict[str, Any]]
) -> list[int]:
    """Return the statuses for a customer of `owner`, asked with tokens of these claims, under these settings."""
    customer = scenario.customer(owner_id=owner)
    await scenario.publish_and_wait()
    with running_issuer() as issuer, pytest.MonkeyPatch.context() as environment:
        issuer.keys = [public(RSA_KEY, "key")]
        for name, value in (settings | {"MEMBERSHIP_JWKS_URL": issuer.url}).items():
            environment.setenv(name, value)
        async with another_api(scenario.system, folder) as client:
            tokens = [signed(RSA_KEY, {"alg": "RS256", "kid": "key", "typ": "JWT"}, **claims) for claims in cases]
            return [(await client.get(path_of(customer), headers=as_bearer(token))).status_code for token in tokens]


async def test_claims_as_keycloak_sends_them(scenario: Scenario, tmp_path: Path) -> None:
    claims: dict[str, Any] = {
        "iss": KEYCLOAK["MEMBERSHIP_JWT_ISSUER"],
        "aud": ["account", "membership"],
        "sub": owner_id(7),
        "role": "admin",
        "realm_access": {"roles": ["offline_access"]},
        "resource_access": {"account": {"roles": ["membership-admin"]}},
    }
    cases = [
        claims,
        claims | {"sub": owner_id(8)},
        claims | {"sub": owner_id(8), "realm_access": {"roles": ["membership-admin"]}},
        claims | {"sub": owner_id(8), "realm_access": ["membership-admin"]},
        claims | {"aud": "account"},
        claims | {"iss": "https://id.example/realms/other"},
        claims | {"sub": "service-account"},
    ]
    assert await statuses(scenario, tmp_path, KEYCLOAK, owner_id(7), cases) == [200, 404, 200, 404, 401, 401, 401]


async def test_claims_as_auth0_sends_them(scenario: Scenario, tmp_path: Path) -> None:
    printed = await membership({"PYTHONPATH": str(Path.cwd())}, "owner-id", "auth0|123")
    owner = printed.out.strip()
    assert owner == str(uuid.uuid5(SUBJECT_NAMESPACE, "auth0|123"))
    claims: dict[str, Any] = {
        "iss": AUTH0["MEMBERSHIP_JWT_ISSUER"],
        "aud": AUTH0["MEMBERSHIP_JWT_AUDIENCE"],
        "sub": "auth0|123",
        "role": "admin",
    }
    roles = {"https://membership.example/roles": ["admin"]}
    cases = [claims, claims | {"sub": "auth0|124"}, claims | {"sub": "auth0|124"} | roles, claims | {"sub": " "}]
    assert await statuses(scenario, tmp_path, AUTH0, owner, cases) == [200, 404, 200, 401]


async def test_a_development_token_has_the_configured_claims(scenario: Scenario, tmp_path: Path) -> None:
    settings = KEYCLOAK | {"MEMBERSHIP_JWT_USER_CLAIM": "realm_access.id"}
    customer = scenario.customer(owner_id=owner_id(7))
    await scenario.publish_and_wait()
    with pytest.MonkeyPatch.context() as environment:
        for name, value in settings.items():
            environment.setenv(name, value)
        async with another_api(scenario.system, tmp_path) as client:
            for arguments, status in (((7,), 200), ((8,), 404), ((8, "--admin"), 200)):
                user, *options = arguments
                command = ("token", "--user", owner_id(int(user)), *map(str, options))
                token = (await membership(scenario.system.environment, *command)).out.strip()
                reply = await client.get(path_of(customer), headers=as_bearer(token))
                assert reply.status_code == status, arguments


async def test_several_issuers_are_accepted_during_a_change(scenario: Scenario, tmp_path: Path) -> None:
    settings = {
        "MEMBERSHIP_JWT_ISSUER": "https://old.example, https://new.example",
        "MEMBERSHIP_JWT_USER_CLAIM": "ext.id",
    }
    claims = {"sub": "someone", "ext": {"id": owner_id(7)}, "role": "user"}
    cases = [claims | {"iss": f"https://{name}.example"} for name in ("old", "new", "other")] + [
        {"iss": "https://new.example", "sub": owner_id(7)}
    ]
    assert await statuses(scenario, tmp_path, settings, owner_id(7), cases) == [200, 200, 401, 401]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MEMBERSHIP_JWKS_FILE", "/nowhere/keys.json"),
        ("MEMBERSHIP_JWKS_CA_FILE", "/nowhere/ca.pem"),
        ("MEMBERSHIP_JWKS_URL", "http://id.example/jwks"),
        ("MEMBERSHIP_JWKS_ALGORITHMS", "RS257"),
        ("MEMBERSHIP_JWT_ADMIN_CLAIM", "realm_access..roles"),
        ("MEMBERSHIP_JWKS_URI", "https://id.example/jwks"),
    ],
)
async def test_a_wrong_identity_setting_ends_serve_with_code_2(system: System, name: str, value: str) -> None:
    environment = system.environment | {name: value, "MEMBERSHIP_HTTP_PORT": str(free_port())}
    ended = await membership(environment, "serve")
    assert ended.code == 2
    (sentence,) = ended.err.partition("These settings are missing or invalid:\n")[2].splitlines()
    assert sentence.strip().startswith(name)


async def test_serve_without_any_source_of_keys_ends_with_code_2(system: System) -> None:
    ended = await membership(system.environment | {"MEMBERSHIP_JWT_SECRET": ""}, "serve")
    assert ended.code == 2
    assert "MEMBERSHIP_JWKS_URL" in ended.err
