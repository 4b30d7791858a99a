"""`membership dev` as its user meets it: one command that starts everything, keeps it running, and leaves nothing."""

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
import nats
import pytest

from tests.support.builders import customer_id, published
from tests.support.processes import DEADLINE_S, eventually

KEYS = {"api_url", "nats_url", "database_url", "jwt_secret", "admin_token", "pids"}
CHILDREN = ("api", "projector", "nats", "postgres")


class Dev:
    """One data directory and the `membership dev` that runs on it, if one does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self, *options: str) -> subprocess.Popen[bytes]:
        """Start `membership dev`; what it says goes to a file."""
        words = ["dev", "--port", "0", "--no-demo", "--data-dir", str(self.folder), *options]
        with self._said.open("ab") as log:
            return subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "ops", *words], stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
            )

    async def start(self) -> None:
        """Start and wait until dev.json appears."""
        self.process = self.launch()
        await eventually(self.stack, "dev.json appears")

    async def signal(self, number: int) -> int:
        """Send dev a signal and return its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return await asyncio.to_thread(self.process.wait, DEADLINE_S)

    @property
    def said(self) -> str:
        """What dev has printed."""
        return self._said.read_text(encoding="utf-8")

    @property
    def _said(self) -> Path:
        return self.folder.with_suffix(".said")

    def stack(self) -> dict[str, Any] | None:
        """Return what dev.json says; None while there is none."""
        assert self.process is None or self.process.poll() is None, self.said
        try:
            found: dict[str, Any] = json.loads((self.folder / "dev.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return found

    def now(self) -> dict[str, Any]:
        """Return what dev.json says; there must be one."""
        found = self.stack()
        assert found is not None
        return found

    async def kill(self, name: str) -> None:
        """Kill a child; wait until dev.json names a living successor."""
        before = self.now()["pids"]
        os.kill(before[name], signal.SIGKILL)
        await eventually(lambda: self.now()["pids"][name] != before[name], f"dev.json names another {name}")
        await eventually(lambda: all(map(_lives, self.now()["pids"].values())), "dev.json names living processes only")

    async def publish(self, number: int) -> int:
        """Publish an event, as any producer would; return its position."""
        client = await nats.connect(self.now()["nats_url"])
        try:
            receipt = await client.jetstream().publish(*published("customer.upserted.v1", 1, customer=number))
        finally:
            await client.close()
        return receipt.seq

    async def sees(self, number: int, position: int) -> None:
        """Assert that the API tells an admin about a customer once it has applied `position`."""
        headers = {"Authorization": f"Bearer {self.now()['admin_token']}"}
        async with httpx.AsyncClient(base_url=self.now()["api_url"], headers=headers) as client:
            await eventually(lambda: _applied(client, position), f"position {position} is applied")
            reply = await client.get(f"/customers/{customer_id(number)}/campaigns")
        assert reply.status_code == httpx.codes.OK, reply.text

    def nothing_runs(self) -> bool:
        """Whether no process of this stack lives: every one of them, backends included, holds one of the locks."""
        return all(_can_lock(self.folder / name) for name in ("dev.lock", "stack.lock"))


@pytest.fixture
async def dev(tmp_path: Path) -> AsyncIterator[Dev]:
    """A running `membership dev` that a test may break."""
    async with _running(tmp_path / "a data directory") as dev:
        yield dev


@pytest.fixture(scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Dev]:
    """One for all tests that only look."""
    async with _running(tmp_path_factory.mktemp("dev") / "data") as dev:
        yield dev


@asynccontextmanager
async def _running(folder: Path) -> AsyncIterator[Dev]:
    dev = Dev(folder)
    await dev.start()
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


def _lives(pid: int) -> bool:
    """Whether a process runs; one that ended and was not yet reaped by its parent does not."""
    try:
        os.kill(pid, 0)
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return sys.platform != "linux"


async def test_dev_json_tells_other_programs_all_they_need(shared: Dev) -> None:
    stack = shared.now()
    assert stack.keys() == KEYS
    assert tuple(stack["pids"]) == CHILDREN
    assert all(map(_lives, stack["pids"].values()))
    assert len(stack["jwt_secret"]) >= 32
    for secret in ("dev.json", "jwt_secret", "postgres/password"):
        assert stat.S_IMODE((shared.folder / secret).stat().st_mode) == 0o600, secret
    connection = await asyncpg.connect(stack["database_url"])
    await connection.close()
    await shared.sees(1, await shared.publish(1))


async def test_everything_it_says_can_be_copied(shared: Dev) -> None:
    stack = shared.now()
    await eventually(lambda: "Ctrl-C stops everything" in shared.said, "the welcome is printed")
    lines = shared.said.splitlines()
    assert stack["admin_token"] in lines
    assert f"curl -s '{stack['api_url']}/health/ready'" in lines
    assert all(any(line.endswith(stack[name]) for line in lines) for name in ("api_url", "nats_url", "database_url"))
    assert "\x1b" not in shared.said


async def test_whatever_is_killed_comes_back_and_dev_json_stays_true(dev: Dev) -> None:
    address = {name: value for name, value in dev.now().items() if name.endswith("_url")}
    for number, name in enumerate(("projector", "api", "nats", "postgres"), start=1):
        await dev.kill(name)
        await dev.sees(number, await dev.publish(number))
    assert {name: value for name, value in dev.now().items() if name.endswith("_url")} == address
    assert all(f"{name} ended with code -9 (SIGKILL); starting it again." in dev.said for name in ("projector", "api"))


async def test_a_second_start_is_refused_and_disturbs_nothing(shared: Dev) -> None:
    assert shared.process is not None
    second = shared.launch()
    assert await asyncio.to_thread(second.wait, DEADLINE_S) == 1
    assert f"already running on {shared.folder}, pid {shared.process.pid}; dev.json in there says where." in shared.said
    await shared.sees(1, await shared.publish(1))


async def test_a_taken_port_is_named_with_the_way_out(tmp_path: Path) -> None:
    dev = Dev(tmp_path / "data")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = dev.launch("--port", str(port))
        assert await asyncio.to_thread(refused.wait, DEADLINE_S) == 1
    assert f"Port {port} cannot be used: Address already in use. Choose another with --port" in dev.said
    assert dev.nothing_runs()


async def test_ctrl_c_stops_all_of_it_and_the_next_start_finds_its_data(dev: Dev) -> None:
    position = await dev.publish(1)
    await dev.sees(1, position)
    before = dev.now()
    assert await dev.signal(signal.SIGINT) == 0
    assert dev.nothing_runs()
    assert not (dev.folder / "dev.json").exists()
    await dev.start()
    for same in ("api_url", "nats_url", "database_url", "jwt_secret"):
        assert dev.now()[same] == before[same]
    await dev.sees(1, position)


async def test_killed_itself_it_leaves_no_process_and_the_next_start_works(dev: Dev) -> None:
    position = await dev.publish(1)
    assert await dev.signal(signal.SIGKILL) == -signal.SIGKILL
    dev.process = None
    await eventually(dev.nothing_runs, "all children die with it")
    (dev.folder / "dev.json").unlink()
    await dev.start()
    await dev.sees(1, position)


async def test_asked_to_stop_in_the_middle_of_its_first_start_it_leaves_nothing(tmp_path: Path) -> None:
    dev = Dev(tmp_path / "data")
    dev.process = dev.launch()
    await eventually((dev.folder / "postgres" / "cluster.unfinished").exists, "the first start is under way")
    assert await dev.signal(signal.SIGHUP) == 0
    assert dev.nothing_runs()
    await dev.start()
    assert await dev.signal(signal.SIGINT) == 0
    assert dev.nothing_runs()
