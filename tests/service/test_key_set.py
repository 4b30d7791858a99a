"""A key set gives each key a fixed list of algorithms, and leaves out keys that must not verify a token."""

import itertools
import json
from typing import Any

import pytest
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from projections.identity_settings import KEY_SET_ALGORITHMS
from service.identity.key_set import KEY_SET_BYTES_MAX, KEYS_MAX, KeySetInvalid, parse, select
from tests.support.issuer import KEYS, RSA_KEY, public

RSA_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")


def document(*entries: Any) -> bytes:
    return json.dumps({"keys": entries}).encode()


@pytest.mark.parametrize(
    ("entry", "algorithms"),
    [
        (public(RSA_KEY), RSA_ALGORITHMS),
        (public(RSA_KEY, alg="PS256"), ("PS256",)),
        (public(RSA_KEY, use="sig", key_ops=["verify"]), RSA_ALGORITHMS),
        (public(KEYS["ES256"]), ("ES256",)),
        (public(KEYS["ES384"], alg="ES384"), ("ES384",)),
        (public(KEYS["ES512"]), ("ES512",)),
        (public(KEYS["EdDSA"]), ("EdDSA", "Ed25519")),
    ],
)
def test_a_key_verifies_only_the_algorithms_of_its_kind(entry: dict[str, Any], algorithms: tuple[str, ...]) -> None:
    (key,) = parse(document(entry), KEY_SET_ALGORITHMS).keys
    assert key.algorithms == algorithms


def test_the_configuration_narrows_the_algorithms() -> None:
    (key,) = parse(document(public(RSA_KEY), public(KEYS["ES256"])), ["RS512"]).keys
    assert key.algorithms == ("RS512",)


@pytest.mark.parametrize(
    "entry",
    [
        public(RSA_KEY, use="enc"),
        public(RSA_KEY, key_ops=["encrypt"]),
        public(RSA_KEY, key_ops="verify"),
        public(RSA_KEY, alg="RSA-OAEP"),
        public(RSA_KEY, alg="ES256"),
        public(RSA_KEY, alg="HS256"),
        public(RSA_KEY, alg="none"),
        public(RSA_KEY, alg=["RS256"]),
        public(KEYS["ES256"], alg="ES384"),
        public(KEYS["ES256"], crv="P-384"),
        public(ECKey.generate_key("secp256k1")),
        public(OKPKey.generate_key("X25519")),
        OctKey.generate_key(256).as_dict(),
        RSA_KEY.as_dict(private=True),
        public(RSA_KEY, n="AQAB"),
        public(RSA_KEY, n="not base64!"),
        public(RSA_KEY, n=5),
        public(RSA_KEY, e=None),
        public(KEYS["ES256"], x="AA"),
        {"kty": "RSA"},
        {"kty": ["RSA"]},
        {"kty": "new"},
        {},
        [],
        None,
        "key",
    ],
    ids=itertools.count(),  # the keys are generated, and every process must give a case the same name
)
def test_a_key_that_must_not_verify_a_token_is_ignored(entry: Any) -> None:
    key_set = parse(document(entry, public(KEYS["ES256"], "good")), KEY_SET_ALGORITHMS)
    assert [key.kid for key in key_set.keys] == ["good"]
    assert key_set.ignored[0].startswith("key 1: ")


def test_a_weak_rsa_key_is_ignored_also_with_leading_zeros() -> None:
    weak = public(RSA_KEY) | {"n": "AAAA" * 40 + public(RSA_KEY)["n"][:200]}
    with pytest.raises(KeySetInvalid, match="must have 2,048 to 8,192 bits"):
        parse(document(weak), KEY_SET_ALGORITHMS)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "not JSON"),
        (b"<html>", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", 'no list "keys"'),
        (b'{"keys": {}}', 'no list "keys"'),
        (b'{"keys": []}', "no keys"),
        (document(*[{}] * (KEYS_MAX + 1)), f"more than {KEYS_MAX} keys"),
        (b" " * (KEY_SET_BYTES_MAX + 1), "larger than"),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_a_document_without_a_usable_key_is_refused_with_the_reason(text: bytes, reason: str) -> None:
    with pytest.raises(KeySetInvalid, match=reason):
        parse(text, KEY_SET_ALGORITHMS)


def test_a_key_is_selected_by_id_or_if_it_alone_fits() -> None:
    entries = [public(RSA_KEY, "a"), public(RSAKey.generate_key(2048), "b"), public(KEYS["ES256"])]
    keys = parse(document(*entries), KEY_SET_ALGORITHMS).keys
    assert [key.kid for key in select(keys, "RS256", "b")] == ["b"]
    assert [key.kid for key in select(keys, "ES256", None)] == [None]
    for algorithm, kid in (("RS256", None), ("RS256", "c"), ("ES256", "a"), ("ES384", None), ("HS256", "a")):
        assert select(keys, algorithm, kid) == [], (algorithm, kid)
