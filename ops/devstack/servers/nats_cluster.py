"""Several nats-servers that form one JetStream cluster on this machine, so that a stream can have replicas.

Writes: one folder for each node, as a single server does.
Invariants: a node keeps its ports when it is started again, because the other nodes dial them.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Final, NamedTuple

from ops.devstack.servers.child import POLL_S, EmbeddedFailed
from ops.devstack.servers.nats import NatsServer
from ops.devstack.servers.ports import free_port

CLUSTER: Final = "membership"
LEADER_DEADLINE_S: Final = 30.0
"""How long the nodes may take to elect a leader; an election takes about 5 s."""

_CLUSTER_CONFIGURATION: Final = """\
server_name: {name}
cluster {{
  name: {cluster}
  listen: 127.0.0.1:{port}
  routes: [{routes}]
}}
"""


class Routes(NamedTuple):
    """How one node is reached by the others, and reaches them."""

    name: str
    port: int
    """Where the node listens for the others."""
    peers: Sequence[int]
    """The ports that the node dials, its own among them, which it recognises."""


class NatsNode(NatsServer):
    """One nats-server of a cluster."""

    # A node that catches up or has no leader reports a problem; to restart it would only delay it.
    reports_health: ClassVar[bool] = False

    def __init__(
        self,
        store_dir: Path,
        routes: Routes,
        port: int | None = None,
        log: Path | None = None,
        descriptors: Sequence[int] = (),
    ) -> None:
        super().__init__(store_dir, port, log, descriptors)
        self.routes = routes

    def _configuration_text(self) -> str:
        return super()._configuration_text() + _CLUSTER_CONFIGURATION.format(
            name=self.routes.name,
            cluster=CLUSTER,
            port=self.routes.port,
            routes=", ".join(f"nats://127.0.0.1:{port}" for port in self.routes.peers),
        )


class NatsCluster:
    """The nodes of one cluster. Each starts by itself; `settling` waits until they have elected a leader."""

    def __init__(
        self,
        folders: Sequence[Path],
        ports: Sequence[int | None] = (),
        logs: Sequence[Path] = (),
        descriptors: Sequence[int] = (),
    ) -> None:
        route_ports = [free_port() for _ in folders]
        self.nodes = [
            NatsNode(
                folder,
                Routes(f"n{number + 1}", route_ports[number], route_ports),
                ports[number] if ports else None,
                logs[number] if logs else None,
                descriptors,
            )
            for number, folder in enumerate(folders)
        ]

    @property
    def servers(self) -> Sequence[NatsServer]:
        """The nodes, as a single server names itself."""
        return self.nodes

    @property
    def url(self) -> str:
        """The URLs of all nodes for clients, separated by commas."""
        return ",".join(node.url for node in self.nodes)

    def node(self, name: str) -> NatsNode:
        """Return the node of a name, as the broker reports it."""
        return next(node for node in self.nodes if node.routes.name == name)

    def settling(self) -> Iterator[float]:
        """Wait, in steps, until every node is healthy: then JetStream has a leader and accepts streams."""
        deadline = time.monotonic() + LEADER_DEADLINE_S
        while problems := [problem for node in self.nodes if (problem := node.health_problem())]:
            if time.monotonic() > deadline:
                raise EmbeddedFailed(f"The nodes of nats-server form no cluster: {problems[0]}")
            yield POLL_S

    def start(self) -> None:
        """Start all nodes and wait until they form a cluster."""
        for node in self.nodes:
            node.start()
        for pause_s in self.settling():
            time.sleep(pause_s)

    def stop(self) -> None:
        """Stop all nodes."""
        for node in self.nodes:
            node.stop()
