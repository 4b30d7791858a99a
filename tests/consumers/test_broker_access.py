"""TLS and credentials of the broker, with a real nats-server and certificates made for the test."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from nats.aio.transport import TcpTransport

from consumers.broker_access import BrokerAccess
from consumers.client import BrokerUnavailable, connect_reconnecting
from ops.devstack.servers.nats import NatsServer
from projections import nkeys
from tests.support.certificates import Authority, Certificate
from tests.support.nats_accounts import Accounts
from tests.support.processes import eventually
from tests.support.tls_servers import SecureNatsServer, tls_block

ROOT = Path(__file__).parents[2]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ca")


@pytest.fixture
def certificate(authority: Authority) -> Certificate:
    return authority.certificate("server", "localhost")


@contextmanager
def running(tmp_path: Path, configuration: str) -> Iterator[SecureNatsServer]:
    server = SecureNatsServer(tmp_path / "nats", configuration)
    server.start()
    try:
        yield server
    finally:
        server.stop()


async def connected(access: BrokerAccess) -> bool:
    """Connect, send a request over the connection, and return whether it uses TLS."""
    client = await connect_reconnecting(access, "test")
    try:
        await client.flush(timeout=5)
        await client.jetstream().account_info()
        assert isinstance(client._transport, TcpTransport)
        assert client._transport._io_writer is not None
        return client._transport._io_writer.get_extra_info("ssl_object") is not None
    finally:
        await client.close()


async def refusal(access: BrokerAccess) -> str:
    with pytest.raises(BrokerUnavailable) as caught:
        await connect_reconnecting(access, "test")
    return str(caught.value)


async def test_a_broker_with_a_certificate_of_our_ca_is_used_by_tls(
    tmp_path: Path, authority: Authority, certificate: Certificate
) -> None:
    with running(tmp_path, tls_block(certificate)) as server:
        assert await connected(BrokerAccess(server.url, ca_file=str(authority.path)))
        # nats:// too: the server requires TLS, and the CA file says how to verify it.
        plain = server.url.replace("tls://", "nats://")
        assert await connected(BrokerAccess(plain, ca_file=str(authority.path)))


async def test_a_certificate_of_another_ca_or_host_is_refused(
    tmp_path: Path, authority: Authority, certificate: Certificate
) -> None:
    other = Authority(tmp_path, "other")
    with running(tmp_path, tls_block(certificate)) as server:
        sentence = await refusal(BrokerAccess(server.url, ca_file=str(other.path)))
        assert "certificate that is not trusted: unable to get local issuer certificate" in sentence
        assert "MEMBERSHIP_NATS_CA_FILE" in sentence

        by_address = server.url.replace("localhost", "127.0.0.1")
        sentence = await refusal(BrokerAccess(by_address, ca_file=str(authority.path)))
        assert "IP address mismatch, certificate is not valid for '127.0.0.1'" in sentence

        sentence = await refusal(BrokerAccess(server.url))
        assert "set MEMBERSHIP_NATS_CA_FILE to use others" in sentence


async def test_a_broker_without_tls_gets_no_password_over_tls_urls(nats: NatsServer, authority: Authority) -> None:
    with_password = f"tls://me:hunter2@localhost:{nats.port}"
    for access in (BrokerAccess(with_password), BrokerAccess(nats.url, ca_file=str(authority.path))):
        sentence = await refusal(access)
        assert "offers no TLS" in sentence
        assert "hunter2" not in sentence


async def test_a_broker_that_only_offers_tls_is_used_by_tls(
    tmp_path: Path, authority: Authority, certificate: Certificate
) -> None:
    with running(tmp_path, f"{tls_block(certificate)}allow_non_tls: true\n") as server:
        assert await connected(BrokerAccess(server.url, ca_file=str(authority.path)))
        assert not await connected(BrokerAccess(server.url.replace("tls://", "nats://")))


async def test_a_client_certificate_is_shown_and_read_again_when_renewed(
    tmp_path: Path, authority: Authority, certificate: Certificate
) -> None:
    own = authority.certificate("client")
    with running(tmp_path, tls_block(certificate, client_ca=authority.path)) as server:
        access = BrokerAccess(server.url, ca_file=str(authority.path), cert_file=str(own.path), key_file=str(own.key))
        assert await connected(access)
        assert "client certificate" in await refusal(BrokerAccess(server.url, ca_file=str(authority.path)))

        client = await connect_reconnecting(access, "test")
        # From now on the server trusts a new CA only, and the renewed certificate is in the same file.
        renewed = Authority(tmp_path, "renewed")
        own.path.write_bytes(renewed.certificate("client2").path.read_bytes())
        own.key.write_bytes((tmp_path / "client2.key").read_bytes())
        server.stop()
        server.configuration = tls_block(certificate, client_ca=renewed.path)
        server.start()
        await eventually(lambda: client.stats["reconnects"], "the client has reconnected")
        await client.flush(timeout=5)
        await client.close()


async def test_an_nkey_logs_in_and_another_one_does_not(
    tmp_path: Path, authority: Authority, certificate: Certificate
) -> None:
    file, other = tmp_path / "user.nk", tmp_path / "other.nk"
    seed = nkeys.new_seed()
    file.write_text(f"{seed}\n", encoding="ascii")
    other.write_text(nkeys.new_seed(), encoding="ascii")
    users = f"authorization {{ users: [ {{ nkey: {nkeys.read_seed(seed).public} }} ] }}\n"
    with running(tmp_path, tls_block(certificate) + users) as server:
        assert await connected(BrokerAccess(server.url, str(authority.path), nkey_file=str(file)))

        sentence = await refusal(BrokerAccess(server.url, str(authority.path), nkey_file=str(other)))
        assert "rejects the nkey in MEMBERSHIP_NATS_NKEY_FILE" in sentence


async def test_a_creds_file_logs_in_and_that_of_another_account_does_not(
    tmp_path: Path, authority: Authority, certificate: Certificate
) -> None:
    accounts = Accounts()
    file, foreign = tmp_path / "user.creds", tmp_path / "foreign.creds"
    file.write_text(accounts.creds(), encoding="ascii")
    foreign.write_text(Accounts().creds(), encoding="ascii")
    with running(tmp_path, tls_block(certificate) + accounts.configuration) as server:
        assert await connected(BrokerAccess(server.url, str(authority.path), creds_file=str(file)))

        sentence = await refusal(BrokerAccess(server.url, str(authority.path), creds_file=str(foreign)))
        assert "rejects the credentials in MEMBERSHIP_NATS_CREDS_FILE" in sentence


async def test_a_credential_file_that_vanishes_ends_no_process(tmp_path: Path) -> None:
    file = tmp_path / "user.nk"
    seed = nkeys.new_seed()
    file.write_text(seed, encoding="ascii")
    users = f"authorization {{ users: [ {{ nkey: {nkeys.read_seed(seed).public} }} ] }}\n"
    with running(tmp_path, users) as server:
        client = await connect_reconnecting(BrokerAccess(f"nats://127.0.0.1:{server.port}", nkey_file=str(file)), "t")
        file.unlink()
        server.stop()
        server.start()
        await eventually(lambda: "cannot be read" in str(client.last_error), "the client reports the missing file")
        file.write_text(seed, encoding="ascii")
        await eventually(lambda: client.stats["reconnects"], "the client has reconnected")
        await asyncio.wait_for(client.close(), 5)


def test_every_connection_uses_the_certificates_of_the_settings() -> None:
    """A URL alone would connect without them, and fail only in an installation that needs them."""
    for folder in ("consumers", "ops", "service"):
        for path in (ROOT / folder).rglob("*.py"):
            if "devstack" not in path.parts:
                text = path.read_text(encoding="utf-8")
                assert not re.search(
                    r"(connect_once|connect_reconnecting|publish_events|SubjectReader)\(\s*[\w.]*nats_url", text
                ), path
