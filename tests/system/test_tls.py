"""Every process and command reaches both stores over verified TLS, and says what is wrong with a certificate."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from ops.devstack.servers.nats import NatsServer
from projections import nkeys
from projections.store import database
from tests.support.builders import campaign_id, customer_id, published
from tests.support.certificates import Authority
from tests.support.command import membership
from tests.support.processes import System, eventually
from tests.support.tls_servers import SecureNatsServer, SecureSystem, postgres_with_tls, tls_block


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ca")


def with_options(url: str, port: int, **options: str | Path) -> str:
    """Return a database URL at another port of localhost, with options."""
    parts = urlsplit(url)
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return parts._replace(netloc=f"{parts.username}:{parts.password}@localhost:{port}", query=query).geturl()


@asynccontextmanager
async def secure_system(database_url: str, tmp_path: Path, authority: Authority) -> AsyncIterator[SecureSystem]:
    """Yield a system whose stores require TLS and a client certificate, and the broker an nkey too."""
    server, client = authority.certificate("server", "localhost"), authority.certificate("client")
    seed = nkeys.new_seed()
    (tmp_path / "user.nk").write_text(seed, encoding="ascii")
    users = f"authorization {{ users: [ {{ nkey: {nkeys.read_seed(seed).public} }} ] }}\n"
    broker = SecureNatsServer(tmp_path / "nats", tls_block(server, client_ca=authority.path) + users)
    settings = {
        "MEMBERSHIP_NATS_CA_FILE": authority.path,
        "MEMBERSHIP_NATS_CERT_FILE": client.path,
        "MEMBERSHIP_NATS_KEY_FILE": client.key,
        "MEMBERSHIP_NATS_NKEY_FILE": tmp_path / "user.nk",
    }
    broker.start()
    async with postgres_with_tls(urlsplit(database_url).port or 0, server, client_ca=authority) as port:
        url = with_options(
            database_url,
            port,
            sslmode="verify-full",
            sslrootcert=authority.path,
            sslcert=client.path,
            sslkey=client.key,
        )
        system = SecureSystem(url, broker, tmp_path, {name: str(path) for name, path in settings.items()})
        try:
            yield system
        finally:
            await system.stop()
            broker.stop()


def ndjson(path: Path, *events: tuple[str, bytes]) -> Path:
    path.write_bytes(b"\n".join(body for _, body in events))
    return path


async def logged(system: System, role: str, text: str) -> None:
    try:
        await eventually(lambda: text in system.log(role), f"{role} logs {text!r}")
    except AssertionError:
        await system.stop()
        pytest.fail(f"{role} did not log {text!r} but: {system.log(role)}")


async def test_every_process_and_command_works_over_tls(
    database_url: str, tmp_path: Path, authority: Authority
) -> None:
    events = ndjson(
        tmp_path / "events",
        published("customer.upserted.v1", 1, customer=1),
        published("campaign.upserted.v1", 1, campaign=1),
        published("target.enrolled.v1", 1, customer=1, campaign=1),
        published("customer.upserted.v1", 1, customer=2),
    )
    async with secure_system(database_url, tmp_path, authority) as system:
        environment = system.environment
        assert (await membership(environment, "migrate")).code == 0
        await system.start()
        await eventually(lambda: "caught_up" in system.log("project"), "the projector has created the stream")
        outcome = await membership(environment, "publish", str(events))
        assert outcome.code == 0, outcome.err
        await system.wait_until_applied(4)

        reply = await system.get(f"/customers/{customer_id(1)}/campaigns")
        assert (reply.status_code, reply.json()["meta"]["total"]) == (httpx.codes.OK, 1)
        reply = await system.get(f"/customers/{customer_id(1)}/campaigns/{campaign_id(1)}/history")
        assert (reply.status_code, reply.json()["reason"]) == (httpx.codes.OK, "visible"), reply.text
        for command in (
            ("status",),
            ("explain", "--customer", customer_id(1)),
            ("verify",),
            ("rebuild", "--no-throttle", "--yes"),
            ("repair", "--customer", customer_id(1)),
            ("erase", "--customer", customer_id(2), "--yes"),
            ("acknowledge-missing", "--reason", "none", "--yes"),
            ("audit",),
            ("backup", str(tmp_path / "backup")),
        ):
            outcome = await membership(environment, *command)
            assert outcome.code == 0, (command, outcome.err)


async def test_a_listener_and_pools_keep_answers_current_over_tls(
    database_url: str, tmp_path: Path, authority: Authority
) -> None:
    async with secure_system(database_url, tmp_path, authority) as system:
        await system.start()
        await eventually(lambda: "caught_up" in system.log("project"), "the projector has created the stream")
        for version, name in ((1, "first"), (2, "second")):
            events = [
                published("customer.upserted.v1", version, customer=1),
                published("campaign.upserted.v1", version, campaign=1, name=name),
                published("target.enrolled.v1", version, customer=1, campaign=1),
            ]
            outcome = await membership(system.environment, "publish", str(ndjson(tmp_path / name, *events)))
            assert outcome.code == 0, outcome.err

            async def names() -> list[Any]:
                reply = await system.get(f"/customers/{customer_id(1)}/campaigns")
                return [item["name"] for item in reply.json().get("data", [])]

            async def shows(name: str = name) -> bool:
                return await names() == [name]

            # Read repeatedly: a cached answer that no notification invalidates would stay.
            await eventually(shows, f"the answer shows the {name} name")


async def test_a_database_certificate_that_is_not_trusted_is_reported(
    database_url: str, tmp_path: Path, authority: Authority, nats: NatsServer
) -> None:
    server = authority.certificate("server", "database.example")
    other = Authority(tmp_path, "other")
    port = urlsplit(database_url).port or 0
    async with postgres_with_tls(port, server) as secure_port:
        wrong_ca = with_options(database_url, secure_port, sslmode="verify-ca", sslrootcert=other.path)
        wrong_host = with_options(database_url, secure_port, sslmode="verify-full", sslrootcert=authority.path)
        right = with_options(database_url, secure_port, sslmode="verify-ca", sslrootcert=authority.path)
        without_tls = with_options(database_url, port, sslmode="verify-ca", sslrootcert=authority.path)
        for url, reason in (
            (wrong_ca, "unable to get local issuer certificate"),
            (wrong_host, "certificate is not valid for 'localhost'"),
            (without_tls, "rejected SSL upgrade"),
        ):
            outcome = await membership({"MEMBERSHIP_DATABASE_URL": url}, "migrate")
            assert (outcome.code, outcome.err.count("\n")) == (1, 1)
            assert reason in outcome.err
            with pytest.raises(database.UNAVAILABLE):
                await database.connect(url, "test")
        assert (await membership({"MEMBERSHIP_DATABASE_URL": right}, "migrate")).code == 0

        system = System(wrong_host, nats, tmp_path)
        for role in ("project", "serve"):
            system.launch(role)
            await logged(system, role, "is not valid for")
            assert system.children[role].poll() is None
            assert "Traceback" not in system.log(role)
        await system.stop()


async def test_a_broker_certificate_that_is_not_trusted_is_reported(
    database_url: str, tmp_path: Path, authority: Authority
) -> None:
    other = Authority(tmp_path, "other")
    broker = SecureNatsServer(tmp_path / "nats", tls_block(authority.certificate("server", "localhost")))
    broker.start()
    system = SecureSystem(database_url, broker, tmp_path, {"MEMBERSHIP_NATS_CA_FILE": str(other.path)})
    try:
        events = ndjson(tmp_path / "events", published("customer.upserted.v1", 1))
        for command in (("status",), ("verify",), ("publish", str(events))):
            outcome = await membership(system.environment, *command)
            assert outcome.code == 1, outcome
            assert "shows a certificate that is not trusted: unable to get local issuer certificate" in outcome.err
        system.launch("project")
        await eventually(lambda: "certificate that is not trusted" in system.log("project"), "the projector reports it")
        assert system.children["project"].poll() is None
        assert "Traceback" not in system.log("project")
    finally:
        await system.stop()
        broker.stop()
