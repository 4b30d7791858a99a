"""The files of a backup and the manifest that describes them, so that a damaged backup is refused before it is used.

Writes: the backup's folder, readable by its owner only: it holds personal data and hashes of API keys.
Invariants: a folder is a complete backup if it has a manifest; every file's size and SHA-256 are in the manifest, and
the manifest ends with its own SHA-256. Fails: `BackupDamaged`.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import msgspec
from msgspec import Struct

from projections.error_text import error_text
from projections.errors import MembershipError

NAME: Final = "manifest.json"
FORMAT: Final = 1
READ_BYTES: Final = 128 * 1024
"""How much of a file is read at a time to verify it."""
MANIFEST_BYTES_MAX: Final = 1024 * 1024


class BackupDamaged(MembershipError):
    """A backup is incomplete, altered, or made by another format."""

    code = "backup_damaged"

    def __init__(self, folder: Path, problem: str) -> None:
        super().__init__(f"The backup in {folder} cannot be used: {problem}. Nothing was written.")


class BackupFile(Struct, frozen=True):
    """A file of a backup."""

    name: str
    bytes: int
    sha256: str


class StreamPart(Struct, frozen=True):
    """The stream at the moment of its snapshot."""

    created: str
    first_position: int
    last_position: int
    messages: int
    config: dict[str, Any]
    state: dict[str, Any]
    file: BackupFile


class TablePart(Struct, frozen=True):
    """The rows of one control table, as CSV."""

    table: str
    columns: tuple[str, ...]
    rows: int
    file: BackupFile


class DatabasePart(Struct, frozen=True):
    """The control tables, read in one transaction."""

    migrations: tuple[str, ...]
    tables: tuple[TablePart, ...]


class Manifest(Struct, frozen=True):
    """What a backup consists of."""

    format: int
    release: str
    made_at: str
    stream: StreamPart | None
    database: DatabasePart | None

    @property
    def files(self) -> list[BackupFile]:
        """All files of the backup."""
        stream = [self.stream.file] if self.stream else []
        return stream + [table.file for table in (self.database.tables if self.database else ())]


class HashedFile:
    """A file being written, hashed on the way."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.bytes = 0

    def write(self, chunk: bytes) -> None:
        """Append a chunk."""
        self._file.write(chunk)
        self._hash.update(chunk)
        self.bytes += len(chunk)

    def finished(self, name: str) -> BackupFile:
        """Return the file's entry in the manifest."""
        return BackupFile(name, self.bytes, self._hash.hexdigest())


@contextmanager
def writing(folder: Path, name: str) -> Iterator[HashedFile]:
    """Write a file that only its owner can read, and sync it to disk."""
    descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        yield HashedFile(file)
        file.flush()
        os.fsync(file.fileno())


def write(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, the last file of a backup."""
    body = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    with writing(folder, NAME) as file:
        file.write(body + b"\n" + hashlib.sha256(body).hexdigest().encode() + b"\n")


def read(folder: Path) -> Manifest:
    """Return the manifest of a backup whose every file is unchanged; raises `BackupDamaged`."""
    manifest = _read_manifest(folder)
    for file in manifest.files:
        _require_unchanged(folder, file)
    return manifest


def _read_manifest(folder: Path) -> Manifest:
    try:
        with (folder / NAME).open("rb") as file:
            raw = file.read(MANIFEST_BYTES_MAX)
    except OSError as problem:
        raise BackupDamaged(folder, f"its {NAME} cannot be read ({error_text(problem)})") from None
    body, _, digest = raw.rstrip(b"\n").rpartition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise BackupDamaged(folder, f"its {NAME} is truncated or was altered")
    version = msgspec.json.decode(body).get("format")
    if version != FORMAT:
        raise BackupDamaged(folder, f"it has format {version}, and this release reads format {FORMAT}")
    result = msgspec.json.decode(body, type=Manifest)
    for part in result.files:
        if Path(part.name).name != part.name:
            raise BackupDamaged(folder, f"its {NAME} names a file outside it, {part.name!r}")
    return result


def _require_unchanged(folder: Path, expected: BackupFile) -> None:
    found = hashlib.sha256()
    size = 0
    try:
        for chunk in chunks(folder / expected.name):
            found.update(chunk)
            size += len(chunk)
    except OSError as problem:
        raise BackupDamaged(folder, f"{expected.name} cannot be read ({error_text(problem)})") from None
    if size != expected.bytes:
        raise BackupDamaged(folder, f"{expected.name} has {size:,} bytes instead of {expected.bytes:,}")
    if found.hexdigest() != expected.sha256:
        raise BackupDamaged(folder, f"{expected.name} was altered: its SHA-256 differs")


def chunks(path: Path, chunk_bytes: int = READ_BYTES) -> Iterator[bytes]:
    """Yield a file's content in pieces."""
    with path.open("rb") as file:
        while chunk := file.read(chunk_bytes):
            yield chunk
