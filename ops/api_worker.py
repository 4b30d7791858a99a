"""The entry of a worker process of `membership serve`: its supervisor runs `python -m ops.api_worker`.

A program of its own rather than a fork of the supervisor, so that a rolling restart runs the code and reads the secret
files as they are at that moment.
"""

import asyncio
import ctypes
import os
import signal
import sys
from typing import Final

import uvloop

from ops.environment import process_settings
from ops.logs import configure
from ops.terminal import fail
from projections.errors import MembershipError, SettingsInvalid
from projections.settings import IDENTITY

COMMAND: Final = (sys.executable, "-P", "-m", "ops.api_worker")
"""Starts a worker; its arguments are the supervisor's process id, the listening socket and the socket to the
supervisor. `-P`: modules in the current directory are not ours."""
PR_SET_PDEATHSIG: Final = 1
"""From linux/prctl.h."""


def main(supervisor: int, listener: int, channel: int) -> None:
    """Run a worker until its supervisor stops it."""
    _end_with(supervisor)
    settings = process_settings("database_url", IDENTITY)
    from consumers.broker_access import BrokerAccess  # noqa: PLC0415 - as the next line
    from consumers.subject_reader import SubjectReader  # noqa: PLC0415 - settings are checked before it is imported
    from service.access_log import add_trace_id  # noqa: PLC0415 - the same
    from service.problems import add_request_id  # noqa: PLC0415 - the same
    from service.server import serve  # noqa: PLC0415 - the same

    configure(settings, add_request_id, add_trace_id)

    # Only histories are read from the stream, so the API also runs without a broker.
    reader = SubjectReader(BrokerAccess.of(settings), "membership-api") if settings.nats_url else None
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, listener, channel, reader))


def _end_with(supervisor: int) -> None:
    """Let Linux kill this process when the supervisor is killed: nothing else may keep the listening socket open.

    Elsewhere, the worker notices that its socket to the supervisor was closed.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:  # it ended before the line above
        sys.exit(1)


if __name__ == "__main__":
    try:
        main(*map(int, sys.argv[1:]))
    except SettingsInvalid as problem:
        sys.exit(fail(str(problem), 2))
    except MembershipError as problem:
        sys.exit(fail(str(problem)))
