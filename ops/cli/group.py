"""The `membership` command group: shared options, how a subcommand runs, and its exit code.

Exit codes: 0 done; 1 failed, with a sentence that gives the reason; 2 wrong usage or settings.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from importlib.metadata import version
from typing import Any, NoReturn, get_args
from unicodedata import category

import asyncpg
import rich_click as click
import structlog
import uvloop

from ops.terminal import fail
from projections.error_text import error_text
from projections.errors import MembershipError, SettingsInvalid
from projections.settings import Settings, database_location, worker_count

click.rich_click.TEXT_MARKUP = "rich"
click.rich_click.COMMAND_GROUPS = {
    "membership": [
        {"name": "Try it", "commands": ["dev", "publish", "events", "token"]},
        {"name": "Processes", "commands": ["serve", "project", "migrate"]},
        {
            "name": "Operate",
            "commands": [
                "status",
                "explain",
                "parked",
                "verify",
                "repair",
                "rebuild",
                "rollback",
                "jobs",
                "audit",
                "correct",
                "acknowledge-missing",
                "backup",
                "restore",
            ],
        },
        {"name": "Access and privacy", "commands": ["api-key", "owner-id", "erase"]},
    ]
}
COMMAND_SILENCE_MAX = "60s"
"""How long a suspended command (Ctrl-Z) may keep a transaction open; the projector may be waiting for its locks."""
INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells report SIGINT."""


class Rate(click.ParamType[int]):
    """Events per second."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401
        try:
            rate = int(value)
        except ValueError:
            rate = 0
        if rate < 1:
            self.fail(f"{value!r} is not a rate; give a whole number of events per second, 1 or more.", param, ctx)
        return rate


class ParkingReason(click.ParamType[str]):
    """A parking reason; a misspelt one would match nothing, as if no event were parked."""

    name = "reason"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ANN401
        from projections.model.events import Reason  # noqa: PLC0415 - only this option needs the contract

        if value not in get_args(Reason):
            self.fail(f"{value!r} is not a parking reason; allowed: {', '.join(get_args(Reason))}.", param, ctx)
        return str(value)


class Text(click.ParamType[str]):
    """A text that PostgreSQL can store."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ANN401
        text = str(value)
        if any(category(char) in {"Cc", "Cs"} for char in text):  # control characters, and bytes that are not UTF-8
            self.fail("it must be UTF-8 without control characters.", param, ctx)
        return text


class StreamPosition(click.IntRange):
    """A stream position, an int64."""

    name = "position"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        if not str(value).removeprefix("-").isdecimal():
            self.fail(
                f"{value!r} is not a position; give a whole number, as `membership parked list` shows it.", param, ctx
            )
        return super().convert(value, param, ctx)


class WorkerCount(click.ParamType[int]):
    """A number of worker processes."""

    name = "workers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401
        try:
            return worker_count(str(value))
        except ValueError as problem:
            self.fail(f"{value!r} {problem}.", param, ctx)


POSITION = StreamPosition(1, 2**63 - 1)
USER = click.option("--user", "user_id", required=True, type=click.UUID, help="The user's id, a UUID.")
ADMIN = click.option("--admin", "is_admin", is_flag=True, help="See every customer and campaign.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output, for machines.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("campaign-membership"), package_name="campaign-membership")
def cli() -> None:
    """Answer which campaigns a customer is in, and operate the service.

    Settings come from MEMBERSHIP_* environment variables. Start with `membership dev`.
    """
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # standard output is for results


def main() -> None:
    """Run the command; an expected failure prints a sentence and exits with a code, without a traceback."""
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


def run_command(work: Coroutine[Any, Any, int | None]) -> NoReturn:
    """Run a command's coroutine and exit with the code it returns."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(work) or 0)


async def with_database(url: str, work: Callable[[asyncpg.Connection], Awaitable[int | None]]) -> int | None:
    from projections.store import database  # noqa: PLC0415

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
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):
        return fail("The database is not migrated to this release. Run `membership migrate` first.")
    finally:
        await connection.close()


async def with_job(settings: Settings, kind: str, work: Coroutine[Any, Any, int]) -> int:
    """Run a job; after Ctrl-C the same command resumes it, if the job had begun."""
    from projections.store import database  # noqa: PLC0415

    url = settings.database_url
    try:
        return await work
    except database.UNAVAILABLE as problem:
        return fail(f"PostgreSQL cannot be used: {error_text(problem)} ({database_location(url)}).")
    except asyncio.CancelledError:
        from ops.jobs import stopped_sentence  # noqa: PLC0415

        return fail(await stopped_sentence(url, kind), INTERRUPTED)


async def until_stopped(work: Coroutine[Any, Any, None]) -> int:
    """Run until SIGTERM or SIGINT; an open transaction is rolled back, its batch is read again at the next start."""
    import signal  # noqa: PLC0415

    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, task.cancel)
    with suppress(asyncio.CancelledError):
        await task
    return 0
