"""`membership status`: shows how far the read model is behind the stream, and any problem that needs an operator.

Reads: PostgreSQL and the stream; a value that one of them does not provide is unknown, never derived from the other.
"""

import asyncio
import json
import sys
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg
import msgspec
from rich.table import Table

from consumers import lag
from ops.jobs import job_fields
from ops.stream_access import read_stream, stream_sentence
from ops.terminal import console, fail, format_time
from projections.error_text import error_text
from projections.errors import MembershipError
from projections.maintenance.status import NO_LEADER, read_status, stuck_sentence
from projections.settings import Settings, database_location
from projections.store import database
from projections.store.checkpoint import Checkpoint
from projections.store.generations import GenerationStatus
from projections.store.migrations import require_migrated

WATCH_EVERY_S: Final = 2.0


class DatabaseUnavailable(MembershipError):
    """PostgreSQL cannot be queried, so there is no status to show."""

    code = "database_unavailable"

    def __init__(self, url: str, problem: BaseException) -> None:
        super().__init__(f"PostgreSQL cannot be used: {error_text(problem)} ({database_location(url)}).")


class Status(msgspec.Struct, frozen=True):
    """What `status --json` prints. Values of the stream are None when the broker does not answer."""

    generation: str
    position: int
    stream_position: int | None
    stream_first_position: int | None
    """The first position that the stream holds; above 1 once its beginning was erased or lost."""
    lag_events: int | None
    lag_s: float | None
    parked: int
    leader: bool
    """Whether a projector leads now."""
    missing_events: int | None
    """Positions of the stream without a message that neither an erasure nor an acknowledgement explains."""
    jobs: list[dict[str, Any]]
    """Running and interrupted jobs."""
    generations: list[dict[str, Any]]
    """All existing copies of the read model, the live one first."""
    fan_outs: int
    """Campaigns whose changed keys are not yet copied to all their memberships in the live generation."""
    stream_replicas: list[dict[str, Any]] | None = None
    """The servers that keep a copy of the stream, its leader first."""


async def show(settings: Settings, *, as_json: bool) -> int:
    """Print the status; return the exit code, 1 when something needs an operator."""
    status, problems = await gather(settings)
    if as_json:
        print(json.dumps(msgspec.to_builtins(status)))
    else:
        _print_table(status)
    return _exit_code(problems)


async def watch(settings: Settings, *, as_json: bool) -> None:
    """Print the status every `WATCH_EVERY_S` until cancelled; as plain lines unless standard output is a terminal."""
    as_table = sys.stdout.isatty() and not as_json
    while True:
        try:
            status, problems = await gather(settings)
        except MembershipError as problem:
            _exit_code([str(problem)])
        else:
            if as_table:
                console().clear()
                _print_table(status)
            else:
                print(json.dumps(msgspec.to_builtins(status)) if as_json else _line(status), flush=True)
            _exit_code(problems)
        await asyncio.sleep(WATCH_EVERY_S)


def _exit_code(problems: list[str]) -> int:
    """Print each problem on standard error; return 1 if there is one."""
    for problem in problems:
        fail(problem)
    return 1 if problems else 0


async def gather(settings: Settings) -> tuple[Status, list[str]]:
    """Return the status, and a sentence per problem that needs an operator; raise `DatabaseUnavailable`."""
    try:
        connection = await database.connect(settings.database_url, "membership-status")
        try:
            with database.closed_is_unavailable(connection):
                return await _gather(connection, settings)
        finally:
            await connection.close()
    except database.UNAVAILABLE as problem:
        raise DatabaseUnavailable(settings.database_url, problem) from None


async def _gather(connection: asyncpg.Connection, settings: Settings) -> tuple[Status, list[str]]:
    await require_migrated(connection)
    found = await read_status(connection)
    status = Status(
        generation=found.checkpoint.generation,
        position=found.checkpoint.position,
        stream_position=None,
        stream_first_position=None,
        lag_events=None,
        lag_s=None,
        parked=found.parked,
        leader=found.leader,
        missing_events=None,
        jobs=[job_fields(job) for job in found.jobs],
        generations=[_generation_fields(each) for each in found.generations],
        fan_outs=found.fan_outs,
    )
    status, problem = await _with_stream(connection, settings, status, found.checkpoint)
    problems = ("" if found.leader else NO_LEADER, stuck_sentence(found, status.lag_s), problem)
    return status, [sentence for sentence in problems if sentence]


def _generation_fields(generation: GenerationStatus) -> dict[str, Any]:
    until = generation.follows_until
    return msgspec.structs.asdict(generation) | {"follows_until": until and format_time(until)}


async def _with_stream(
    connection: asyncpg.Connection, settings: Settings, status: Status, checkpoint: Checkpoint
) -> tuple[Status, str]:
    """Return the status with the stream's values added, and a sentence if they need an operator."""
    measured, problem = await read_stream(
        settings, "membership-status", lambda client: lag.measure(client, connection, checkpoint)
    )
    if measured is None:
        return status, problem
    status = msgspec.structs.replace(
        status,
        stream_position=measured.last_position,
        stream_first_position=measured.first_position,
        lag_events=measured.events,
        lag_s=measured.seconds,
        missing_events=measured.missing,
        stream_replicas=measured.replication and msgspec.to_builtins(measured.replication.replicas),
    )
    return status, stream_sentence(measured, settings.stream_replicas)


_FIELDS: Final = (
    "generation",
    "position",
    "stream_position",
    "stream_first_position",
    "lag_events",
    "lag_s",
    "parked",
    "fan_outs",
    "leader",
    "missing_events",
)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "unknown" if value is None else str(value)


def _line(status: Status) -> str:
    """Return the status as one line of `name=value`, for a log."""
    fields = " ".join(f"{field}={_text(getattr(status, field))}" for field in _FIELDS)
    return f"{format_time(datetime.now(UTC))} {fields} jobs={len(status.jobs)}"


def _print_table(status: Status) -> None:
    table = Table(show_header=False, box=None)
    for field in _FIELDS:
        table.add_row(field, _text(getattr(status, field)))
    table.add_row("stream_replicas", "\n".join(map(_replica_line, status.stream_replicas or ())) or "unknown")
    table.add_row("jobs", "\n".join(map(_job_line, status.jobs)) or "none")
    table.add_row("generations", "\n".join(map(_generation_line, status.generations)))
    console().print(table)


def _job_line(job: dict[str, Any]) -> str:
    remaining = f", {job['eta_s']:,.0f} s left" if job["eta_s"] is not None else ""
    details = {"running": "", "refused": f", refused: {job['outcome']}"}
    state = details.get(job["state"], ", interrupted: run the same command to resume it")
    return f"{job['job_id']} {job['kind']}: {' '.join(filter(None, (job['phase'], job['progress'])))}{remaining}{state}"


def _replica_line(replica: dict[str, Any]) -> str:
    if replica["leader"]:
        return f"{replica['name']}: leads"
    if not replica["in_contact"]:
        return f"{replica['name']}: does not answer, {replica['lag']} behind when it last did"
    return f"{replica['name']}: current" if replica["current"] else f"{replica['name']}: {replica['lag']} behind"


def _generation_line(generation: dict[str, Any]) -> str:
    until = generation["follows_until"]
    ends = "" if until is None else f" until {until}" if until > format_time(datetime.now(UTC)) else ", being dropped"
    broken = ", broken" if generation["state"] == "broken" else ""
    state = f"live{broken}" if generation["live"] else f"{generation['state']}{ends}"
    return f"{generation['generation']}: {state}, at position {generation['position']}"
