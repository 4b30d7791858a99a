"""`membership dev` end to end: it starts everything, keeps it running, and leaves no process behind."""

import asyncio
import fcntl
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from consumers.client import connect_once
from consumers.stream import fetch_state
from ops.publisher import Publication, publish_events
from tests.support.builders import customer_id, published
from tests.support.processes import DEADLINE_S, eventually

KEYS = {"api_url", "projector_url", "nats_url", "database_url", "jwt_secret", "admin_token", "pids"}
CHILDREN = ("api", "projector", "nats", "postgres")


class Dev:
    """A data directory and the `membership dev` process that runs on it, if any."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self, *options: str) -> subprocess.Popen[bytes]:
        """Start `membership dev` with its output in a file."""
        arguments = ["dev", "--port", "0", "--no-demo", "--data-dir", str(self.folder), *options]
        with self._output_file.open("ab") as log:
            return subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "ops", *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )

    async def start(self, *options: str) -> None:
        """Start and wait until dev.json appears."""
        self.process = self.launch(*options)
        await eventually(self.stack, "dev.json appears")

    async def signal(self, number: int) -> int:
        """Send dev a signal and return its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return await asyncio.to_thread(self.process.wait, DEADLINE_S)

    @property
    def output(self) -> str:
        """Everything dev has printed."""
        return self._output_file.read_text(encoding="utf-8")

    @property
    def _output_file(self) -> Path:
        return self.folder.with_suffix(".output")

    def stack(self) -> dict[str, Any] | None:
        """Return the content of dev.json; None while it does not exist."""
        assert self.process is None or self.process.poll() is None, self.output
        try:
            stack: dict[str, Any] = json.loads((self.folder / "dev.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return stack

    def running_stack(self) -> dict[str, Any]:
        """Return the content of dev.json, which must exist."""
        stack = self.stack()
        assert stack is not None
        return stack

    async def kill(self, name: str) -> None:
        """Kill a child; wait until dev.json names its running replacement."""
        before = self.running_stack()["pids"]
        os.kill(before[name], signal.SIGKILL)
        await eventually(lambda: self.running_stack()["pids"][name] != before[name], f"dev.json names another {name}")
        await eventually(
            lambda: all(map(_is_running, self.running_stack()["pids"].values())),
            "dev.json names running processes only",
        )

    async def publish(self, number: int) -> int:
        """Publish an event as a producer would; return its position."""
        subject, body = published("customer.upserted.v1", 1, customer=number)
        publication = Publication(subject, f"test-{number}", body)
        [receipt] = [receipt async for receipt in publish_events(self.running_stack()["nats_url"], [publication])]
        return receipt.position

    async def assert_visible(self, number: int, position: int) -> None:
        """Assert that an admin can read the customer once the API has applied `position`."""
        headers = {"Authorization": f"Bearer {self.running_stack()['admin_token']}"}
        async with httpx.AsyncClient(base_url=self.running_stack()["api_url"], headers=headers) as client:
            await eventually(lambda: _applied(client, position), f"position {position} is applied")
            reply = await client.get(f"/customers/{customer_id(number)}/campaigns")
        assert reply.status_code == httpx.codes.OK, reply.text

    def nothing_runs(self) -> bool:
        """Return whether no process of this stack runs: each one, backends included, holds one of the locks."""
        return all(_can_lock(self.folder / name) for name in ("dev.lock", "stack.lock"))


@pytest.fixture
async def dev(tmp_path: Path) -> AsyncIterator[Dev]:
    """A running `membership dev` that a test may break."""
    async with _running(tmp_path / "a data directory") as dev:
        yield dev


@pytest.fixture(scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Dev]:
    """One shared by all tests that do not break it."""
    async with _running(tmp_path_factory.mktemp("dev") / "data") as dev:
        yield dev


@asynccontextmanager
async def _running(folder: Path, *options: str) -> AsyncIterator[Dev]:
    dev = Dev(folder)
    await dev.start(*options)
    try:
        yield dev
    finally:
        if dev.process is not None and dev.process.poll() is None:
            assert await dev.signal(signal.SIGTERM) == 0
        await eventually(dev.nothing_runs, "nothing of the stack runs")


def _can_lock(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


async def _applied(client: httpx.AsyncClient, position: int) -> bool:
    try:
        reply = await client.get("/health/ready")
    except httpx.TransportError:
        return False
    return reply.status_code == httpx.codes.OK and reply.json()["position"] >= position


def _is_running(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        os.kill(pid, 0)
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return sys.platform != "linux"


async def _projector_leads(projector_url: str) -> bool:
    async with httpx.AsyncClient(base_url=projector_url) as client:
        try:
            reply = await client.get("/health")
        except httpx.TransportError:
            return False
    return bool(reply.status_code == httpx.codes.OK and reply.json()["role"] == "leader")


async def test_dev_json_has_everything_other_programs_need(shared: Dev) -> None:
    stack = shared.running_stack()
    assert stack.keys() == KEYS
    assert tuple(stack["pids"]) == CHILDREN
    assert all(map(_is_running, stack["pids"].values()))
    assert len(stack["jwt_secret"]) >= 32
    for secret in ("dev.json", "jwt_secret", "postgres/password"):
        assert stat.S_IMODE((shared.folder / secret).stat().st_mode) == 0o600, secret
    connection = await asyncpg.connect(stack["database_url"])
    await connection.close()
    await shared.assert_visible(1, await shared.publish(1))


async def test_three_nats_nodes_replicate_the_stream(tmp_path: Path) -> None:
    async with _running(tmp_path / "data", "--nats-nodes", "3") as dev:
        stack = dev.running_stack()
        assert tuple(stack["pids"]) == ("api", "projector", "nats", "nats-2", "nats-3", "postgres")
        assert stack["nats_url"].count("nats://") == 3
        await dev.assert_visible(1, await dev.publish(1))
        await dev.kill("nats")
        await dev.assert_visible(2, await dev.publish(2))
        client = await connect_once(stack["nats_url"], "test")
        state = await fetch_state(client)
        await client.close()
        assert state is not None
        assert (state.replication.wanted, state.replication.has_quorum) == (3, True)
        assert await dev.signal(signal.SIGTERM) == 0
        other = dev.launch("--nats-nodes", "1")
        assert await asyncio.to_thread(other.wait, DEADLINE_S) == 1
        assert "was made with 3 NATS nodes" in dev.output


async def test_tokens_addresses_and_commands_can_be_copied(shared: Dev) -> None:
    stack = shared.running_stack()
    await eventually(lambda: "Ctrl-C stops everything" in shared.output, "the banner is printed")
    lines = shared.output.splitlines()
    assert stack["admin_token"] in lines
    assert f"curl -s '{stack['api_url']}/health/ready'" in lines
    assert all(any(line.endswith(stack[name]) for line in lines) for name in ("api_url", "nats_url", "database_url"))
    assert "\x1b" not in shared.output


async def test_killed_children_are_restarted_and_dev_json_is_updated(dev: Dev) -> None:
    address = {name: value for name, value in dev.running_stack().items() if name.endswith("_url")}
    for number, name in enumerate(("projector", "api", "nats", "postgres"), start=1):
        await dev.kill(name)
        await dev.assert_visible(number, await dev.publish(number))
        await eventually(lambda: _projector_leads(dev.running_stack()["projector_url"]), "the projector is healthy")
    assert {name: value for name, value in dev.running_stack().items() if name.endswith("_url")} == address
    assert all(
        f"{name} ended with code -9 (SIGKILL); starting it again." in dev.output for name in ("projector", "api")
    )


async def test_a_second_start_is_refused_and_the_first_keeps_running(shared: Dev) -> None:
    assert shared.process is not None
    second = shared.launch()
    assert await asyncio.to_thread(second.wait, DEADLINE_S) == 1
    assert (
        f"already running on {shared.folder}, pid {shared.process.pid}; dev.json in that directory has" in shared.output
    )
    await shared.assert_visible(1, await shared.publish(1))


async def test_a_port_in_use_is_reported_with_the_option_to_change_it(tmp_path: Path) -> None:
    dev = Dev(tmp_path / "data")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = dev.launch("--port", str(port))
        assert await asyncio.to_thread(refused.wait, DEADLINE_S) == 1
    assert f"Port {port} cannot be used: Address already in use. Choose another with --port" in dev.output
    assert dev.nothing_runs()


async def test_ctrl_c_stops_everything_and_the_next_start_has_its_data(dev: Dev) -> None:
    position = await dev.publish(1)
    await dev.assert_visible(1, position)
    before = dev.running_stack()
    assert await dev.signal(signal.SIGINT) == 0
    assert dev.nothing_runs()
    assert not (dev.folder / "dev.json").exists()
    await dev.start()
    for name in ("api_url", "nats_url", "database_url", "jwt_secret"):
        assert dev.running_stack()[name] == before[name]
    await dev.assert_visible(1, position)


async def test_a_killed_dev_leaves_no_process_and_the_next_start_works(dev: Dev) -> None:
    position = await dev.publish(1)
    assert await dev.signal(signal.SIGKILL) == -signal.SIGKILL
    dev.process = None
    await eventually(dev.nothing_runs, "all children have ended")
    (dev.folder / "dev.json").unlink()
    await dev.start()
    await dev.assert_visible(1, position)


async def test_a_signal_during_the_first_start_leaves_no_process(tmp_path: Path) -> None:
    dev = Dev(tmp_path / "data")
    dev.process = dev.launch()
    await eventually((dev.folder / "postgres" / "cluster.unfinished").exists, "the first start is under way")
    assert await dev.signal(signal.SIGHUP) == 0
    assert dev.nothing_runs()
    await dev.start()
    assert await dev.signal(signal.SIGINT) == 0
    assert dev.nothing_runs()
