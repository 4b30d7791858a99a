"""The issuer's keys follow the issuer, survive its outages for a stated time, and are fetched rarely."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from projections.errors import SettingsInvalid
from projections.identity_settings import KEY_SET_ALGORITHMS
from projections.settings import IDENTITY, load
from service.identity import issuer_keys
from service.identity.issuer_keys import IssuerKeys
from service.identity.key_sources import FileSource, KeySource, UrlSource, authorities
from service.identity.refusals import IdentityProviderUnavailable, Refusal, Unauthenticated
from service.identity.tokens import TokenVerifier
from tests.support.issuer import ELSEWHERE, KEYS, Issuer, Mode, public, running_issuer, signed
from tests.support.processes import eventually, free_port

FAST_S = 0.02
RARE_S = 3600.0
FAILURES: tuple[Mode, ...] = ("500", "huge", "endless", "not json", "no keys", "redirect", "compressed", "closed")
UNKNOWN_TOKENS = 10_000
TEST_KEY = KEYS["ES256"]
PUBLIC = authorities("")


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running_issuer() as issuer:
        issuer.keys = [public(TEST_KEY, "first")]
        yield issuer


@asynccontextmanager
async def following(
    *sources: KeySource, refresh_every_s: float = FAST_S, stale_max_s: float = RARE_S
) -> AsyncIterator[IssuerKeys]:
    """Keys that are read in the background for the duration of a test."""
    keys = IssuerKeys(sources, KEY_SET_ALGORITHMS, stale_max_s, refresh_every_s=refresh_every_s)
    reading = asyncio.create_task(keys.keep_fresh())
    try:
        await keys.wait_for_first_read()
        yield keys
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await keys.close()


def kids(keys: IssuerKeys) -> list[str | None]:
    return [key.kid for key in keys.current()]


def verifier(keys: IssuerKeys) -> TokenVerifier:
    return TokenVerifier(load({IDENTITY}, {"MEMBERSHIP_JWKS_URL": "https://id.example/jwks"}), keys)


async def test_added_and_removed_keys_are_followed_and_announced(issuer: Issuer) -> None:
    changes: list[list[str | None]] = []
    async with following(UrlSource(issuer.url, PUBLIC)) as keys:
        assert kids(keys) == ["first"]
        keys.on_change = lambda: changes.append(kids(keys))
        issuer.keys = [public(TEST_KEY, "first"), public(KEYS["RS256"], "second")]
        await eventually(lambda: kids(keys) == ["first", "second"], "the new key is known")
        issuer.keys = [public(KEYS["RS256"], "second")]
        await eventually(lambda: kids(keys) == ["second"], "the old key is forgotten")
        issuer.keys = [public(KEYS["ES256"], "second")]
        await eventually(lambda: len(changes) == 3, "another key of the same id is a change")
    assert changes == [["first", "second"], ["second"], ["second"]]


@pytest.mark.parametrize("mode", FAILURES)
async def test_known_keys_stay_valid_while_the_issuer_fails(
    issuer: Issuer, mode: Mode, capsys: pytest.CaptureFixture[str]
) -> None:
    async with following(UrlSource(issuer.url, PUBLIC)) as keys:
        issuer.keys, issuer.mode = [public(TEST_KEY, "other")], mode
        seen = issuer.fetches
        await eventually(lambda: issuer.fetches > seen + 2, "the failure was met")
        assert kids(keys) == ["first"]
        issuer.mode = "ok"
        await eventually(lambda: kids(keys) == ["other"], "the keys are followed again")
    assert capsys.readouterr().out.count("key_set_unavailable") == 1
    assert ELSEWHERE not in issuer.paths


async def test_a_slow_issuer_is_given_up_after_the_deadline(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("service.identity.key_sources.FETCH_DEADLINE_S", 0.1)
    issuer.mode = "slow"
    async with following(UrlSource(issuer.url, PUBLIC)) as keys:
        await eventually(lambda: issuer.fetches > 0, "the issuer was asked")
        await eventually(lambda: "key_set_unavailable" in capsys.readouterr().out, "the deadline has passed")
        assert kids(keys) == []


async def test_keys_expire_when_the_issuer_stays_silent(issuer: Issuer) -> None:
    async with following(UrlSource(issuer.url, PUBLIC), stale_max_s=0.3) as keys:
        token = signed(TEST_KEY, {"alg": "ES256", "kid": "first"})
        assert (await verifier(keys).verify(f"Bearer {token}")).is_admin
        forgotten = asyncio.Event()
        keys.on_change = forgotten.set
        issuer.mode = "500"
        await eventually(lambda: not keys.current(), "the keys are too old", deadline_s=10)
        with pytest.raises(IdentityProviderUnavailable):
            await verifier(keys).verify(f"Bearer {token}")
        await eventually(forgotten.is_set, "remembered tokens are forgotten too")


async def test_ten_thousand_unknown_key_ids_cause_one_fetch(issuer: Issuer) -> None:
    async with following(UrlSource(issuer.url, PUBLIC), refresh_every_s=RARE_S) as keys:
        verify = verifier(keys).verify
        seen = issuer.fetches
        header = {"alg": "ES256"}
        forged = [signed(TEST_KEY, header | {"kid": f"unknown {n}"}) for n in range(UNKNOWN_TOKENS // 10)]

        async def refused(token: str) -> bool:
            with pytest.raises(Unauthenticated) as caught:
                await verify(f"Bearer {token}")
            return caught.value.refusal is Refusal.KEY_UNKNOWN

        for _ in range(10):
            assert all(await asyncio.gather(*(refused(token) for token in forged)))
        assert issuer.fetches == seen + 1


async def test_a_token_of_a_new_key_waits_for_the_fetch_that_it_causes(issuer: Issuer) -> None:
    async with following(UrlSource(issuer.url, PUBLIC), refresh_every_s=RARE_S) as keys:
        issuer.keys.append(public(KEYS["RS256"], "second"))
        token = signed(KEYS["RS256"], {"alg": "RS256", "kid": "second"})
        assert (await verifier(keys).verify(f"Bearer {token}")).is_admin


async def test_without_any_key_a_token_is_not_judged() -> None:
    async with following(UrlSource(f"http://127.0.0.1:{free_port()}/jwks", PUBLIC)) as keys:
        with pytest.raises(IdentityProviderUnavailable):
            await verifier(keys).verify(f"Bearer {signed(TEST_KEY, {'alg': 'ES256', 'kid': 'first'})}")
        with pytest.raises(Unauthenticated) as caught:
            await verifier(keys).verify("Bearer nonsense")
        assert caught.value.refusal is Refusal.TOKEN_MALFORMED


async def test_a_key_of_an_unread_source_may_exist_so_it_is_not_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [public(KEYS["RS256"], "file")]}), encoding="utf-8")
    unreachable = UrlSource(f"http://127.0.0.1:{free_port()}/jwks", PUBLIC)
    async with following(FileSource(str(file)), unreachable) as keys:
        verify = verifier(keys).verify
        assert (await verify(f"Bearer {signed(KEYS['RS256'], {'alg': 'RS256', 'kid': 'file'})}")).is_admin
        with pytest.raises(IdentityProviderUnavailable):
            await verify(f"Bearer {signed(TEST_KEY, {'alg': 'ES256', 'kid': 'first'})}")


async def test_a_file_and_a_url_are_used_together_and_a_file_again(issuer: Issuer, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [public(KEYS["RS256"], "file")]}), encoding="utf-8")
    async with following(FileSource(str(file)), UrlSource(issuer.url, PUBLIC)) as keys:
        assert kids(keys) == ["file", "first"]
        file.write_text("{", encoding="utf-8")
        issuer.keys = [public(TEST_KEY, "second")]
        await eventually(lambda: kids(keys) == ["file", "second"], "a broken file keeps its last keys")
        file.write_text(json.dumps({"keys": [public(KEYS["EdDSA"], "new")]}), encoding="utf-8")
        await eventually(lambda: kids(keys) == ["new", "second"], "the file is read again")


@pytest.mark.parametrize("content", ["{", '{"keys": []}', '{"keys": [{"kty": "oct", "k": "AA"}]}', None])
def test_a_file_that_is_no_key_set_is_refused_at_the_start(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "keys.json"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsInvalid) as caught:
        issuer_keys.from_settings(load({IDENTITY}, {"MEMBERSHIP_JWKS_FILE": str(file)}))
    (problem,) = caught.value.problems
    assert problem.startswith("MEMBERSHIP_JWKS_FILE")
    assert str(file) in problem


@pytest.mark.parametrize("content", ["not a certificate", None])
def test_unreadable_certificates_are_refused_at_the_start(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    environment = {"MEMBERSHIP_JWKS_URL": "https://id.example/jwks", "MEMBERSHIP_JWKS_CA_FILE": str(file)}
    with pytest.raises(SettingsInvalid) as caught:
        issuer_keys.from_settings(load({IDENTITY}, environment))
    assert str(caught.value.problems[0]).startswith(f"MEMBERSHIP_JWKS_CA_FILE ({str(file)!r}) has no readable")
