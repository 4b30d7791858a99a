"""No secret appears in what the processes print, answer or store, however they fail."""

import itertools
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from ops.devstack.servers.nats import NatsServer
from ops.token import sign
from projections import api_keys
from projections.store import database as databases
from tests.support.builders import owner_id, published
from tests.support.command import membership
from tests.support.issuer import KEYS as ISSUER_KEYS
from tests.support.issuer import public, running_issuer, signed
from tests.support.processes import System, eventually, free_port

JWT_SECRET: Final = "canary-jwt-secret-0f3c5a7e9b1d2f4a"
DATABASE_PASSWORD: Final = "canary-database-password-77c1"
NATS_PASSWORD: Final = "canary-nats-password-19be"
UNUSED_SECRET: Final = "canary-unused-secret-of-thirty-two-bytes"
PATH: Final = "/customers/c0000000-0000-4000-8000-000000000001/campaigns"
_numbers = itertools.count(1)


class Canary:
    """A running system whose every secret is known, and everything it has printed and answered."""

    def __init__(self, system: System, key: str, token: str) -> None:
        self.system = system
        self.key = key
        self.token = token
        self.outputs: dict[str, str] = {}
        self.secrets = {
            "the JWT secret": JWT_SECRET,
            "the database password": DATABASE_PASSWORD,
            "the NATS password": NATS_PASSWORD,
            "the API key's secret": key.split("_")[2],
            "the token's signature": token.split(".")[2],
            "the token's claims": token.split(".")[1],
            "an unused secret": UNUSED_SECRET,
        }

    async def ask(self, path: str = PATH, **options: Any) -> int:
        """Send a request; keep the whole response."""
        async with httpx.AsyncClient(base_url=self.system.api_url, timeout=15) as client:
            reply = await client.get(path, **options)
        self.outputs[f"response {next(_numbers)}"] = f"{reply.status_code} {reply.headers} {reply.text}"
        return reply.status_code

    async def run(self, *arguments: str, **environment: str) -> int:
        """Run a command; keep its output."""
        ended = await membership(self.system.environment | environment, *arguments)
        self.outputs[f"command {' '.join(arguments)} {next(_numbers)}"] = ended.out + ended.err
        return ended.code

    def assert_kept(self) -> None:
        """Fail, naming each place in which a secret appears."""
        for name in self.system.children:
            self.outputs[f"log of {name}"] = self.system.log(name)
        leaks = [
            f"{secret} in {place}"
            for place, text in self.outputs.items()
            for secret, value in self.secrets.items()
            if value in text
        ]
        assert not leaks


@pytest.fixture
async def canary(database_url: str, nats: NatsServer, tmp_path: Path) -> AsyncIterator[Canary]:
    """A system whose URLs contain passwords, logging everything."""
    connection = await databases.connect(database_url, "test")
    await connection.execute(f"CREATE ROLE canary LOGIN SUPERUSER PASSWORD '{DATABASE_PASSWORD}'")
    key = await api_keys.create(connection, owner_id(1), is_admin=True, label="canary", actor="test")
    parts = urlsplit(database_url)
    with_password = parts._replace(netloc=f"canary:{DATABASE_PASSWORD}@{parts.netloc.rpartition('@')[2]}").geturl()
    system = System(with_password, nats, tmp_path)
    system.jwt_secret = JWT_SECRET
    system.nats_url = nats.url.replace("nats://", f"nats://canary:{NATS_PASSWORD}@")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MEMBERSHIP_LOG_LEVEL", "debug")
        await system.start()
        try:
            yield Canary(system, key, sign(JWT_SECRET, owner_id(1), admin=True, ttl_s=3600))
        finally:
            await system.stop()
            await connection.execute("REASSIGN OWNED BY canary TO CURRENT_USER; DROP ROLE canary")
            await connection.close()


async def ask_wrongly(canary: Canary) -> None:
    """Send the credentials correctly, altered, and where they do not belong."""
    key, token = canary.key, canary.token
    wrong: list[tuple[int, dict[str, Any]]] = [
        (404, {"headers": {"X-API-Key": key}}),
        (404, {"headers": {"Authorization": f"Bearer {token}"}}),
        (401, {"headers": {"Authorization": f"Bearer {token}x"}}),
        (401, {"headers": {"Authorization": f"Bearer {token} {token}"}}),
        (401, {"headers": {"Authorization": f"Basic {token}"}}),
        (401, {"headers": {"Authorization": key, "X-API-Key": token}}),
        (401, {"headers": {"X-API-Key": f"{key}0"}}),
        (401, {"headers": {"X-API-Key": key[:-8]}}),
        (401, {"params": {"access_token": token, "api_key": key}}),
        (422, {"headers": {"X-API-Key": key}, "params": {"limit": key, "sort_field": token, "cursor": token}}),
        (404, {"headers": {"X-API-Key": key, "X-Request-ID": f"{token} {key}"}}),
    ]
    for status, options in wrong:
        assert await canary.ask(**options) == status, options
    for path in ("/metrics", "/health/ready", "/health/live", "/openapi.json"):
        await canary.ask(path, headers={"X-API-Key": key, "Authorization": f"Bearer {token}"})


async def test_bad_requests_and_commands_reveal_no_secret(canary: Canary) -> None:
    await canary.system.wait_until_applied(
        await canary.system.publish([published("customer.upserted.v1", 1, customer=2)])
    )
    await ask_wrongly(canary)
    for command in ("status", "api-key list", "audit", "parked list", "verify", "jobs list", "migrate", "publish /x"):
        await canary.run(*command.split())
    for command in ("serve", "project", "token", "api-key create", "api-key rotate"):
        assert await canary.run(*command.split(), "--help") == 0
    key_id = canary.key.split("_")[1]
    assert await canary.run("api-key", "revoke", key_id) == 0
    canary.assert_kept()


async def test_wrong_settings_reveal_no_secret(canary: Canary) -> None:
    closed = free_port()
    wrong = [
        {"MEMBERSHIP_JWT_SECRE": UNUSED_SECRET},
        {"MEMBERSHIP_JWT_SECRET": UNUSED_SECRET[:20]},
        {"MEMBERSHIP_DATABASE_URL": f"mysql://canary:{DATABASE_PASSWORD}@127.0.0.1/x"},
        {"MEMBERSHIP_DATABASE_URL": f"postgresql://canary:{DATABASE_PASSWORD}@127.0.0.1:{closed}/x?sslmode=no"},
        {"MEMBERSHIP_DATABASE_URL": f"postgresql://canary:{DATABASE_PASSWORD}@127.0.0.1:{closed}/x"},
        {"MEMBERSHIP_NATS_URL": f"http://canary:{NATS_PASSWORD}@127.0.0.1:{closed}"},
        {"MEMBERSHIP_NATS_URL": f"nats://canary:{NATS_PASSWORD}@127.0.0.1:{closed}"},
        {"MEMBERSHIP_NATS_URL": f"nats://canary:{NATS_PASSWORD}@127.0.0.1:99999"},
        {"MEMBERSHIP_JWKS_URL": f"https://canary:{UNUSED_SECRET}@id.example/jwks"},
        {"MEMBERSHIP_JWKS_FILE": "/nowhere"},
    ]
    for environment in wrong:
        command = "serve" if any("_JW" in name for name in environment) else "status"
        assert await canary.run(command, **environment) != 0, environment
    canary.assert_kept()


async def test_outages_and_unforeseen_errors_reveal_no_secret(canary: Canary) -> None:
    credentials = {"X-API-Key": canary.key}
    await canary.system.fetch(
        "ALTER TABLE control.api_key DROP CONSTRAINT api_key_key_sha256_check, "
        "ALTER COLUMN key_sha256 TYPE text USING 'x'"
    )

    async def fails_unforeseen() -> bool:
        return await canary.ask(headers=credentials) == 500  # a text cannot be compared with a digest

    await eventually(fails_unforeseen, "an unforeseen error is answered")
    canary.system.broker.stop()
    await canary.run("status")
    await eventually(lambda: "broker_disconnected" in canary.system.log("project"), "the projector has lost its broker")
    await canary.system.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'canary' AND pid <> pg_backend_pid()"
    )
    await canary.system.fetch("ALTER ROLE canary NOLOGIN")

    async def unavailable() -> bool:
        return await canary.ask(headers=credentials) == 503

    await eventually(unavailable, "the database refuses the API")
    for name in ("serve", "project"):
        canary.system.kill(name, signal.SIGTERM)
    canary.assert_kept()


async def test_the_database_holds_no_secret(canary: Canary, database_url: str) -> None:
    await ask_wrongly(canary)
    connection = await asyncpg.connect(database_url)
    tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'control'")
    assert {"audit", "api_key"} <= {table["tablename"] for table in tables}
    for (table,) in tables:
        rows = await connection.fetch(f"SELECT t::text FROM control.{table} AS t")  # noqa: S608 - a catalog's name
        canary.outputs[f"table {table}"] = str([row["t"] for row in rows])
    activity = await connection.fetch("SELECT application_name, query FROM pg_stat_activity")
    canary.outputs["pg_stat_activity"] = str([tuple(row) for row in activity])
    await connection.close()
    canary.assert_kept()


async def test_tokens_of_an_unreachable_issuer_are_not_logged(canary: Canary) -> None:
    token = signed(ISSUER_KEYS["ES256"], {"alg": "ES256", "kid": "a"}, jti=UNUSED_SECRET)
    canary.secrets |= {"the issuer's token": token.split(".")[2], "its claims": token.split(".")[1]}
    with running_issuer() as issuer, pytest.MonkeyPatch.context() as environment:
        issuer.mode = "500"
        environment.setenv("MEMBERSHIP_JWKS_URL", issuer.url)
        canary.system.kill("serve", signal.SIGTERM)
        canary.system.launch("serve")
        await eventually(canary.system._ready, "the API is ready again")
        assert await canary.ask(headers={"Authorization": f"Bearer {token}"}) == 503
        issuer.keys, issuer.mode = [public(ISSUER_KEYS["ES256"], "b")], "ok"

        async def refused() -> bool:
            return await canary.ask(headers={"Authorization": f"Bearer {token}"}) == 401

        await eventually(refused, "the key id is unknown")
    canary.assert_kept()
