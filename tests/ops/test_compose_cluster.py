"""compose.cluster.yaml and its broker configuration make a cluster of three that keeps three replicas."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from consumers import stream
from consumers.client import connect_once
from ops.devstack.servers.nats import NatsServer
from ops.devstack.servers.ports import free_port
from projections.settings import VARIABLES
from tests.support.processes import eventually

ROOT = Path(__file__).parents[2]
CONF = (ROOT / "deploy" / "nats-cluster.conf").read_text(encoding="utf-8")
NAMES = ("nats", "nats-2", "nats-3")


class ComposeNats(NatsServer):
    """One server with deploy/nats-cluster.conf; names of hosts become ports of this machine."""

    def __init__(self, folder: Path, name: str, routes: dict[str, int]) -> None:
        super().__init__(folder)
        self._name = name
        self._routes = routes

    def _configuration_text(self) -> str:
        replacements = {
            "$NATS_SERVER_NAME": self._name,
            "port: 4222": f"host: 127.0.0.1\nport: {self.port}",
            "http_port: 8222": f"http: 127.0.0.1:{self.monitoring_port}",
            '"/data"': f'"{self.store_dir}"',
            "0.0.0.0:6222": f"127.0.0.1:{self._routes[self._name]}",
            **{f"nats://{name}:6222": f"nats://127.0.0.1:{port}" for name, port in self._routes.items()},
        }
        text = CONF
        for original, replacement in replacements.items():
            assert original in text, original
            text = text.replace(original, replacement, 1)
        return text


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[ComposeNats]]:
    """The three servers, started and not yet waited for."""
    routes = {name: free_port() for name in NAMES}
    servers = [ComposeNats(tmp_path / name, name, routes) for name in NAMES]
    for server in servers:
        server.start()
    yield servers
    for server in servers:
        server.stop()


def compose(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


async def test_the_three_brokers_of_the_file_keep_three_replicas(servers: list[ComposeNats]) -> None:
    await eventually(lambda: not any(server.health_problem() for server in servers), "all servers are healthy")
    client = await connect_once(servers[0].url, "test")
    await stream.create(client, 3)

    async def current() -> bool:
        state = await stream.fetch_state(client)
        return state is not None and [replica.current for replica in state.replication.replicas] == [True] * 3

    await eventually(current, "three replicas are current")
    await client.close()


def test_every_service_that_uses_the_broker_gets_all_of_its_servers() -> None:
    single, cluster = compose("compose.yaml")["services"], compose("compose.cluster.yaml")["services"]
    users = {name for name, service in single.items() if "MEMBERSHIP_NATS_URL" in service.get("environment", {})}
    assert users - {"migrate"} == {name for name in cluster if name not in NAMES}
    for name in users - {"migrate"}:
        environment = cluster[name]["environment"]
        assert environment.keys() <= set(VARIABLES)
        assert environment["MEMBERSHIP_NATS_URL"] == ",".join(f"nats://{broker}:4222" for broker in NAMES)
    for name in NAMES:
        assert cluster[name]["environment"]["NATS_SERVER_NAME"] == name
        assert "./deploy/nats-cluster.conf:/etc/nats/nats-server.conf:ro" in cluster[name]["volumes"]
    image, command = single["nats"]["image"], single["nats"]["command"]
    assert [(cluster[name]["image"], cluster[name]["command"]) for name in NAMES[1:]] == [(image, command)] * 2
