"""`membership dev`: the whole service on one machine, supervised, with a demo data set.

Reads and writes: the data directory only.
Invariants: one dev stack per data directory; `dev.json` exists only while the whole stack runs, and is up to date;
processes stop in the reverse order of their start.
Fails: `DevRefused` and `EmbeddedFailed`, each with a sentence for the user.
"""

import asyncio
import http.client
import json
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import Progress

from ops.devstack.banner import DemoUser, Endpoints, banner, sample_enrolment
from ops.devstack.folder import DevFolder, DevRefused
from ops.devstack.programs import Api, JobRunner, Projector, child_environment, http_get, run_command
from ops.devstack.servers.child import EmbeddedMissing
from ops.devstack.servers.nats import NatsServer
from ops.devstack.servers.nats_cluster import NatsCluster
from ops.devstack.servers.ports import free_port, is_free
from ops.devstack.servers.postgres import PostgresServer
from ops.devstack.supervisor import Supervisor, in_steps, report
from ops.terminal import fail
from ops.token import sign

ADMIN: Final = "00000000-0000-4000-8000-000000000001"
TOKEN_TTL_S: Final = 30 * 24 * 3600
READY_POLL_S: Final = 0.1
SLOW_S: Final = 60.0
MISSING: Final = 2
"""The exit code without the wheels: a wrong installation, as for wrong settings."""
KILLED: Final = 130
"""The exit code after a second Ctrl-C, as shells use it for SIGINT."""


async def run_dev(port: int, data_dir: Path, demo: bool, nats_nodes: int | None = None) -> int:
    """Run the stack in the foreground until Ctrl-C, SIGTERM or SIGHUP; return the exit code.

    `port` is the API's, 0 for any free one. With `demo`, the first start on a directory publishes the demo data set.
    `nats_nodes` is the number of nats-servers; None: as many as the directory was made with, at first one.
    """
    folder = DevFolder(data_dir)
    try:
        folder.lock()
        await in_steps(folder.wait_until_unused())
        stack = Stack(folder, _api_port(port, folder.state().ports.get("api")), folder.nats_nodes(nats_nodes))
        return await _run_until_signal(stack, demo)
    except EmbeddedMissing as problem:
        return fail(str(problem), MISSING)
    finally:
        folder.unlock()


async def _run_until_signal(stack: "Stack", demo: bool) -> int:
    running = asyncio.ensure_future(stack.run(demo))
    code = 0

    def stop() -> None:
        nonlocal code
        if not running.cancelling() and not running.done():
            report("Stopping; press Ctrl-C again to kill.")
            running.cancel()
        else:
            code = KILLED
            stack.supervisor.kill()

    _on_signals(stop)
    try:
        await running
    except asyncio.CancelledError:
        pass
    finally:
        stack.folder.remove_description()
        await stack.supervisor.stop()
    return code


def _on_signals(stop: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop)


class Stack:
    """The servers, the projector, the API and the job runner over one data directory."""

    def __init__(self, folder: DevFolder, port: int, nats_nodes: int = 1) -> None:
        self.folder = folder
        self.port = port
        self.supervisor = Supervisor(
            self._restarted,
            f"If it keeps failing, stop with Ctrl-C and delete {folder.root}/ to start again with empty data.",
        )
        self._state = folder.state()
        self._inherited = (folder.shared_lock,)
        self._postgres = PostgresServer(
            folder.root / "postgres",
            self._last_port("postgres"),
            log=folder.log("postgres"),
            descriptors=self._inherited,
        )
        self._nats = self._broker(nats_nodes)
        self._secret = folder.jwt_secret()
        self._admin_token = sign(self._secret, ADMIN, admin=True, ttl_s=TOKEN_TTL_S)
        self._projector_port = self._last_port("projector") or free_port()
        self._api: Api | None = None
        self._projector: Projector | None = None

    @property
    def api_url(self) -> str:
        """The API's base URL."""
        return f"http://127.0.0.1:{self.port}"

    async def run(self, demo: bool) -> None:
        """Start everything, publish the demo if it is due, print the banner, and supervise until cancelled."""
        console = Console(soft_wrap=True, highlight=False, markup=False)
        began = time.monotonic()
        with console.status("Starting PostgreSQL and nats-server"):
            await self.supervisor.start(self._postgres)
            await self._start_broker()
        with console.status("Starting projector and API"):
            await self._start_programs()
            await self._wait_until_applied()
        await self._publish_demo_once(demo, console)
        self._describe()
        console.print(f"Ready after {time.monotonic() - began:.1f} s.\n")
        console.print(banner(self._endpoints(), self._admin_token, self._demo_user()))
        await self.supervisor.wait_until_cancelled()

    def _broker(self, nodes: int) -> NatsServer | NatsCluster:
        """Return one server, or the nodes of a cluster; the first has the names that a single one has."""
        names = ["nats", *(f"nats-{number}" for number in range(2, nodes + 1))]
        folders = [self.folder.root / name for name in names]
        ports, logs = [self._last_port(name) for name in names], [self.folder.log(name) for name in names]
        if nodes == 1:
            return NatsServer(folders[0], ports[0], logs[0], self._inherited)
        return NatsCluster(folders, ports, logs, self._inherited)

    async def _start_broker(self) -> None:
        for server in self._nats.servers:
            await self.supervisor.start(server)
        if isinstance(self._nats, NatsCluster):
            await in_steps(self._nats.settling())

    @property
    def _nats_names(self) -> dict[str, NatsServer]:
        servers = self._nats.servers
        return {"nats": servers[0]} | {f"nats-{number}": server for number, server in enumerate(servers[1:], start=2)}

    async def _start_programs(self) -> None:
        database_url = self._postgres.url
        environment = child_environment(database_url, self._nats.url, self._secret, self.port, self._projector_port)
        environment |= {"MEMBERSHIP_STREAM_REPLICAS": str(len(self._nats.servers))}
        await in_steps(run_command("migrate", self.folder.log("migrate"), environment, self._inherited))
        self._projector = Projector(self.folder.log("projector"), environment, self._inherited)
        self._api = Api(self.folder.log("api"), environment, self._inherited)
        await self.supervisor.start(self._projector)
        await self.supervisor.start(self._api)
        await self.supervisor.start(JobRunner(self.folder.log("jobs"), environment, self._inherited))
        # Saved now, so that the next start has the same addresses even if this one ends before it is ready.
        self._state.ports = {
            "postgres": self._postgres.port,
            "api": self.port,
            "projector": self._projector_port,
            **{name: server.port for name, server in self._nats_names.items()},
        }
        self._state.nats_nodes = len(self._nats.servers)
        self.folder.save_state(self._state)

    async def _wait_until_applied(self, position: int = 0) -> None:
        """Wait until the API answers from `position` or later. No deadline: a long stream takes long to apply."""
        next_report_at = time.monotonic() + SLOW_S
        while True:
            # In a thread, so that Ctrl-C works during the request.
            response = await asyncio.to_thread(http_get, self.port, "/health/ready")
            if response and response[0] == http.client.OK and json.loads(response[1])["position"] >= position:
                return
            if time.monotonic() > next_report_at:
                report(f"The read model is still being filled; see {self.folder.log('projector')}.")
                next_report_at += SLOW_S
            await asyncio.sleep(READY_POLL_S)

    async def _publish_demo_once(self, demo: bool, console: Console) -> None:
        if self._state.demo == "undecided":
            if demo:
                await self._publish_demo(console)
            self._state.demo = "published" if demo else "declined"
            self.folder.save_state(self._state)

    async def _publish_demo(self, console: Console) -> None:
        from ops.devstack.demo import DEMO_CUSTOMER, DEMO_OWNER, demo_events  # noqa: PLC0415 - only a first start needs these
        from ops.publisher import publish_events  # noqa: PLC0415

        publications = list(demo_events())
        last_position = 0
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            bar = progress.add_task("Publishing the demo events", total=len(publications))
            async for receipt in publish_events(self._nats.url, publications):
                last_position = max(last_position, receipt.position)
                progress.advance(bar)
        with console.status("Applying the demo events"):
            await self._wait_until_applied(last_position)
        console.print(f"Published {len(publications)} demo events; all of them are applied.")
        published = ((publication.subject, publication.body) for publication in publications)
        self.folder.write_sample_event(sample_enrolment(published, DEMO_OWNER, DEMO_CUSTOMER))

    def _restarted(self) -> None:
        if self.folder.dev_json.exists():
            self._describe()

    def _describe(self) -> None:
        children = {"api": self._api, "projector": self._projector, **self._nats_names, "postgres": self._postgres}
        self.folder.describe(
            {
                "api_url": self.api_url,
                "projector_url": f"http://127.0.0.1:{self._projector_port}",
                "nats_url": self._nats.url,
                "database_url": self._postgres.url,
                "jwt_secret": self._secret,
                "admin_token": self._admin_token,
                "pids": {name: child.pid for name, child in children.items() if child is not None},
            }
        )

    def _last_port(self, name: str) -> int | None:
        """Return the port of the last run if it is free, so that saved addresses stay valid."""
        port = self._state.ports.get(name)
        return port if port is not None and is_free(port) else None

    def _endpoints(self) -> Endpoints:
        projector = self._projector.pid if self._projector else 0
        return Endpoints(self.api_url, self._nats.url, self._postgres.url, self.folder.root, projector)

    def _demo_user(self) -> DemoUser | None:
        if self._state.demo != "published":
            return None
        from ops.devstack.demo import DEMO_CUSTOMER, DEMO_OWNER  # noqa: PLC0415 - meaningless without the demo

        sample = self.folder.sample_event if self.folder.sample_event.exists() else None
        return DemoUser(sign(self._secret, DEMO_OWNER, admin=False, ttl_s=TOKEN_TTL_S), DEMO_CUSTOMER, sample)


def _api_port(requested: int, last: int | None) -> int:
    """Return the API's port; raise `DevRefused` if it is taken."""
    if requested == 0:
        return last if last is not None and is_free(last) else free_port()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", requested))
        except OSError as problem:
            raise DevRefused(
                f"Port {requested} cannot be used: {problem.strerror}. "
                "Choose another with --port; --port 0 takes any free one."
            ) from problem
    return requested
