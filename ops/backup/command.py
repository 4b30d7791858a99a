"""Runs `membership backup` and `membership restore`.

The stream is copied before the database: an erasure between the two is then recorded in the backup although its
messages are still in it, and the projector refuses the restored stream until the erasure is repeated.
Writes: the backup's folder, or an empty stream and an empty database.
"""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal

import asyncpg
import msgspec
from nats.errors import Error as NatsError

from consumers import snapshot, stream
from consumers.broker_access import BrokerAccess
from consumers.client import BrokerUnavailable, TolerantClient, connect_once
from consumers.snapshot import SnapshotHead
from ops.actor import actor
from ops.backup import control_tables, manifest
from ops.backup.manifest import DatabasePart, Manifest, StreamPart
from ops.terminal import fail, format_time, progress
from projections.errors import MembershipError, StreamRefused
from projections.maintenance import audit, jobs
from projections.maintenance.sentences import counted
from projections.settings import Settings
from projections.store import checkpoint as checkpoints
from projections.store.leader import projector_leads
from projections.store.migrations import require_migrated

Part = Literal["stream", "database"]
STREAM_FILE: Final = "stream.snapshot"
MEGABYTE: Final = 1_000_000


class BackupRefused(MembershipError):
    """A backup cannot be made here or now."""

    code = "backup_refused"


class RestoreRefused(MembershipError):
    """A backup is not restored, because what exists would be mixed with it."""

    code = "restore_refused"


# --- Backup ----------------------------------------------------------------------------------------------------------


async def backup(
    connection: asyncpg.Connection | None, settings: Settings, folder: Path, only: Part | None, *, as_json: bool
) -> int:
    """Write a backup into a new folder; return the exit code."""
    if connection is not None:
        await require_migrated(connection)
        await _require_no_erasure(connection)
    with _new_folder(folder) as unfinished:
        stream_part = None if only == "database" else await _back_up_stream(settings, unfinished)
        database_part = None if connection is None else await control_tables.copy_out(connection, unfinished)
        made = Manifest(
            manifest.FORMAT,
            version("campaign-membership"),
            format_time(datetime.now(UTC)),
            stream_part,
            database_part,
        )
        manifest.write(unfinished, made)
        # Read back from disk, so that a backup is never reported that could not be restored.
        await asyncio.to_thread(manifest.read, unfinished)
    _report(made, folder, "Backed up", as_json=as_json)
    return 0


async def _require_no_erasure(connection: asyncpg.Connection) -> None:
    if any(job.kind == "erase" for job in await jobs.unfinished(connection)):
        raise BackupRefused(
            "An erasure is running or was interrupted: the backup would hold half a customer. Finish it first: run the "
            "same `membership erase` again."
        )


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder that gets its final name only when it is complete."""
    if folder.exists():
        raise BackupRefused(f"{folder} exists. Name a new folder; a backup never replaces another one.")
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    try:
        unfinished.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        raise BackupRefused(f"{unfinished} is left from an interrupted backup. Delete it first.") from None
    try:
        yield unfinished
        unfinished.rename(folder)
        _sync(folder.parent)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def _back_up_stream(settings: Settings, folder: Path) -> StreamPart:
    async with _broker(settings) as client:
        # Also refuses a stream that may lose events. Afterwards, because the snapshot is not earlier than this state.
        before = await stream.fetch_state(client)
        async with snapshot.snapshot(client) as (head, chunks):
            if before is None:
                raise StreamRefused(f"Stream {stream.STREAM} was created a moment ago. Run the command again.")
            with progress() as bar, manifest.writing(folder, STREAM_FILE) as file:
                task = bar.add_task("stream", total=None)
                async for chunk in chunks:
                    file.write(chunk)
                    bar.update(task, description=f"stream {file.bytes / MEGABYTE:,.0f} MB")
        state = head.state
        return StreamPart(
            before.created,
            state["first_seq"],
            state["last_seq"],
            state["messages"],
            head.config,
            state,
            file.finished(STREAM_FILE),
        )


# --- Restore ---------------------------------------------------------------------------------------------------------


def check(folder: Path, *, as_json: bool) -> int:
    """Verify a backup without restoring it; return the exit code."""
    _report(manifest.read(folder), folder, "Unchanged:", as_json=as_json)
    return 0


async def restore(
    connection: asyncpg.Connection | None,
    settings: Settings,
    folder: Path,
    only: Part | None,
    replicas: int | None,
    *,
    as_json: bool,
) -> int:
    """Restore a backup into a broker without the stream and an empty database; return the exit code."""
    made = await asyncio.to_thread(manifest.read, folder)
    stream_part, database_part = _parts_to_restore(made, folder, only)
    if connection is not None:
        await require_migrated(connection)
        if await projector_leads(connection):
            raise RestoreRefused("A projector leads on this database. Stop all projectors first. Nothing was written.")
        if database_part is not None:
            await control_tables.require_empty(connection, database_part)
    if stream_part is not None:
        await _restore_stream(settings, folder, stream_part, replicas)
    if connection is not None and database_part is not None:
        await _restore_database(connection, folder, made, database_part)
    _report(made, folder, "Restored", as_json=as_json)
    if connection is not None and stream_part is not None:
        await _warn_of_refusal(connection, settings)
    return 0


def _parts_to_restore(made: Manifest, folder: Path, only: Part | None) -> tuple[StreamPart | None, DatabasePart | None]:
    for part in ("stream", "database"):
        if only in {part, None} and getattr(made, part) is None:
            raise RestoreRefused(f"The backup in {folder} has no {part}. Choose what to restore with --only.")
    return None if only == "database" else made.stream, None if only == "stream" else made.database


async def _restore_stream(settings: Settings, folder: Path, part: StreamPart, replicas: int | None) -> None:
    async with _broker(settings) as client:
        await _require_no_stream(client)
        config = part.config | ({"num_replicas": replicas} if replicas else {})
        head = SnapshotHead(_with_identity(config, part.created), part.state)
        with progress() as bar:
            task = bar.add_task("stream", total=part.file.bytes)

            def chunks() -> Iterator[bytes]:
                for chunk in manifest.chunks(folder / part.file.name, snapshot.RESTORE_CHUNK_BYTES):
                    yield chunk
                    bar.advance(task, len(chunk))

            await snapshot.restore(client, head, chunks())
        await _finish(client, part)


async def _finish(client: TolerantClient, part: StreamPart) -> None:
    """Release the restored stream to the projectors if it is the one in the backup."""
    state = await stream.fetch_restoring(client)
    found = state and (state.created, state.first_position, state.last_position, state.messages)
    if found != (part.created, part.first_position, part.last_position, part.messages):
        raise RestoreRefused(
            f"The restored stream is not the one in the backup: {found} instead of {part.created}, positions "
            f"{part.first_position} to {part.last_position}, {part.messages} messages. Stop the producers, then run "
            "the same command again: it starts from the beginning."
        )
    await stream.finish_restoring(client)


async def _require_no_stream(client: TolerantClient) -> None:
    """Delete a stream that never held a message, which a projector creates at its start, and what an interrupted
    restore left; refuse any other.
    """
    interrupted = await stream.fetch_restoring(client)
    state = interrupted or await stream.fetch_state(client)
    if state is None:
        return
    if state.last_position and interrupted is None:
        raise RestoreRefused(
            f"The broker has a stream {stream.STREAM} with positions up to {state.last_position}. A backup is restored "
            "only into a broker without it. Nothing was written."
        )
    await snapshot.delete(client)


def _with_identity(config: dict[str, Any], created: str) -> dict[str, Any]:
    """Return the configuration with the stream's identity in its metadata, without what the server itself sets."""
    metadata = config.get("metadata") or {}
    own = {name: value for name, value in metadata.items() if not name.startswith(stream.SERVER_KEYS)}
    return config | {
        "metadata": own | {stream.CREATED_KEY: created, stream.RESTORING_KEY: format_time(datetime.now(UTC))}
    }


async def _restore_database(connection: asyncpg.Connection, folder: Path, made: Manifest, part: DatabasePart) -> None:
    async with connection.transaction():
        rows = await control_tables.copy_in(connection, folder, part)
        detail = f"{counted(rows, 'row')} of the backup made at {made.made_at}"
        await audit.record(connection, actor(), "restore", detail)


async def _warn_of_refusal(connection: asyncpg.Connection, settings: Settings) -> None:
    """Say at once if the projector will refuse the restored stream for this database."""
    live = await checkpoints.read(connection, await checkpoints.live_generation(connection))
    async with _broker(settings) as client:
        try:
            await stream.identify(client, live)
        except StreamRefused as refused:
            fail(f"The projector will refuse the restored stream for this database: {refused}")


# --- Both ------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _broker(settings: Settings) -> AsyncIterator[TolerantClient]:
    access = BrokerAccess.of(settings)
    try:
        client = await connect_once(access, "membership-backup")
        try:
            yield client
        finally:
            await client.close()
    except (NatsError, OSError) as problem:
        if isinstance(problem, OSError) and problem.filename is not None:
            raise  # a file of the backup
        raise BrokerUnavailable(problem, access, "Run the command again once it works.") from None


def _report(made: Manifest, folder: Path, verb: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(msgspec.to_builtins(made)))
        return
    if made.stream:
        part = made.stream
        print(
            f"{verb} stream {stream.STREAM}, created {part.created}: {counted(part.messages, 'message')} up to "
            f"position {part.last_position}, {part.file.bytes / MEGABYTE:,.1f} MB."
        )
    if made.database:
        rows = ", ".join(f"{table.rows} {table.table}" for table in made.database.tables)
        print(f"{verb} control tables: {rows}.")
    print(f"Backup {folder}, made at {made.made_at} by release {made.release}.")
