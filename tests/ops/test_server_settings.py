"""The production settings of both servers in deploy/ are accepted by them, and do what their comments say."""

import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg
import pytest
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError

from consumers.broker_access import BrokerAccess
from consumers.client import TolerantClient, connect_once
from ops.devstack.servers.nats import NatsServer
from ops.devstack.servers.postgres import PostgresServer
from projections import nkeys
from projections.settings import load
from service.app import OPERATIONS_CONNECTIONS
from tests.support.builders import customer_id, published
from tests.support.certificates import Authority
from tests.support.command import membership
from tests.support.processes import eventually, free_port
from tests.support.tls_servers import SecureSystem

ROOT = Path(__file__).parents[2]
CONF = (ROOT / "deploy" / "nats-server.conf").read_text(encoding="utf-8")
ROLES = ("PRODUCER", "PROJECTOR", "API", "OPERATOR", "SYSTEM")
FRAGMENT = ROOT / "deploy" / "postgresql.conf"
NOT_IN_THE_WHEEL = "ssl"
"""The tests' PostgreSQL is built without TLS; tests/system/test_tls.py has an endpoint in front of it."""
CONNECTIONS_BESIDE_THE_POOL = 6 + OPERATIONS_CONNECTIONS


class ProductionNats(NatsServer):
    """One nats-server with deploy/nats-server.conf; ports are free ones, everything else comes from the environment."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        super().__init__(folder / "store")
        self._variables = variables(folder, authority)
        self._text = CONF.replace('"0.0.0.0:4222"', f'"127.0.0.1:{self.port}"').replace("0.0.0.0", "127.0.0.1")

    @property
    def url(self) -> str:
        return f"tls://localhost:{self.port}"

    def _prepare(self) -> Iterator[float]:
        yield from super()._prepare()
        text = self._text.replace(":8222", f":{self.monitoring_port}").replace(":6222", f":{free_port()}")
        # A single server cannot elect the leader of a cluster of three.
        alone = re.sub(r"\ncluster \{.*?\n\}\n", "\n", text, flags=re.DOTALL)
        self._configuration.write_text(alone, encoding="utf-8")

    def _launch(self, descriptors: object) -> subprocess.Popen[bytes]:
        os.environ.update(self._variables)
        try:
            return super()._launch(descriptors)  # type: ignore[arg-type]  # passed through
        finally:
            for name in self._variables:
                del os.environ[name]


def variables(folder: Path, authority: Authority) -> dict[str, str]:
    """Return the environment that the configuration refers to; each role's seed is in a file named after it."""
    certificate = authority.certificate("server", "localhost")
    public = {}
    for role in ROLES:
        seed = nkeys.new_seed()
        (folder / f"{role}.nk").write_text(seed, encoding="ascii")
        public[f"NATS_{role}_NKEY"] = nkeys.read_seed(seed).public
    return public | {
        "NATS_SERVER_NAME": "nats-0",
        "NATS_STORE": str(folder / "store"),
        "NATS_TLS_CERT": str(certificate.path),
        "NATS_TLS_KEY": str(certificate.key),
        "NATS_TLS_CA": str(authority.path),
        **{f"NATS_ROUTE_{number}": f"tls://nats-{number}.nats:6222" for number in range(3)},
    }


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ca")


@pytest.fixture
def broker(tmp_path: Path, authority: Authority) -> Iterator[ProductionNats]:
    server = ProductionNats(tmp_path, authority)
    server.start()
    yield server
    server.stop()


def access(broker: ProductionNats, tmp_path: Path, role: str) -> BrokerAccess:
    return BrokerAccess(broker.url, ca_file=str(tmp_path / "ca.pem"), nkey_file=str(tmp_path / f"{role}.nk"))


@pytest.fixture
async def producer(broker: ProductionNats, tmp_path: Path) -> AsyncIterator[TolerantClient]:
    client = await connect_once(access(broker, tmp_path, "PRODUCER"), "test")
    yield client
    await client.close()


def test_nats_server_accepts_the_whole_configuration(tmp_path: Path, authority: Authority) -> None:
    command: list[str | Path] = [
        Path(sys.executable).with_name("nats-server"),
        "-t",
        "-c",
        ROOT / "deploy" / "nats-server.conf",
    ]
    outcome = subprocess.run(  # noqa: S603
        command,
        env=os.environ | variables(tmp_path, authority),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert set(re.findall(r"\$(NATS_\w+)", CONF)) == variables(tmp_path, authority).keys()


def system_of(role: str, database_url: str, broker: ProductionNats, tmp_path: Path) -> SecureSystem:
    """Return the processes of a role, with its nkey."""
    settings = {
        "MEMBERSHIP_NATS_CA_FILE": str(tmp_path / "ca.pem"),
        "MEMBERSHIP_NATS_NKEY_FILE": str(tmp_path / f"{role}.nk"),
    }
    return SecureSystem(database_url, broker, tmp_path, settings)


async def test_every_role_can_do_its_work_and_no_more(
    database_url: str, broker: ProductionNats, tmp_path: Path
) -> None:
    system = system_of("PROJECTOR", database_url, broker, tmp_path)
    system.launch("project")
    try:
        await eventually(lambda: "caught_up" in system.log("project"), "the projector has created the stream")
        events = tmp_path / "events"
        lines = [published("customer.upserted.v1", 1, customer=number)[1] for number in (1, 2)]
        events.write_bytes(b"\n".join(lines))
        work: dict[str, list[tuple[str, ...]]] = {
            "PRODUCER": [("publish", str(events)), ("publish", str(events))],
            "PROJECTOR": [("status",)],
            "API": [("explain", "--customer", customer_id(1))],
            "OPERATOR": [
                ("verify",),
                ("rebuild", "--yes", "--no-throttle"),
                ("repair", "--customer", customer_id(1)),
                ("erase", "--customer", customer_id(2), "--yes"),
                ("acknowledge-missing", "--reason", "none", "--yes"),
                ("backup", str(tmp_path / "backup")),
            ],
        }
        for role, commands in work.items():
            environment = system_of(role, database_url, broker, tmp_path).environment
            for command in commands:
                outcome = await membership(environment, *command)
                assert outcome.code == 0, (role, command, outcome)
        for role in ("PRODUCER", "PROJECTOR", "API"):
            client = await connect_once(access(broker, tmp_path, role), "test")
            with pytest.raises((NatsTimeoutError, NoRespondersError)):
                await client.request("$JS.API.STREAM.PURGE.MEMBERSHIP", b"{}", timeout=0.5)
            await client.close()
    finally:
        await system.stop()


async def test_a_publish_beyond_the_storage_limit_only_gets_an_error(tmp_path: Path) -> None:
    limit = re.findall(r"max_file_store: \w+", CONF)

    class Small(NatsServer):
        def _prepare(self) -> Iterator[float]:
            yield from super()._prepare()
            text = self._configuration.read_text(encoding="utf-8")
            self._configuration.write_text(
                text.replace("sync_interval", "max_file_store: 1MB\n  sync_interval"), "utf-8"
            )

    assert len(limit) == 1
    server = Small(tmp_path / "nats")
    server.start()
    client = await connect_once(server.url, "test")
    try:
        config = {"name": "MEMBERSHIP", "subjects": ["membership.>"], "storage": "file"}
        await client.request("$JS.API.STREAM.CREATE.MEMBERSHIP", json.dumps(config).encode())
        answers = [
            json.loads((await client.request("membership.customer.x", bytes(100_000), timeout=5)).data)
            for _ in range(12)
        ]
        assert "insufficient" in answers[-1]["error"]["description"]
        await client.request("$JS.API.STREAM.PURGE.MEMBERSHIP", b"{}")
        assert "error" not in json.loads((await client.request("membership.customer.x", b"y", timeout=5)).data)
        assert server.health_problem() == ""
    finally:
        await client.close()
        server.stop()


async def test_postgresql_starts_with_the_fragment_and_uses_all_of_it() -> None:
    # Not in pytest's folder, as in conftest.py: PostgreSQL never runs as root.
    with TemporaryDirectory(prefix="membership-tests-") as folder:
        server = PostgresServer(Path(folder) / "data", settings={"fsync": "off"})
        server.start()
        server.stop()
        lines = [line for line in FRAGMENT.read_text("utf-8").splitlines() if not line.startswith(NOT_IN_THE_WHEEL)]
        with (server.cluster / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.write("\n".join(["", *lines, ""]))
        server.start()
        connection = await asyncpg.connect(server.url)
        try:
            errors = await connection.fetch("SELECT name, error FROM pg_file_settings WHERE error IS NOT NULL")
            assert errors == []
            names = {match[1] for line in lines if (match := re.match(r"(\w+) = ", line))}
            applied = await connection.fetch(
                "SELECT name FROM pg_settings WHERE source = 'configuration file' AND name = any($1)", list(names)
            )
            assert {row["name"] for row in applied} == names
        finally:
            await connection.close()
            server.stop()


def test_postgresql_admits_the_connections_of_ten_api_processes() -> None:
    found = re.search(r"^max_connections = (\d+)$", FRAGMENT.read_text("utf-8"), re.MULTILINE)
    assert found
    each = load(set(), {}).database_connections_max + CONNECTIONS_BESIDE_THE_POOL
    assert int(found[1]) >= 10 * each + 30
