"""`membership status`: how far the read model is behind the stream, asked of both, never guessed from one."""

import json
import time
from datetime import UTC, datetime
from typing import Any

import msgspec
from nats.aio.client import Client
from nats.errors import Error as NatsError
from rich.table import Table

from consumers import stream
from consumers.client import connect_briefly
from ops.jobs import described
from ops.terminal import console, fail, stamp
from projections import checkpoint as checkpoints
from projections import database, fan_out, generations, jobs
from projections.checkpoint import Checkpoint
from projections.error_text import error_text
from projections.errors import MembershipError, StreamRefused
from projections.migrations import require_migrated
from projections.queries import for_generation
from projections.settings import Settings, database_location


class DatabaseUnavailable(MembershipError):
    """PostgreSQL cannot be asked, so there is no status to show."""

    code = "database_unavailable"

    def __init__(self, url: str, problem: BaseException) -> None:
        super().__init__(f"PostgreSQL cannot be used: {error_text(problem)} ({database_location(url)}).")


class Status(msgspec.Struct, frozen=True):
    """What `status --json` prints. `stream_position` and the lags are None when the broker cannot be asked."""

    generation: str
    position: int
    stream_position: int | None
    lag_events: int | None
    lag_s: float | None
    parked: int
    jobs: list[dict[str, Any]]
    """Those under way and those that wait to be resumed."""
    generations: list[dict[str, Any]]
    """All copies of the read model that are there, the live one first."""
    fan_outs: int
    """Campaigns whose changed keys are not yet copied to all their memberships in the live one."""


async def show(settings: Settings, *, as_json: bool) -> int:
    """Print the status; return the exit code, 1 when the broker did not answer."""
    status, trouble = await gather(settings)
    if as_json:
        print(json.dumps(msgspec.to_builtins(status)))
    else:
        _print_table(status)
    return 0 if trouble is None else fail(trouble)


async def gather(settings: Settings) -> tuple[Status, str | None]:
    """Return the status, and why the broker's part is missing if it is."""
    try:
        connection = await database.connect(settings.database_url, "membership-status")
    except database.UNAVAILABLE as problem:
        raise DatabaseUnavailable(settings.database_url, problem) from None
    try:
        await require_migrated(connection)
        name = await checkpoints.live_generation(connection)
        checkpoint = await checkpoints.read(connection, name)
        parked = await connection.fetchval(for_generation("SELECT count(*) FROM {generation}.parked_event", name))
        fan_outs = await fan_out.count(connection, name)
        running = await jobs.is_running(connection)
        under_way = [described(job, running=running) for job in await jobs.unfinished(connection)]
        standings = [
            msgspec.structs.asdict(each) | {"follows_until": each.follows_until and stamp(each.follows_until)}
            for each in await generations.standings(connection)
        ]
    finally:
        await connection.close()
    known = Status(name, checkpoint.position, None, None, None, parked, under_way, standings, fan_outs)
    return await _with_stream(settings, known, checkpoint)


async def _with_stream(settings: Settings, known: Status, checkpoint: Checkpoint) -> tuple[Status, str | None]:
    try:
        client = await connect_briefly(settings.nats_url, "membership-status")
        try:
            state = await stream.identify(client, checkpoint)
            last = 0 if state is None else state.last_position
            lag_events = max(0, last - known.position)
            lag_s = await _lag_s(client, known.position) if lag_events else 0.0
        finally:
            await client.close()
    except StreamRefused as refused:
        return known, str(refused)
    except (NatsError, OSError, MembershipError) as problem:  # nats-py's timeout is an OSError too
        return known, f"The broker cannot be asked: {error_text(problem)}."
    return msgspec.structs.replace(known, stream_position=last, lag_events=lag_events, lag_s=lag_s), None


async def _lag_s(client: Client, position: int) -> float:
    """Return how long ago the first message that is not applied yet was stored."""
    stored_ns = await stream.next_message_time_ns(client, position)
    return 0.0 if stored_ns is None else round(max(0.0, time.time() - stored_ns / 1e9), 3)


def _print_table(status: Status) -> None:
    table = Table(show_header=False, box=None)
    for field in ("generation", "position", "stream_position", "lag_events", "lag_s", "parked", "fan_outs"):
        value = getattr(status, field)
        table.add_row(field, "unknown" if value is None else str(value))
    table.add_row("jobs", "\n".join(map(_job_line, status.jobs)) or "none")
    table.add_row("generations", "\n".join(map(_generation_line, status.generations)))
    console().print(table)


def _job_line(job: dict[str, Any]) -> str:
    left = f", {job['eta_s']:,.0f} s left" if job["eta_s"] is not None else ""
    further = {"running": "", "refused": f", refused: {job['outcome']}"}
    state = further.get(job["state"], ", interrupted: the same command goes on with it")
    return f"{job['job_id']} {job['kind']}: {' '.join(filter(None, (job['phase'], job['progress'])))}{left}{state}"


def _generation_line(standing: dict[str, Any]) -> str:
    until = standing["follows_until"]
    ends = "" if until is None else f" until {until}" if until > stamp(datetime.now(UTC)) else ", being dropped"
    broken = ", broken" if standing["state"] == "broken" else ""
    state = f"live{broken}" if standing["live"] else f"{standing['state']}{ends}"
    return f"{standing['generation']}: {state}, at position {standing['position']}"
