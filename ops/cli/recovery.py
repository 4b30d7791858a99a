"""Subcommands about recovery: `backup` and `restore`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import rich_click as click

from ops.cli.group import JSON, cli, run_command, with_database
from ops.environment import operator_settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ONLY = click.option("--only", type=click.Choice(["stream", "database"]), help="Only this part of it.")


@cli.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@ONLY
@JSON
def backup(folder: Path, only: Any, as_json: bool) -> None:  # noqa: ANN401 - click's choice
    """Back up the stream and the control tables into a new DIR, while everything runs.

    The read model is not in it: a projector writes it again from the stream. The control tables hold what the stream
    does not: API keys, audit, discarded events, ended jobs and erasures. DIR holds personal data; store it encrypted.
    """
    from ops.backup.command import backup as run  # noqa: PLC0415

    _run(only, lambda connection, settings: run(connection, settings, folder, only, as_json=as_json))


@cli.command()
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@ONLY
@click.option("--replicas", type=click.IntRange(1, 5), help="Replicas of the restored stream, if not as before.")
@click.option("--check", is_flag=True, help="Only verify that the backup is complete and unchanged.")
@JSON
def restore(folder: Path, only: Any, replicas: int | None, check: bool, as_json: bool) -> None:  # noqa: ANN401
    """Restore the backup in DIR into a broker without the stream, and into an empty, migrated database.

    Positions are restored too. The backup is verified first, and nothing is written if
    it is damaged or the target is in use. Stop the projectors before; afterwards start them, and the read model is
    written again.
    """
    from ops.backup import command  # noqa: PLC0415

    if check:
        raise SystemExit(command.check(folder, as_json=as_json))
    _run(
        only,
        lambda connection, settings: command.restore(connection, settings, folder, only, replicas, as_json=as_json),
    )


def _run(only: str | None, work: "Callable[[asyncpg.Connection | None, Any], Awaitable[int]]") -> None:
    """Run with a database connection if there is one to use: the stream alone needs none."""
    if only == "stream":
        settings = operator_settings("nats_url", optional={"database_url"})
    else:
        settings = operator_settings(*(["database_url"] if only == "database" else ["database_url", "nats_url"]))
    if settings.database_url:
        run_command(with_database(settings.database_url, lambda connection: work(connection, settings)))
    run_command(work(None, settings))  # type: ignore[arg-type]  # a coroutine is awaitable
