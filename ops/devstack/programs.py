"""The project's own processes as children: projector, API, job runner, and commands that end by themselves."""

import http.client
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final

from ops.devstack.servers.child import ChildProcess, launch, until_ended
from projections.settings import VARIABLES, load

ANSWER_S: Final = 2.0
OWN_VARIABLES: Final = (
    "MEMBERSHIP_DATABASE_URL",
    "MEMBERSHIP_NATS_",
    "MEMBERSHIP_JW",
    "MEMBERSHIP_HTTP_",
    "MEMBERSHIP_PROJECTOR_HTTP_",
)
"""Prefixes of the variables that the dev stack sets; they cover `_FILE` forms, certificates, issuer and key sets."""


class Program(ChildProcess):
    """`membership <role>`, which runs until it is stopped."""

    role: ClassVar[str]

    def __init__(self, log: Path, environment: Mapping[str, str], descriptors: Sequence[int]) -> None:
        super().__init__(log, descriptors)
        self._environment = environment

    def _prepare(self) -> Iterator[float]:
        yield from ()

    def _launch(self, descriptors: Sequence[int]) -> subprocess.Popen[bytes]:
        return launch(_command(self.role), self.log, environment=self._environment, descriptors=descriptors)


class Projector(Program):
    """The projector: ready when it serves its health, because it waits for its dependencies itself."""

    name: ClassVar[str] = "projector"
    role: ClassVar[str] = "project"
    transient_errors: ClassVar[Sequence[str]] = ("address already in use",)

    def _ready(self) -> bool:
        port = self._environment.get("MEMBERSHIP_PROJECTOR_HTTP_PORT")
        response = http_get(int(port), "/health/live") if port else (http.client.OK, b"")
        return self.running and response is not None and response[0] == http.client.OK


class Api(Program):
    """The API: ready when `/health/live` answers, whatever the state of the read model."""

    name: ClassVar[str] = "api"
    role: ClassVar[str] = "serve"
    transient_errors: ClassVar[Sequence[str]] = ("address already in use",)

    def _ready(self) -> bool:
        response = http_get(int(self._environment["MEMBERSHIP_HTTP_PORT"]), "/health/live")
        return self.running and response is not None and response[0] == http.client.OK


class JobRunner(Program):
    """The process that executes what operators start at the console; the stack is ready without it."""

    name: ClassVar[str] = "jobs"
    role: ClassVar[str] = "jobs run"

    def _ready(self) -> bool:
        return self.running


def run_command(role: str, log: Path, environment: Mapping[str, str], descriptors: Sequence[int]) -> Iterator[float]:
    """Run `membership <role>` to its end, in steps; raise `EmbeddedFailed` with the end of its log if it fails."""
    process = launch(_command(role), log, environment=environment, descriptors=descriptors)
    yield from until_ended(process, f"`membership {role}`", log)


def child_environment(
    database_url: str, nats_url: str, jwt_secret: str, port: int, projector_port: int | None = None
) -> dict[str, str]:
    """Return this process's environment with the dev stack's settings in place of any the user had set."""
    projector = {} if projector_port is None else {"MEMBERSHIP_PROJECTOR_HTTP_PORT": str(projector_port)}
    return {name: value for name, value in os.environ.items() if not name.startswith(OWN_VARIABLES)} | {
        "MEMBERSHIP_DATABASE_URL": database_url,
        "MEMBERSHIP_NATS_URL": nats_url,
        "MEMBERSHIP_JWT_SECRET": jwt_secret,
        "MEMBERSHIP_HTTP_HOST": "127.0.0.1",
        "MEMBERSHIP_HTTP_PORT": str(port),
        **projector,
        # Stop at once: no load balancer has to move its requests away first.
        "MEMBERSHIP_DRAIN_S": "0",
        # Unbuffered, so that the log of a process that has just died has its last lines.
        "PYTHONUNBUFFERED": "1",
    }


def check_environment() -> None:
    """Raise `SettingsInvalid` for settings the children would refuse, before anything is started."""
    replaced = {name for name in VARIABLES if name.startswith(OWN_VARIABLES)}
    load(set(), {name: value for name, value in os.environ.items() if name not in replaced})


def http_get(port: int, path: str) -> tuple[int, bytes] | None:
    """Return the status and body of a GET, or None without a response. Blocks; never uses a proxy."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _command(role: str) -> Sequence[str]:
    return (sys.executable, "-m", "ops", *role.split())
