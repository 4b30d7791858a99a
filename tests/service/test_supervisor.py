"""The supervisor of workers that start late, or not at all. The workers are small programs that speak its protocol."""

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.workers.listener import open_listeners
from service.workers.process import WorkerProcess
from service.workers.supervisor import Supervisor
from tests.support.processes import eventually

ENDED_WITHIN_S = 10.0
WORKER = f"""#!{sys.executable}
import os, pathlib, socket, sys, time

folder = pathlib.Path(sys.argv[0]).parent
channel = socket.socket(fileno=int(sys.argv[3]))
is_late = (folder / "late").exists()
if is_late:
    (folder / "late").unlink()
    while not (folder / "start").exists():
        if (folder / "end").exists():
            sys.exit(3)
        time.sleep(0.02)
channel.sendall(b'{{"type":"started"}}\\n{{"type":"ready"}}\\n')
for line in channel.makefile():
    if "measure" in line:
        channel.sendall(b'{{"type":"measured","metrics":[]}}\\n')
    while is_late and not (folder / "end").exists():
        time.sleep(0.02)
    if "retire" in line:
        break
"""
"""If the file `late` exists, the worker deletes it, and reports its start only once there is a file `start`."""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    program = tmp_path / "worker"
    program.write_text(WORKER)
    program.chmod(0o755)
    return program


@asynccontextmanager
async def supervised(program: Path, count: int) -> AsyncIterator[Supervisor]:
    listeners = open_listeners("127.0.0.1", 0, count)
    supervisor = Supervisor([str(program)], listeners, 0)
    running = asyncio.create_task(supervisor.run())
    try:
        yield supervisor
        assert not running.done(), "the supervisor ended"
    finally:
        supervisor._on_stop(signal.SIGTERM)
        await running
        _end(listeners)


def _end(listeners: list[socket.socket]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().remove_signal_handler(number)
    for listener in listeners:
        listener.close()


def in_slot(supervisor: Supervisor, slot: int) -> WorkerProcess:
    worker = supervisor._slots[slot]
    assert worker is not None
    return worker


def all_started(supervisor: Supervisor) -> bool:
    return all(worker is not None and worker.running and worker.started.is_set() for worker in supervisor._slots)


async def test_a_worker_that_cannot_be_started_again_leaves_the_others_running(program: Path) -> None:
    with capture_logs() as logs:
        async with supervised(program, 2) as supervisor:
            await eventually(lambda: all_started(supervisor), "both workers have started")
            ended, other = in_slot(supervisor, 0), in_slot(supervisor, 1)
            away = await asyncio.to_thread(program.rename, program.with_suffix(".away"))
            ended.signal(signal.SIGKILL)
            await eventually(lambda: "worker_not_started" in [log["event"] for log in logs], "the start has failed")
            supervisor._restart_requested.set()
            await eventually(lambda: "restart_aborted" in [log["event"] for log in logs], "the restart is given up")
            await asyncio.to_thread(away.rename, program)
            await eventually(lambda: all_started(supervisor), "the worker is replaced")
            assert in_slot(supervisor, 0) is not ended
            assert (in_slot(supervisor, 1), other.running) == (other, True)


async def test_a_first_worker_that_cannot_be_started_ends_the_supervisor(tmp_path: Path) -> None:
    listeners = open_listeners("127.0.0.1", 0, 1)
    async with asyncio.timeout(ENDED_WITHIN_S):
        assert await Supervisor([str(tmp_path / "none")], listeners, 0).run() == 1
    _end(listeners)


@pytest.mark.parametrize("sign", ["start", "end"])
async def test_a_worker_replaced_while_it_starts_does_not_come_back(program: Path, tmp_path: Path, sign: str) -> None:
    late_file = tmp_path / "late"
    late_file.touch()
    async with supervised(program, 1) as supervisor:
        await eventually(lambda: not late_file.exists(), "the first worker starts")
        late = in_slot(supervisor, 0)
        supervisor._restart_requested.set()
        await eventually(lambda: supervisor._slots[0] not in {None, late}, "it is replaced")
        successor = in_slot(supervisor, 0)
        (tmp_path / sign).touch()
        await eventually(lambda: late.started.is_set() or not late.running, "it has started late, or ended")
        assert in_slot(supervisor, 0) is successor
        (tmp_path / "end").touch()
        await eventually(lambda: supervisor._metrics.workers == {successor}, "it has ended")
        assert (in_slot(supervisor, 0), successor.running) == (successor, True)
