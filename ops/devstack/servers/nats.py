"""nats-server with JetStream from its wheel, as a child process on two free ports: one for clients, one for monitoring.

Writes: `nats.conf`, `server.log` and JetStream's files in its folder.
Invariants: `sync_interval: always`, as the stream's contract requires: acknowledged events survive a power cut.
"""

import http.client
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Final

from ops.devstack.servers.child import EmbeddedMissing, ServerProcess, launch
from ops.devstack.servers.ports import free_port

INFO_WAIT_S: Final = 1.0
HEALTH_WAIT_S: Final = 1.0

_CONFIGURATION: Final = """\
host: 127.0.0.1
port: {port}
http: 127.0.0.1:{monitoring_port}
jetstream {{
  store_dir: {store_dir}
  sync_interval: always
}}
"""


class NatsServer(ServerProcess):
    """One nats-server over one folder."""

    name: ClassVar[str] = "nats-server"
    reports_health: ClassVar[bool] = True

    def __init__(
        self, store_dir: Path, port: int | None = None, log: Path | None = None, descriptors: Sequence[int] = ()
    ) -> None:
        self.store_dir = store_dir.absolute()
        super().__init__(port, log or self.store_dir / "server.log", descriptors)
        self.monitoring_port = 0
        """Where the server reports its health; a new one at each start."""

    @property
    def servers(self) -> "Sequence[NatsServer]":
        """All servers of the broker: this one."""
        return (self,)

    @property
    def url(self) -> str:
        """The URL for clients."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def _configuration(self) -> Path:
        return self.store_dir / "nats.conf"

    def _prepare(self) -> Iterator[float]:
        self.store_dir.mkdir(parents=True, exist_ok=True)
        self.monitoring_port = free_port()
        self._configuration.write_text(self._configuration_text(), encoding="utf-8")
        yield from ()

    def _configuration_text(self) -> str:
        store_dir = json.dumps(str(self.store_dir), ensure_ascii=False)
        return _CONFIGURATION.format(port=self.port, monitoring_port=self.monitoring_port, store_dir=store_dir)

    def _launch(self, descriptors: Sequence[int]) -> subprocess.Popen[bytes]:
        command = (_program(), "--config", self._configuration)
        return launch(command, self.log, death_signal=self.death_signal, folder="/", descriptors=descriptors)

    def _ready(self) -> bool:
        """Return whether the server sends its INFO line, which it does once JetStream has recovered its files."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), INFO_WAIT_S) as connection:
                return self.running and connection.recv(5) == b"INFO "
        except OSError:
            return False

    def health_problem(self) -> str:
        """Return what `/healthz` without parameters reports; its JetStream-only forms miss a failed write.

        No response is not a problem: the server may only be busy.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.monitoring_port, timeout=HEALTH_WAIT_S)
        try:
            connection.request("GET", "/healthz")
            reply = connection.getresponse()
            body = reply.read().decode(errors="replace")
        except (OSError, http.client.HTTPException):
            return ""
        finally:
            connection.close()
        return "" if reply.status == http.client.OK else body


def _program() -> Path:
    """Return nats-server's path: the wheel puts it beside the interpreter."""
    beside = Path(sys.executable).with_name("nats-server")
    path = str(beside) if beside.exists() else shutil.which("nats-server")
    if path is None:
        raise EmbeddedMissing("nats-server")
    return Path(path)
