"""Makes a server silent: its connections stay open but get no answer, as with a stalled machine or network."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ops.devstack.servers.postgres import PostgresServer


def processes_of(server: PostgresServer) -> list[int]:
    """Return the pids of PostgreSQL's main process and of all its children."""
    assert server.pid is not None
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text(encoding="ascii").split()
    return [server.pid, *map(int, children)]


@contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """Suspend processes without ending them: their connections stay open but get no answer."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
